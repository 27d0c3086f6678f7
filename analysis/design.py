"""The first runs to make, before any law is known; `analysis/steering` chooses the next ones."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def space_filling(
    levels: Iterable[pd.DataFrame], *, allowance: float, sizes: int = 6
) -> pd.DataFrame:
    """Return the first runs: several sizes on a few shared budgets, the cheapest first.

    Sizes that share a budget draw the U of an IsoFLOP curve, whose two arms show the exponents
    of N and of D apart; several budgets show how fast the minimum falls. On each, sizes are
    spread evenly in the logarithm, from the middle outwards: should the search end early, minima
    come first.

    Args:
        levels: for each budget, the cheapest first, the runs that it could buy, one a size;
            columns `params` and `cost`, and whatever else a run needs.
        allowance: what the runs may cost in all; the first level that has runs is always bought.
        sizes: sizes on each budget.

    Returns:
        The rows chosen, with a column `level` (from 0); empty when no level has runs.
    """
    chosen: list[pd.DataFrame] = []
    spent = 0.0
    for number, runs in enumerate(levels):
        if runs.empty:
            continue
        runs = runs.sort_values("params", ignore_index=True)
        size = np.log(runs["params"].to_numpy(dtype=np.float64))
        wanted = np.linspace(size[0], size[-1], sizes)
        picks = np.unique(np.abs(size[:, None] - wanted).argmin(axis=0))
        middle = (len(picks) - 1) / 2
        outwards = picks[np.argsort(np.abs(np.arange(len(picks)) - middle), kind="stable")]
        level = runs.iloc[outwards].assign(level=number)
        spent += float(level["cost"].sum())
        if chosen and spent > allowance:
            break
        chosen.append(level)
    if not chosen:
        return pd.DataFrame(columns=["params", "tokens", "cost", "level"])
    return pd.concat(chosen, ignore_index=True)
