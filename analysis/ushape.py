"""Curves of repeated data along their epochs: a minimum, a rise, and perhaps a second descent.

A difference counts where it exceeds both a share of the loss, below which a law has nothing to
learn, and several of its own standard errors. Observations of one trajectory are evaluated on the
same sequences under the same noise, so the error of their difference is far smaller than that of
either loss.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.02
"""Share of the loss that a rise or a fall must exceed."""

DEVIATIONS = 3.0
"""Standard errors that it must exceed too."""

SECOND_DESCENT = "second_descent"
"""What the column `regime` says of rows past the peak of a curve that falls again."""


def curve_of(rows: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the losses of observations and their paired standard errors, 0 where not known.

    Args:
        rows: `loss` and perhaps `loss_stderr_paired` of each, in the order of their epochs; those
            without a loss are passed by. A table's NaN is not known.
    """
    seen = [row for row in rows if _known(row["loss"])]
    errors = [row.get("loss_stderr_paired") for row in seen]
    return [float(row["loss"]) for row in seen], [e if _known(e) else 0.0 for e in errors]


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and not np.isnan(value)


def past_minimum(
    losses: Sequence[float],
    errors: Sequence[float],
    *,
    margin: float = MARGIN,
    deviations: float = DEVIATIONS,
    points: int = 2,
) -> bool:
    """Return whether a curve is so far past its minimum that the law has seen it turn.

    Each of its last `points` losses must lie above the lowest before it by more than `margin` of
    that and by more than `deviations` standard errors.

    Args:
        losses: in the order of their epochs.
        errors: of each the standard error of its difference from the lowest before it; 0 where it
            is not known.
        margin: see above.
        deviations: see above.
        points: see above; one alone may be luck.
    """
    if len(losses) <= points:
        return False
    lowest = np.minimum.accumulate(np.asarray(losses, dtype=np.float64))
    risen = [
        loss - low > max(margin * low, deviations * error)
        for loss, low, error in zip(losses[1:], lowest[:-1], errors[1:], strict=True)
    ]
    return all(risen[-points:])


def done_after(
    losses: Sequence[float],
    errors: Sequence[float],
    *,
    margin: float = MARGIN,
    deviations: float = DEVIATIONS,
    points: int = 2,
) -> int | None:
    """Return how many of a curve's losses show it past its minimum, or None where all do not.

    Arguments as those of `past_minimum`.
    """
    for count in range(points + 1, len(losses) + 1):
        if past_minimum(
            losses[:count], errors[:count], margin=margin, deviations=deviations, points=points
        ):
            return count
    return None


def second_descent(
    losses: Sequence[float],
    errors: Sequence[float] | None = None,
    *,
    margin: float = MARGIN,
    deviations: float = DEVIATIONS,
) -> int | None:
    """Return the number of the first loss past the peak of a curve that falls again, or None.

    The curve must have risen from its lowest loss, and then fallen from its peak, each by more
    than both thresholds. What follows the peak belongs to another regime, which no law of one
    minimum describes; the paper leaves it out of its fits.

    Args:
        losses: in the order of their epochs.
        errors: as in `past_minimum`; unset: not known.
        margin: share of the loss.
        deviations: standard errors.
    """
    known = np.zeros(len(losses)) if errors is None else np.asarray(errors, dtype=np.float64)
    lowest, peak, at_peak = losses[0] if len(losses) else np.inf, -np.inf, -1
    for number, (loss, error) in enumerate(zip(losses, known, strict=True)):
        if at_peak < 0:
            if loss - lowest > max(margin * lowest, deviations * error):
                peak, at_peak = loss, number
            lowest = min(lowest, loss)
        elif loss > peak:
            peak, at_peak = loss, number
        elif peak - loss > max(margin * peak, deviations * error):
            return at_peak + 1
    return None


def mark_second_descents(runs: "pd.DataFrame") -> "pd.DataFrame":
    """Return a run table with a column `regime`: `second_descent` past the peak, else None.

    Args:
        runs: columns `trajectory`, `tokens`, `loss`; the paired errors are read from
            `loss_stderr_paired` where it is given. Rows without a loss are passed by.
    """
    # A trial reads this module too, and starts without pandas.
    import pandas as pd

    regime = pd.Series([None] * len(runs), index=runs.index, dtype=object)
    seen = runs[runs["loss"].notna()]
    for _, curve in seen.groupby("trajectory", sort=False):
        ordered = curve.sort_values("tokens")
        first = second_descent(*curve_of(ordered.to_dict("records")))
        if first is not None:
            regime[ordered.index[first:]] = SECOND_DESCENT
    return runs.assign(regime=regime)
