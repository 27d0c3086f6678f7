"""Where curves of repeated data are lowest, read from each curve alone, and how that moves.

Beside a law's best epochs, which its form decides with, these need no law: near its minimum a
curve's ln L is a cubic in ln e, fitted to the observations within `NEAR` of the lowest. Where the
curve has risen on both sides of it, the minimum has a place; else it lies before or beyond what
was seen. ln e_min = a + m ln U - k ln N is then a plain regression over trajectories.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.laws.base import FloatArray
from analysis.uncertainty import Estimate
from analysis.ushape import curve_of, done_after, second_descent

NEAR = 0.06
"""Share of the lowest loss within which observations tell where it lies."""

TURNED, ROSE, NOT_REACHED = "turned", "rises", "not reached"
"""What became of a curve: past its minimum by the rule of early ends, lowest before its last
observation, or lowest at the last."""

_FEWEST = 5
_DRAWS = 4000
_GRID = 400
_LEVEL = 0.9


def curve_minima(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each trajectory over repeated data: where its loss is lowest.

    Args:
        runs: a run table with `trajectory`, `params`, `tokens`, `unique_tokens` and `loss`;
            `loss_stderr_paired` is read where it is given. Rows without a loss are passed by,
            and those of a second descent.

    Returns:
        In the order of U and N: `trajectory`, `params`, `unique_tokens`; `first` and `last`, the
        epochs seen; `lowest_at` and `lowest`, the lowest observation; `epochs`, `epochs_low` and
        `epochs_high`, where the curve is lowest with a 90 % interval, the high end NaN where it
        has not turned, and the place too where it was not reached; `rise`, by what share the last
        loss lies above the lowest; and `shape`.
    """
    table = runs[runs["loss"].notna() & runs["unique_tokens"].notna()]
    rows = [
        _minimum(str(name), curve.sort_values("tokens"))
        for name, curve in table.groupby("trajectory", sort=False)
    ]
    found = pd.DataFrame([row for row in rows if row])
    if found.empty:
        return found
    return found.sort_values(["unique_tokens", "params"], kind="stable").reset_index(drop=True)


def _minimum(name: str, curve: pd.DataFrame) -> dict[str, object] | None:
    losses, errors = curve_of(curve.to_dict("records"))
    kept = second_descent(losses, errors)
    losses, errors = losses[:kept], errors[:kept]
    loss = np.array(losses)
    unique = float(curve["unique_tokens"].max())
    epochs = curve["tokens"].to_numpy(dtype=np.float64)[: loss.size] / unique
    if loss.size < _FEWEST or epochs[-1] <= 1.0:
        return None
    at = int(loss.argmin())
    done = done_after(losses, errors) is not None
    shape = TURNED if done else NOT_REACHED if at == loss.size - 1 else ROSE
    if shape == NOT_REACHED:
        value, low, high = np.nan, epochs[-1], np.nan
    else:
        value, low, high = _place(np.log(epochs), np.log(loss), name)
    return {
        "trajectory": name,
        "params": float(curve["params"].iloc[0]),
        "unique_tokens": unique,
        "first": epochs[0],
        "last": epochs[-1],
        "lowest_at": epochs[at],
        "lowest": loss[at],
        "epochs": value,
        "epochs_low": low,
        # What was never seen to rise may fall for ever.
        "epochs_high": high if shape == TURNED else np.nan,
        "rise": loss[-1] / loss[at] - 1.0,
        "shape": shape,
    }


def _place(log_epochs: FloatArray, log_loss: FloatArray, name: str) -> tuple[float, float, float]:
    """Return where a cubic through the observations near the lowest is lowest, and an interval.

    The interval is that of the cubic's minimum over draws of its coefficients, with Student's
    tails for the few observations, and reaches at least half way to the neighbours of the place.
    """
    near = log_loss <= log_loss.min() + np.log1p(NEAR)
    at = int(log_loss.argmin())
    first, last = max(0, at - 2), min(log_loss.size, at + 3)
    near[first:last] = True
    x, y = log_epochs[near], log_loss[near]
    middle, scale = x.mean(), max(float(np.ptp(x)) / 2.0, 1e-9)
    degree = 3 if x.size >= _FEWEST + 1 else 2
    basis = np.vander((x - middle) / scale, degree + 1)
    coefficients, *_ = np.linalg.lstsq(basis, y, rcond=None)
    freedom = x.size - degree - 1
    grid = np.linspace(x[0], x[-1], _GRID)
    values = np.vander((grid - middle) / scale, degree + 1)
    best = grid[(values @ coefficients).argmin()]
    residual = y - basis @ coefficients
    sigma = np.sqrt(residual @ residual / freedom) if freedom > 0 else 0.0
    # Seeded by the curve itself, so that a table says the same in any order.
    rng = np.random.default_rng(sum(name.encode()))
    root = np.linalg.cholesky(np.linalg.inv(basis.T @ basis))
    tails = np.sqrt(max(freedom, 1) / rng.chisquare(max(freedom, 1), _DRAWS))
    normal = rng.normal(size=(_DRAWS, degree + 1))
    draws = coefficients + sigma * tails[:, None] * (normal @ root.T)
    places = grid[(draws @ values.T).argmin(axis=1)]
    low, high = np.quantile(places, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    half = float(np.diff(x).mean()) / 2.0
    low, high = min(low, best - half), max(high, best + half)
    return float(np.exp(best)), float(np.exp(low)), float(np.exp(high))


@dataclass(frozen=True)
class MinimaTrend:
    """ln e_min = a + m ln U - k ln N over the trajectories that turned, by least squares.

    Attributes:
        with_unique: m, by how much the best epochs grow with U, with its 90 % interval.
        with_params: k, by how much they fall with N.
        scatter: standard deviation of ln e_min about it.
        count: trajectories.
    """

    with_unique: Estimate
    with_params: Estimate
    scatter: float
    count: int


def minima_trend(minima: pd.DataFrame) -> MinimaTrend | None:
    """Return how the curves' minima move with U and N; None where too few turned to say.

    Intervals are Student's, of the residuals about the plane: no curve's own interval is used, as
    what two seeds differ by is more than most of these.

    Args:
        minima: of `curve_minima`.
    """
    turned = minima[minima["shape"] == TURNED] if len(minima) else minima
    freedom = len(turned) - 3
    if freedom < 1:
        return None
    logs = np.log(turned[["unique_tokens", "params", "epochs"]].to_numpy(dtype=np.float64))
    design = np.column_stack([np.ones(len(turned)), logs[:, 0] - logs[:, 0].mean(),
                              logs[:, 1].mean() - logs[:, 1]])  # fmt: skip
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    coefficients, *_ = np.linalg.lstsq(design, logs[:, 2], rcond=None)
    residual = logs[:, 2] - design @ coefficients
    scatter = float(np.sqrt(residual @ residual / freedom))
    spread = scatter * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    half = spread * student.ppf((1 + _LEVEL) / 2, freedom)
    m, k = (
        Estimate(float(c), float(c - h), float(c + h))
        for c, h in zip(coefficients[1:], half[1:], strict=True)
    )
    return MinimaTrend(m, k, scatter, len(turned))
