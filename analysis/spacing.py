"""Rows of a training curve, spread evenly in the logarithm of its tokens."""

import numpy as np
import pandas as pd

from analysis.runs import trajectory_index


def log_spaced(runs: pd.DataFrame, per_decade: float = 18.0) -> pd.DataFrame:
    """Return, of each trajectory, the rows nearest to evenly spaced ln D.

    A curve evaluated every so many steps has most of its rows at its end, and a fit of all of
    them is a fit of the end: for runs that repeat their data, of deep overfitting. The first and
    last row of each trajectory stay; the order of the rows, too.

    Args:
        runs: a run table with `tokens`; rows without a `trajectory` all stay.
        per_decade: rows to keep of each factor of ten in tokens.
    """
    log_tokens = np.log(runs["tokens"].to_numpy(dtype=np.float64))
    index = trajectory_index(runs)
    kept = np.zeros(len(runs), dtype=bool)
    for trajectory in range(int(index.max(initial=-1)) + 1):
        rows = np.flatnonzero(index == trajectory)
        span = float(np.ptp(log_tokens[rows]))
        count = int(np.ceil(span / np.log(10.0) * per_decade)) + 1
        wanted = log_tokens[rows].min() + np.linspace(0.0, span, count)
        nearest = np.abs(log_tokens[rows][None, :] - wanted[:, None]).argmin(axis=1)
        kept[rows[nearest]] = True
    return runs[kept]
