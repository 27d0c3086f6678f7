"""How well a law predicts runs that it was not fitted to."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import tuned_loss
from analysis.lawfile import LawFile
from analysis.laws.base import FloatArray
from analysis.runs import unique_tokens_of
from analysis.uncertainty import LEVEL


def score(law: LawFile, runs: pd.DataFrame) -> dict[str, Any]:
    """Return a law's errors on runs, in log loss, with the noise of one run in its intervals.

    Args:
        law: the law.
        runs: a checked run table; the price of an untuned learning rate is taken off by the
            law's own response.

    Returns:
        `rows`, `rmse`, `bias` (mean of observed less predicted), `coverage` of the 90 %
        intervals, `half_width` (median), `interval_score` (mean, lower is better) and `seen`,
        how many rows are among the runs that the law was fitted to.
    """
    observed = np.log(tuned_loss(law.state, runs))
    found = law.predict(runs["params"], runs["tokens"], unique_tokens_of(runs), noise=True)
    low, high = np.log(found.low), np.log(found.high)
    error = observed - np.log(found.value)
    return {
        "rows": len(runs),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "coverage": float(np.mean((low <= observed) & (observed <= high))),
        "half_width": float(np.median((high - low) / 2.0)),
        "interval_score": float(interval_score(observed, low, high).mean()),
        "seen": _seen(law, runs),
    }


def interval_score(observed: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return Gneiting and Raftery's score of central intervals of `LEVEL`, [R]; lower is better.

    The width, plus 2 / (1 - LEVEL) times the distance of what falls outside.
    """
    outside = np.maximum(low - observed, 0.0) + np.maximum(observed - high, 0.0)
    return np.asarray(high - low + 2.0 / (1.0 - LEVEL) * outside, dtype=np.float64)


def _seen(law: LawFile, runs: pd.DataFrame) -> int | None:
    """Return how many rows the law was fitted to; None where its runs are not beside it."""
    if law.runs is None:
        return None
    columns = ["params", "tokens", "loss"]
    known = {tuple(np.round(np.log(row), 9)) for row in law.runs[columns].to_numpy(dtype=float)}
    rows = runs[columns].to_numpy(dtype=float)
    return sum(tuple(np.round(np.log(row), 9)) in known for row in rows)
