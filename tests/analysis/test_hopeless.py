"""Ceilings of the training loss, above which a run is hopeless."""

import numpy as np
import pytest
from scipy.special import ndtr

from analysis.hopeless import FEWEST, SHARES, Curves, ceilings

SCATTER = 0.015
RULE = {"margin": 0.1, "deviations": 3.0}


def drawn(rng: np.random.Generator, count: int) -> Curves:
    """Return runs whose rates cost them something, and raise their loss while they last."""
    traits = np.column_stack(
        [rng.uniform(9, 12, count), rng.uniform(11, 15, count), rng.uniform(-7, -2, count)]
    )
    excess = 0.04 * (traits[:, 2] + 4.5) ** 2 + 0.005 * rng.normal(size=count)
    mean = 0.1 + 0.9 * excess + 0.02 * (traits[:, 2] + 4.5) - 0.01 * (traits[:, 0] - 10)
    luck = SCATTER * rng.normal(size=(count, len(SHARES)))
    return Curves(excess, mean[:, None] + luck, traits)


def judged(past: Curves, runs: Curves, **rule: float) -> tuple[np.ndarray, np.ndarray]:
    """Return of each run whether it breaks its first ceiling, and whether it would end badly."""
    broken = [
        passed[0] > ceilings(past, traits, **{**RULE, **rule})[0]
        for passed, traits in zip(runs.passed, runs.traits, strict=True)
    ]
    return np.array(broken), runs.excess > RULE["margin"]


def test_runs_within_the_margin_are_let_go_on_and_most_bad_ones_are_not():
    rng = np.random.default_rng(0)
    ends, bad, far = [], [], []
    for _ in range(40):
        runs = drawn(rng, 60)
        broken, worse = judged(drawn(rng, 20), runs)
        ends.append(broken)
        bad.append(worse)
        far.append(runs.excess > 2 * RULE["margin"])
    ended, worse, much = np.concatenate(ends), np.concatenate(bad), np.concatenate(far)
    # One in 740 of those exactly at the margin, and most are far under it.
    assert ended[~worse].mean() < 1 - ndtr(RULE["deviations"])
    assert ended[much].mean() > 0.9


def test_the_allowance_is_of_a_run_at_the_margin():
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(200):
        past, runs = drawn(rng, 40), drawn(rng, 40)
        shift = runs.excess - RULE["margin"]
        at = Curves(runs.excess - shift, runs.passed - 0.9 * shift[:, None], runs.traits)
        alarms.append(judged(past, at, deviations=1.0)[0].mean())
    assert np.mean(alarms) == pytest.approx(1 - ndtr(1.0), abs=0.03)


def test_fewer_runs_allow_more_and_too_few_judge_nobody():
    runs = drawn(np.random.default_rng(2), 400)
    here = runs.traits.mean(axis=0)

    def limit(count: int, **rule: float) -> np.ndarray | None:
        few = Curves(runs.excess[:count], runs.passed[:count], runs.traits[:count])
        return ceilings(few, here, **{**RULE, **rule})

    assert limit(FEWEST - 1) is None
    allowance = [limit(count) - limit(count, deviations=0.0) for count in (FEWEST, 400)]
    assert (allowance[0] > 1.3 * allowance[1]).all()
    # With many it is the truth's own: mean at the margin, and three times the scatter.
    centre = 0.1 + 0.9 * 0.1 + 0.02 * (here[2] + 4.5) - 0.01 * (here[0] - 10)
    assert limit(400) == pytest.approx(centre + 3 * SCATTER, abs=0.01)


def test_a_run_of_another_size_than_all_before_is_allowed_more():
    past = drawn(np.random.default_rng(3), 20)
    inside = past.traits.mean(axis=0)
    outside = inside + np.array([5.0, 0.0, 0.0])
    wide = [
        ceilings(past, at, **RULE) - ceilings(past, at, margin=0.1, deviations=0)
        for at in (inside, outside)
    ]
    assert (wide[1] > 1.5 * wide[0]).all()
