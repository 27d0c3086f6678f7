"""After how many epochs curves of repeated data are done, by those that were seen."""

import numpy as np
import pytest

from analysis.turning import SCATTER, Curve, Turning

MIDDLE = (1e5, 16384.0)
A, M, K = np.log(180.0), 0.55, 0.3


def epochs_of(params, unique):
    return np.exp(A + M * np.log(unique / MIDDLE[1]) - K * np.log(params / MIDDLE[0]))


def curves(rng, count, seen_to=np.inf):
    found = []
    for _ in range(count):
        n, u = np.exp(rng.uniform(np.log([3e4, 4e3]), np.log([4e5, 6e4])))
        done = float(epochs_of(n, u) * np.exp(0.2 * rng.normal()))
        found.append(Curve(n, u, min(done, seen_to), done <= seen_to))
    return found


def test_before_any_curve_hundreds_of_epochs_are_thought_enough_within_a_factor_of_ten():
    low, middle, high = (
        float(Turning.of(*MIDDLE).quantile(*MIDDLE, q)) for q in (0.05, 0.5, 0.95)
    )
    assert 100 < middle < 1000
    assert high / middle == pytest.approx(middle / low)
    assert 5 < high / middle < 20


def test_curves_that_are_done_say_when_others_will_be():
    rng = np.random.default_rng(0)
    turning = Turning.of(*MIDDLE, curves(rng, 12))
    new = np.exp(rng.uniform(np.log([3e4, 4e3]), np.log([4e5, 6e4]), size=(200, 2))).T
    truth = epochs_of(*new)
    off = np.log(turning.quantile(*new, 0.5) / truth)
    assert np.abs(off).max() < 0.5
    done = truth * np.exp(0.2 * rng.normal(size=200))
    # Its scatter allows for points that lie a factor apart, more than these curves'.
    assert 0.93 <= np.mean(done <= turning.quantile(*new, 0.95)) <= 1.0
    assert np.allclose(turning.chance(*new, turning.quantile(*new, 0.8)), 0.8)


def test_curves_that_were_not_done_push_it_up_and_never_down():
    before = Turning.of(*MIDDLE)
    short = Turning.of(*MIDDLE, [Curve(*MIDDLE, 20.0, False)])
    long = Turning.of(*MIDDLE, [Curve(*MIDDLE, 2000.0, False)])
    at = [float(belief.quantile(*MIDDLE, 0.5)) for belief in (before, short, long)]
    assert at[0] <= at[1] * 1.001
    assert at[1] < 1.1 * at[0]
    assert at[2] > 2000


def test_what_a_plan_is_expected_to_take_is_the_mean_of_what_it_takes():
    rng = np.random.default_rng(1)
    turning = Turning.of(*MIDDLE, curves(rng, 8))
    place, limit = (2e5, 8192.0), 250.0
    rows = np.array([1.0, np.log(place[1] / MIDDLE[1]), -np.log(place[0] / MIDDLE[0])])
    spread = np.sqrt(rows @ turning.covariance @ rows + SCATTER**2)
    drawn = np.exp(rows @ turning.mean + spread * rng.normal(size=400_000))
    expected = float(turning.expected(*place, limit))
    assert expected == pytest.approx(np.minimum(drawn, limit).mean(), rel=5e-3)
    assert float(turning.chance(*place, limit)) == pytest.approx((drawn <= limit).mean(), abs=4e-3)
