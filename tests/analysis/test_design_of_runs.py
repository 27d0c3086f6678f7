"""The first runs of a search: shared budgets, spread sizes, cheap ones first."""

import numpy as np
import pandas as pd
import pytest

from analysis.design import space_filling


def level(work: float, low: float, high: float) -> pd.DataFrame:
    """Forty sizes that share a budget, of D / N from `low` to `high`."""
    ratio = np.geomspace(low, high, 40)
    columns = {"params": np.sqrt(work / 6 / ratio), "tokens": np.sqrt(work / 6 * ratio)}
    return pd.DataFrame({**columns, "cost": work})


def test_first_runs_share_budgets_spread_sizes_and_start_cheap_from_the_middle():
    levels = [level(work, 5, 800) for work in (1e9, 1e10, 1e11)]
    runs = space_filling(levels, allowance=np.inf, sizes=5)
    assert runs["cost"].is_monotonic_increasing
    for number, drawn in runs.groupby("level"):
        steps = np.diff(np.sort(np.log(drawn["params"])))
        np.testing.assert_allclose(steps, np.log(160) / 8, rtol=0.15)
        middle = np.median(levels[int(number)]["params"])
        distance = np.abs(np.log(drawn["params"] / middle)).to_numpy()
        assert distance[0] < 0.1
        assert distance[-1] > distance[1]


def test_first_runs_keep_to_their_allowance_in_whole_levels():
    levels = [level(work, 5, 800) for work in (1e9, 1e10, 1e11)]
    runs = space_filling(levels, allowance=1e11, sizes=5)
    assert set(runs["level"]) == {0, 1}
    assert runs["cost"].sum() == pytest.approx(5.5e10)
    assert len(space_filling(levels, allowance=0, sizes=5)) == 5, "one level is always bought"
    assert space_filling([levels[0].head(0)], allowance=1e12).empty
