"""The five-parameter law: derivatives against differences, allocation against a search."""

import numpy as np
import pytest
from laboratory import difference

from analysis.fitting.newton import huber, minimise, newton_step
from analysis.laws.base import Points, Prior, get_law
from analysis.laws.bowls import Bowl
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.choices import Choices
from analysis.laws.summed import Summed

THETA = CHINCHILLA.theta(np.array([1.8, 480.0, 2100.0, 0.35, 0.37]))
POINTS = Points.of([1e7, 1e8, 3e9, 7e10], [2e11, 2e9, 6e10, 1e12])


def test_formula_is_e_plus_two_power_laws():
    expected = 1.8 + 480 / np.exp(POINTS.log_params) ** 0.35
    expected = expected + 2100 / np.exp(POINTS.log_tokens) ** 0.37
    np.testing.assert_allclose(np.exp(CHINCHILLA.log_loss(THETA, POINTS)), expected, rtol=1e-12)


def test_gradient_matches_differences():
    expected = difference(lambda t: CHINCHILLA.log_loss(t, POINTS), THETA)
    np.testing.assert_allclose(CHINCHILLA.gradient(THETA, POINTS), expected, atol=1e-8)


def test_curvature_matches_differences_of_the_gradient():
    weights = np.array([[0.3, -1.0, 2.0, 0.7]])
    expected = difference(lambda t: weights[0] @ CHINCHILLA.gradient(t, POINTS), THETA)
    found = CHINCHILLA.derivatives(THETA[None], POINTS).curvature(weights)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_optimum_is_the_lowest_loss_on_the_budget():
    flops = 1e21
    log_params, log_tokens = CHINCHILLA.optimum(THETA, flops)
    assert 6 * np.exp(log_params + log_tokens) == pytest.approx(flops)
    around = float(log_params) + np.linspace(-1, 1, 20001)
    loss = CHINCHILLA.log_loss(THETA, Points(around, np.log(flops / 6) - around))
    assert around[loss.argmin()] == pytest.approx(float(log_params), abs=1e-3)


def test_gradients_of_the_optimum_match_differences():
    flops = 1e22

    def best_loss(theta: np.ndarray) -> float:
        n, d = CHINCHILLA.optimum(theta, flops)
        return CHINCHILLA.log_loss(theta, Points(np.atleast_1d(n), np.atleast_1d(d)))[0]

    of_params, of_loss = CHINCHILLA.optimum_gradient(THETA, flops)
    expected = difference(lambda t: CHINCHILLA.optimum(t, flops)[0], THETA)
    np.testing.assert_allclose(of_params, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(of_loss, difference(best_loss, THETA), rtol=1e-6, atol=1e-8)


def test_centred_coordinates_describe_the_same_law():
    shift = (18.0, 24.0)
    centred = np.linalg.solve(CHINCHILLA.centring(*shift), THETA)
    np.testing.assert_allclose(
        CHINCHILLA.log_loss(centred, POINTS.shifted(*shift)), CHINCHILLA.log_loss(THETA, POINTS)
    )


def test_scale_direction_multiplies_the_loss():
    doubled = THETA + np.log(2.0) * CHINCHILLA.scale_direction()
    np.testing.assert_allclose(
        CHINCHILLA.log_loss(doubled, POINTS),
        CHINCHILLA.log_loss(THETA, POINTS) + np.log(2.0),
    )


def test_unknown_law_names_the_known_ones():
    with pytest.raises(KeyError, match="chinchilla"):
        get_law("kaplan")


def test_response_derivatives_match_differences():
    rng = np.random.default_rng(0)
    basis = np.stack([np.ones(6), rng.normal(size=6), rng.normal(size=6)])
    prior = Prior(np.zeros(4), np.ones(4))
    moving = Choices(
        ("elbo", "maskgit"), np.array([0, 1, 1, 0, 0, 1]), basis, np.zeros(2), np.ones(3)
    )
    design = Summed(
        {
            "lr": Bowl(rng.normal(size=6), 0.0, basis, np.zeros(2), prior),
            "lr_schedule": Choices(
                ("wsd", "cosine", "constant"), np.array([0, 1, 2, 0, 1, 2]), basis[:1],
                np.zeros(0), np.ones(1),
            ),
            "objective": moving,
        },
        rows=6,
    )  # fmt: skip
    theta = np.array([-3.0, 0.4, -0.2, 0.1, 0.01, -0.02, 0.03, -0.01, 0.2])
    weights = rng.normal(size=(1, 6))
    found = design.derivatives(theta[None])
    value = difference(lambda t: design.derivatives(t[None]).value[0], theta)
    np.testing.assert_allclose(found.gradient[0].T, value, atol=1e-8)
    slope = difference(lambda t: design.derivatives(t[None]).gradient[0] @ weights[0], theta)
    np.testing.assert_allclose(found.curvature(weights)[0], slope, atol=1e-7)


def test_huber_is_quadratic_inside_and_linear_outside():
    loss, psi, inside = huber(np.array([-3.0, 0.5, 2.0]), 1.0)
    np.testing.assert_allclose(loss, [2.5, 0.125, 1.5])
    np.testing.assert_allclose(psi, [-1.0, 0.5, 1.0])
    np.testing.assert_allclose(inside, [0.0, 1.0, 0.0])


def test_minimise_holds_a_parameter_that_is_pushed_out_of_its_bounds():
    """Losses that rise with N push alpha down to its bound; the rest is still fitted."""
    points = Points(np.linspace(-2, 2, 12), np.tile([-1.0, 0.0, 1.0], 4))
    log_loss = np.log(3.0 + 0.05 * points.log_params + 0.3 * np.exp(-0.5 * points.log_tokens))
    bounds = CHINCHILLA.bounds(log_loss)
    found = minimise(
        lambda t: CHINCHILLA.derivatives(t, points),
        log_loss,
        CHINCHILLA.starts(points, log_loss),
        weights=np.ones((1, 12)),
        delta=1.0,
        bounds=bounds,
    )
    best = found.theta[found.objective.argmin()]
    assert found.converged.all()
    # Without N's term the rest of the law must come back.
    share = np.exp(best[1] - log_loss.mean())
    assert best[3] == bounds[0][3] or share < 1e-3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damping", [0.0, 1e-4, 1e9])
@pytest.mark.parametrize("flat", [0.0, 1e-320, 1e-200, 1e-12])
def test_a_direction_of_which_no_run_says_anything_leaves_steps_finite(damping, flat):
    hessian, metric = np.diag([1.0, flat])[None], np.diag([1.0, 0.0])[None]
    held = np.zeros((1, 2), dtype=bool)
    step, promise = newton_step(hessian, metric, np.array([[0.3, 0.1]]), np.array([damping]), held)
    assert np.isfinite(step).all()
    assert np.isfinite(promise).all()
    assert step[0, 0] < 0.0, "and what is known goes downhill"
