"""How well a law predicts runs that it was not fitted to."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import tuned_loss
from analysis.lawfile import LawFile
from analysis.runs import unique_tokens_of
from analysis.uncertainty import interval_scores


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
    value, low, high = (np.log(v) for v in (found.value, found.low, found.high))
    return {
        "rows": len(runs),
        **interval_scores(observed, value, low, high),
        "bias": float((observed - value).mean()),
        "seen": _seen(law, runs),
    }


def _seen(law: LawFile, runs: pd.DataFrame) -> int | None:
    """Return how many rows the law was fitted to; None where its runs are not beside it."""
    if law.runs is None:
        return None
    columns = ["params", "tokens", "loss"]
    known = {tuple(np.round(np.log(row), 9)) for row in law.runs[columns].to_numpy(dtype=float)}
    rows = runs[columns].to_numpy(dtype=float)
    return sum(tuple(np.round(np.log(row), 9)) in known for row in rows)
