"""IsoFLOP parabolas: grouping, minima, and the flag that both arms are seen."""

import numpy as np
import pandas as pd
import pytest
from laboratory import true_loss, true_optimum

from analysis.fitting.isoflop import group_budgets, isoflop_parabolas


def curve(flops: float, params: np.ndarray) -> pd.DataFrame:
    tokens = flops / 6 / params
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": true_loss(params, tokens)})


def test_budgets_within_a_tenth_are_one():
    found = group_budgets(np.array([1.0e18, 3.2e18, 1.08e18, 3.0e18, 9.0e18]))
    assert list(found) == [0, 1, 0, 1, 2]


def test_a_chain_of_near_budgets_is_not_one_budget():
    assert len(set(group_budgets(np.geomspace(1e18, 2e18, 15)))) > 4


def test_minima_near_the_laws_optimum_and_both_arms_seen():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(0.4, 2.5, 7)) for c in (1e10, 1e11, 1e12)]
    )
    found = isoflop_parabolas(runs)
    assert found.minima["both_arms"].all()
    best = [true_optimum(c)[0] for c in (1e10, 1e11, 1e12)]
    np.testing.assert_allclose(found.minima["params"], best, rtol=0.05)
    np.testing.assert_allclose(
        6 * found.minima["params"] * found.minima["tokens"], found.minima["flops"]
    )
    assert found.params_law is not None
    assert found.params_law.exponent == pytest.approx(0.38 / 0.80, abs=0.01)
    assert found.params_law(1e11) == pytest.approx(best[1], rel=0.05)


def test_one_arm_alone_is_flagged_and_gives_no_power_law():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(3.0, 20.0, 5)) for c in (1e10, 1e11)]
    )
    found = isoflop_parabolas(runs)
    assert not found.minima["both_arms"].any()
    assert found.params_law is None


def test_budgets_of_fewer_than_three_sizes_are_left_out():
    runs = pd.concat([curve(1e10, np.array([1e3, 1e4, 1e5])), curve(1e11, np.array([1e4, 1e5]))])
    found = isoflop_parabolas(runs)
    assert len(found.minima) == 1
    assert list(found.group) == [0, 0, 0, -1, -1]


def test_losses_given_take_the_place_of_the_column():
    runs = curve(1e11, true_optimum(1e11)[0] * np.geomspace(0.3, 3, 7))
    doubled = isoflop_parabolas(runs, loss=2 * runs["loss"].to_numpy())
    assert doubled.minima["loss"][0] == pytest.approx(
        2 * isoflop_parabolas(runs).minima["loss"][0]
    )
