"""How often the intervals have covered: rolling-origin tests of a fit on its own runs.

A law is sold on runs that are larger than all it has seen. So the fit is repeated on the runs
under a third and under a tenth of the largest compute, and each repeat predicts what it was not
shown. That measures the whole machine, law's form and noise included, on the user's own runs; it
is short of points at the top, which is why the same measure over published tables stands beside
it (`reference`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.laws.base import FloatArray
from analysis.uncertainty import LEVEL, interval_scores

if TYPE_CHECKING:
    from analysis.fitting.result import Fit

HOLD_OUTS = (3.0, 10.0)
"""Runs above the largest compute over these are held out."""

FEWEST_KEPT = 12
FEWEST_HELD_OUT = 2
_SIZES = 3
_REFERENCE = Path(__file__).with_name("reference") / "coverage.csv"


@dataclass(frozen=True)
class Split:
    """One rolling-origin test.

    Attributes:
        hold_out: the largest compute was divided by this.
        kept, held_out: rows on either side.
        coverage: share of held-out losses inside their intervals, one run's noise included.
        half_width: median half width of the intervals, in log loss.
        interval_score: mean of width + 2/.1 times the distance outside (Gneiting and Raftery
            2007, equation 43), in log loss: less is better.
        rmse: of log loss.
        decades: how far the largest held-out run lies above those kept.
    """

    hold_out: float
    kept: int
    held_out: int
    coverage: float
    half_width: float
    interval_score: float
    rmse: float
    decades: float


def cut(runs: pd.DataFrame, hold_out: float) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the runs up to the largest 6 N D over `hold_out`, and those above.

    None where either side is too small to say anything.
    """
    flops = _flops(runs)
    low = flops <= flops.max() / hold_out
    kept, above = runs[low], runs[~low]
    sizes = len(np.unique(np.round(np.log(kept["params"].to_numpy(dtype=np.float64)), 2)))
    if len(kept) < FEWEST_KEPT or len(above) < FEWEST_HELD_OUT or sizes < _SIZES:
        return None
    return kept, above


def _flops(runs: pd.DataFrame) -> FloatArray:
    return (6.0 * runs["params"] * runs["tokens"]).to_numpy(dtype=np.float64)


def score(fit: "Fit", runs: pd.DataFrame, loss: FloatArray, hold_out: float) -> Split:
    """Return how `fit` predicts `runs`, whose losses as tuned runs are `loss`, [R]."""
    unique = runs["unique_tokens"] if fit.law.needs_unique else None
    found = fit.predict(runs["params"], runs["tokens"], unique, noise=True)
    return Split(
        hold_out=hold_out,
        kept=len(fit.runs),
        held_out=len(runs),
        decades=float(np.log10(_flops(runs).max() / fit.state.validity["flops"][1])),
        **interval_scores(
            np.log(loss), np.log(found.value), np.log(found.low), np.log(found.high)
        ),
    )


def rolling_origin(
    runs: pd.DataFrame, refit: Callable[[pd.DataFrame], "Fit"], loss: FloatArray | None = None
) -> list[Split]:
    """Return the tests that `runs` are enough for, the smaller hold-out first.

    Args:
        runs: a validated run table.
        refit: fits a part of it.
        loss: losses as tuned runs would have, [R]; unset: the column.
    """
    values = runs["loss"].to_numpy(dtype=np.float64) if loss is None else loss
    tuned = pd.Series(values, index=runs.index)
    splits = []
    for hold_out in HOLD_OUTS:
        parts = cut(runs, hold_out)
        if parts is None:
            continue
        kept, above = parts
        splits.append(score(refit(kept), above, tuned[above.index].to_numpy(), hold_out))
    return splits


def calibrate(fit: "Fit") -> dict[str, Any]:
    """Return what a law file says of its intervals' coverage.

    `measured` is the share of held-out losses covered, averaged over the splits that the fit's
    own runs allow, or None; `reference` the same over published tables, for this kind of fit.
    """
    from analysis.errors import AnalysisError
    from analysis.fitting.fit import fit_law

    settings = fit.settings

    def refit(part: pd.DataFrame) -> "Fit":
        return fit_law(
            part,
            law=fit.law.name,
            huber_delta=settings.huber_delta,
            bootstrap=100,
            seed=settings.seed,
            lr_prior=settings.lr_prior,
            priors="weak" if settings.law_prior else "none",
            response="auto" if settings.response else "none",
            discrepancy=settings.discrepancy or "none",
        )

    try:
        splits = rolling_origin(fit.runs, refit, fit.tuned_loss)
    except AnalysisError:
        # A part may be too small or too one-sided for a law: then nothing was measured.
        splits = []
    measured = float(np.mean([split.coverage for split in splits])) if splits else None
    return {
        "nominal": LEVEL,
        "measured": measured,
        # Intervals are not scaled after the fact: the discrepancy was fitted with the law.
        "inflation": 1.0,
        "splits": [vars(split) for split in splits],
        "reference": reference(fit.law.name, settings.discrepancy is not None),
    }


@cache
def _reference_table() -> pd.DataFrame:
    return pd.read_csv(_REFERENCE)


def reference(law: str, discrepancy: bool) -> dict[str, Any] | None:
    """Return the coverage measured on published tables for a law, or None where it was not."""
    table = _reference_table()
    found = table[(table["law"] == law) & (table["discrepancy"] == discrepancy)]
    if found.empty:
        return None
    row = found.iloc[0]
    return {
        "tables": int(row["tables"]),
        "coverage": float(row["coverage"]),
        "lowest": float(row["lowest"]),
        "half_width": float(row["half_width"]),
    }


def sentence(calibration: dict[str, Any]) -> str:
    """Return in words how far the intervals have been seen to cover."""
    nominal = calibration["nominal"]
    parts = []
    if calibration.get("measured") is not None:
        splits = calibration["splits"]
        points = sum(split["held_out"] for split in splits)
        parts.append(
            f"On these runs' own larger part, held out {len(splits)} "
            f"{'ways' if len(splits) > 1 else 'way'} ({points} predictions), "
            f"{nominal:.0%} intervals covered {calibration['measured']:.0%}."
        )
    else:
        parts.append("These runs are too few to measure coverage on their own larger part.")
    known = calibration.get("reference")
    if known:
        parts.append(
            f"On {known['tables']} published tables this kind of fit covered "
            f"{known['coverage']:.0%} of held-out larger runs (worst table "
            f"{known['lowest']:.0%}), with a median half width of {known['half_width']:.1%}."
        )
    else:
        parts.append("Over published tables it was not measured for this kind of fit.")
    return " ".join(parts)
