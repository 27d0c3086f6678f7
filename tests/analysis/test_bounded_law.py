"""The bounded law: formula, gradients, its limit, and what it expects of larger runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import difference

from analysis.calibration import cut
from analysis.fitting.fit import fit_law
from analysis.laws.base import Points, get_law

LAW = get_law("bounded")
POINTS = Points.of([2e7, 1e8, 1e9, 5e9], [3e9, 5e8, 4e10, 1e11])
FIVE = np.array([np.log(1.8), np.log(480.0), np.log(2100.0), 0.35, 0.37])
THETA = np.append(FIVE, np.log(3.5))
POOL = Path(__file__).parents[2] / "docs" / "results" / "live_pool" / "runs.csv"


def test_the_bounded_law_is_its_formula():
    n, d = np.exp(POINTS.log_params), np.exp(POINTS.log_tokens)
    power = 480.0 / n**0.35 + 2100.0 / d**0.37
    expected = 1.8 + 1.0 / (1.0 / power + 1.0 / 3.5)
    np.testing.assert_allclose(np.exp(LAW.log_loss(THETA, POINTS)), expected, rtol=1e-12)


def test_without_a_bound_the_law_is_chinchillas():
    unbounded = np.append(FIVE, 60.0)
    np.testing.assert_allclose(
        LAW.log_loss(unbounded, POINTS),
        get_law("chinchilla").log_loss(FIVE, POINTS),
        rtol=1e-13,
    )


def test_a_model_that_has_learnt_nothing_loses_no_more_than_the_bound():
    nothing = Points.of([1e-300, 1e10], [1e12, 1e-300])
    np.testing.assert_allclose(np.exp(LAW.log_loss(THETA, nothing)), 1.8 + 3.5, rtol=1e-12)


def test_gradients_match_differences():
    points = POINTS.shifted(np.log(5e8), np.log(1e10))
    theta = np.array([0.6, -0.5, 0.3, 0.35, 0.37, 0.2])
    expected = difference(lambda t: LAW.log_loss(t, points), theta)
    np.testing.assert_allclose(LAW.gradient(theta, points), expected, rtol=1e-6, atol=1e-9)


def test_its_optimum_has_the_lowest_loss_on_its_budget_and_the_right_gradients():
    log_params, log_tokens = LAW.optimum(THETA, 1e21)
    around = log_params + np.linspace(-0.5, 0.5, 41)
    loss = LAW.log_loss(THETA, Points(around, np.log(1e21 / 6) - around))
    assert log_params + log_tokens == pytest.approx(np.log(1e21 / 6))
    assert loss.argmin() == 20
    of_params, of_loss = LAW.optimum_gradient(THETA, 1e21)

    def lowest(theta):
        n, d = LAW.optimum(theta, 1e21)
        return LAW.log_loss(theta, Points(np.atleast_1d(n), np.atleast_1d(d)))[0]

    expected = np.ravel(difference(lambda t: LAW.optimum(t, 1e21)[0], THETA))
    np.testing.assert_allclose(of_params, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(of_loss, np.ravel(difference(lowest, THETA)), rtol=1e-5, atol=1e-9)


def test_centred_coordinates_describe_the_same_law():
    shift = np.log(5e8), np.log(1e10)
    centred = np.linalg.solve(LAW.centring(*shift), THETA)
    np.testing.assert_allclose(
        LAW.log_loss(centred, POINTS.shifted(*shift)), LAW.log_loss(THETA, POINTS), rtol=1e-12
    )


def test_tiny_models_that_bend_away_from_a_power_law_are_predicted_better():
    """Recorded here: 119 trajectories; runs of over a third of the largest compute held out."""
    pool = pd.read_csv(POOL)[["params", "tokens", "loss"]]
    parts = cut(pool, 3.0)
    assert parts is not None
    kept, held = parts
    error = {}
    for law in ("chinchilla", "bounded"):
        fit = fit_law(kept, law=law, discrepancy="none", priors="weak", bootstrap=0)
        found = fit.predict(held["params"], held["tokens"]).value
        error[law] = float(np.sqrt(np.mean(np.log(found / held["loss"]) ** 2)))
    assert error["bounded"] < 0.75 * error["chinchilla"], error
