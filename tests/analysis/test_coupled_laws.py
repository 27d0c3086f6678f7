"""The coupled law and the super-law: formulas, gradients, and what they shrink to."""

import numpy as np
import pytest
from laboratory import difference

from analysis.laws.base import Points, get_law

POINTS = Points.of([2e7, 1e8, 1e9, 5e9], [3e9, 5e8, 4e10, 1e11])
FIVE = np.array([np.log(1.8), np.log(480.0), np.log(2100.0), 0.35, 0.37])


@pytest.mark.parametrize("name", ["coupled", "super"])
def test_without_its_extra_parameters_the_law_is_chinchillas(name):
    law, chinchilla = get_law(name), get_law("chinchilla")
    theta = np.concatenate([FIVE, np.zeros(len(law.coordinates) - 5)])
    np.testing.assert_allclose(
        law.log_loss(theta, POINTS), chinchilla.log_loss(FIVE, POINTS), rtol=1e-13
    )


def test_the_coupled_law_is_its_formula():
    theta = np.append(FIVE, np.log(0.6))
    n, d = np.exp(POINTS.log_params), np.exp(POINTS.log_tokens)
    u, v = 480.0 / n**0.35, 2100.0 / d**0.37
    expected = 1.8 + (u ** (1 / 0.6) + v ** (1 / 0.6)) ** 0.6
    np.testing.assert_allclose(
        np.exp(get_law("coupled").log_loss(theta, POINTS)), expected, rtol=1e-12
    )


def test_the_super_law_is_its_formula():
    law = get_law("super").located(np.log(1e8), np.log(1e10))
    theta = np.array([0.6, -0.5, 0.3, 0.35, 0.37, -0.4, 0.01, 0.02, -0.03])
    n, d = np.exp(POINTS.log_params) / 1e8, np.exp(POINTS.log_tokens) / 1e10
    kappa = np.exp(-0.4)
    u, v = np.exp(-0.5) / n**0.35, np.exp(0.3) / d ** (0.37 + 0.01 * np.log(n))
    expected = np.log(np.exp(0.6) + (u ** (1 / kappa) + v ** (1 / kappa)) ** kappa)
    expected += 0.02 / (np.sqrt(n) + 0.125) - 0.03 / (np.sqrt(d) + 0.125)
    np.testing.assert_allclose(law.log_loss(theta, POINTS), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["coupled", "super"])
def test_gradients_match_differences(name):
    law = get_law(name).located(np.log(5e8), np.log(1e10))
    shift = (np.log(5e8), np.log(1e10)) if name == "coupled" else (0.0, 0.0)
    points = POINTS.shifted(*shift)
    theta = np.array([0.6, -0.5, 0.3, 0.35, 0.37, -0.4, 0.01, 0.02, -0.03])
    theta = theta[: len(law.coordinates)]
    expected = difference(lambda t: law.log_loss(t, points), theta)
    np.testing.assert_allclose(law.gradient(theta, points), expected, rtol=1e-6, atol=1e-9)


def test_the_coupled_optimum_has_the_lowest_loss_on_its_budget():
    law = get_law("coupled")
    theta = np.append(FIVE, np.log(0.6))
    log_params, log_tokens = law.optimum(theta, 1e21)
    assert log_params + log_tokens == pytest.approx(np.log(1e21 / 6))
    around = log_params + np.linspace(-0.5, 0.5, 41)
    loss = law.log_loss(theta, Points(around, np.log(1e21 / 6) - around))
    assert loss.argmin() == 20


def test_gradients_of_the_searched_optimum_match_differences():
    law = get_law("coupled")
    theta = np.append(FIVE, np.log(0.6))
    of_params, of_loss = law.optimum_gradient(theta, 1e21)

    def lowest(t):
        n, d = law.optimum(t, 1e21)
        return law.log_loss(t, Points(np.atleast_1d(n), np.atleast_1d(d)))[0]

    expected = difference(lambda t: law.optimum(t, 1e21)[0], theta, step=1e-4)
    np.testing.assert_allclose(of_params, np.ravel(expected), rtol=2e-2, atol=1e-3)
    np.testing.assert_allclose(of_loss, np.ravel(difference(lowest, theta)), rtol=1e-5, atol=1e-9)
