"""The envelope of training curves (Hoffmann et al. 2022, approach 1): no law of the loss at all.

Each trajectory's loss is followed against the compute it has used. At every C the trajectory with
the lowest loss says which N was best there, and power laws of C run through those N and D.

What it takes for granted is that a run's loss on the way is what a run that ends there would
have. It is not: before its learning rate is annealed a run lies above, and more so early on, so
the envelope favours models that are nearer to their end. Where `cooled` does not say otherwise, a
note does.

A run's luck stays with it along its curve, so lucky runs are lowest over wide ranges of C, and
the more curves there are, the flatter the power law gets: with .3 % of noise and 40 sizes a is .04
low, with 8 sizes .01, and resamples do not see it. `analysis.approaches` simulates what it comes
to.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.errors import FitError
from analysis.fitting.isoflop import PowerLaw
from analysis.laws.base import FloatArray
from analysis.runs import trajectory_index

BINS = 400
"""Levels of compute, evenly spaced in ln C over what the curves cover (1,500 in the original, over
runs that were logged more finely)."""

FEWEST_SIZES = 3
_BATCH = 50


@dataclass(frozen=True)
class Envelope:
    """The lowest losses and the power laws through them.

    Attributes:
        points: a row for each level of compute at which the best size has both smaller and larger
            rivals: `flops, params, tokens, loss, trajectory`.
        params_law: N_opt against C.
        tokens_law: D_opt against C.
        samples: (ln k_N, a) of resampled trajectories, [B, 2]; NaN where a resample shows none.
        curves: how many trajectories have several observations.
        sizes: how many different N won somewhere.
        notes: what a reader should know.
    """

    points: pd.DataFrame
    params_law: PowerLaw
    tokens_law: PowerLaw
    samples: FloatArray
    curves: int
    sizes: int
    notes: tuple[str, ...]


def envelope(
    runs: pd.DataFrame,
    *,
    loss: FloatArray | None = None,
    bins: int = BINS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Envelope:
    """Return the envelope of a table's curves.

    Args:
        runs: columns `params`, `tokens`, `loss` and `trajectory`; compute is 6 N D.
        loss: takes the place of the column, [R].
        bins: levels of compute.
        bootstrap: resamples, drawn by trajectory.
        seed: of the resamples.

    Raises:
        FitError: the table holds no curves, or too few for an envelope; says which.
    """
    curves = _curves(runs, loss, bins)
    everyone = np.ones((1, len(curves.params)), dtype=bool)
    winner, counts = _winners(curves, everyone)
    kept = counts[0]
    if kept.sum() < 2 or np.ptp(curves.log_flops[kept]) < np.log(2.0):
        raise FitError(
            "nowhere along the curves is the best size between a smaller and a larger one for a "
            "factor of 2 of compute: the envelope is the sizes' limit, not an optimum. Add curves "
            "of other sizes"
        )
    best = winner[0, kept]
    sizes = len(np.unique(curves.params[best].round(3)))
    if sizes < FEWEST_SIZES:
        raise FitError(
            f"only {sizes} of the curves' sizes are best anywhere between a smaller and a larger "
            f"one; a power law needs {FEWEST_SIZES}. Add curves of sizes in between"
        )
    log_flops, log_params = curves.log_flops[kept], curves.params[best]
    slope, offset = np.polyfit(log_flops, log_params, 1)
    points = pd.DataFrame(
        {
            "flops": np.exp(log_flops),
            "params": np.exp(log_params),
            "tokens": np.exp(log_flops - log_params) / 6.0,
            "loss": np.exp(curves.log_loss[best, np.flatnonzero(kept)]),
            "trajectory": curves.names[best],
        }
    )
    return Envelope(
        points=points,
        params_law=PowerLaw(float(np.exp(offset)), float(slope)),
        tokens_law=PowerLaw(float(np.exp(-offset)) / 6.0, float(1.0 - slope)),
        samples=_resample(curves, bootstrap, seed),
        curves=len(curves.params),
        sizes=sizes,
        notes=_notes(runs, sizes),
    )


@dataclass(frozen=True)
class _Curves:
    """Trajectories in ascending order of N on one grid of compute.

    `log_loss` is [T, K], infinite outside a trajectory's own range.
    """

    params: FloatArray
    log_flops: FloatArray
    log_loss: FloatArray
    names: np.ndarray


def _curves(runs: pd.DataFrame, loss: FloatArray | None, bins: int) -> _Curves:
    if "trajectory" not in runs:
        raise FitError(
            "the table has no column 'trajectory': approach 1 needs training curves, several "
            "observations of each run; approaches 2 and 3 do without"
        )
    number = trajectory_index(runs)
    log_params = np.log(runs["params"].to_numpy(dtype=np.float64))
    work = np.log(6.0) + log_params + np.log(runs["tokens"].to_numpy(dtype=np.float64))
    values = np.log(runs["loss"].to_numpy(dtype=np.float64) if loss is None else loss)
    several = [k for k in range(int(number.max()) + 1) if len(np.unique(work[number == k])) > 1]
    if not several:
        raise FitError(
            f"none of the {int(number.max()) + 1} trajectories has more than one observation: "
            "approach 1 needs training curves; approaches 2 and 3 do without"
        )
    several.sort(key=lambda k: float(log_params[number == k].mean()))
    params = np.array([log_params[number == k].mean() for k in several])
    if len(np.unique(params.round(3))) < FEWEST_SIZES:
        raise FitError(
            f"the {len(several)} training curves are of {len(np.unique(params.round(3)))} sizes; "
            f"approach 1 needs {FEWEST_SIZES}"
        )
    inside = np.isin(number, several)
    grid = np.linspace(work[inside].min(), work[inside].max(), bins)
    log_loss = np.full((len(several), bins), np.inf)
    for row, k in enumerate(several):
        order = np.flatnonzero(number == k)[np.argsort(work[number == k], kind="stable")]
        x, first = np.unique(work[order], return_index=True)
        log_loss[row] = np.interp(grid, x, values[order][first], left=np.inf, right=np.inf)
    names = runs["trajectory"].to_numpy(dtype=object)
    return _Curves(
        params, grid, log_loss, np.array([names[number == k][0] for k in several], dtype=object)
    )


def _winners(curves: _Curves, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which trajectory is lowest [B, K], and where it has rivals on both sides [B, K].

    Args:
        curves: of T trajectories, ascending in N.
        present: which of them take part, [B, T].
    """
    size = np.round(curves.params, 3)
    covered = np.isfinite(curves.log_loss)[None] & present[:, :, None]
    loss = np.where(covered, curves.log_loss[None], np.inf)
    winner = loss.argmin(axis=1)
    smallest = size[covered.argmax(axis=1)]
    largest = size[len(size) - 1 - covered[:, ::-1].argmax(axis=1)]
    return winner, covered.any(axis=1) & (size[winner] > smallest) & (size[winner] < largest)


def _resample(curves: _Curves, count: int, seed: int) -> FloatArray:
    """Return (ln k_N, a) of trajectories drawn with replacement, [B, 2]."""
    rng = np.random.default_rng(seed)
    total = len(curves.params)
    samples = np.full((count, 2), np.nan)
    for first in range(0, count, _BATCH):
        rows = min(_BATCH, count - first)
        present = np.zeros((rows, total), dtype=bool)
        np.put_along_axis(present, rng.integers(total, size=(rows, total)), True, axis=1)
        winner, kept = _winners(curves, present)
        weight = kept.astype(np.float64)
        mass = np.maximum(weight.sum(axis=1), 1.0)
        x, y = curves.log_flops, curves.params[winner]
        mean_x, mean_y = weight @ x / mass, (weight * y).sum(axis=1) / mass
        off = (x - mean_x[:, None]) * weight
        spread = (off * off).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = np.where(spread > 1e-9, (off * y).sum(axis=1) / spread, np.nan)
        samples[first : first + rows] = np.stack([mean_y - slope * mean_x, slope], axis=1)
    return samples


def _notes(runs: pd.DataFrame, sizes: int) -> tuple[str, ...]:
    notes = []
    cooled = runs["cooled"].dropna() if "cooled" in runs else pd.Series(dtype=bool)
    if cooled.empty or not cooled.astype(bool).all():
        notes.append(
            "the curves' learning rates were not annealed at every observation, as far as the "
            "table says: losses on the way lie above those of runs that end there, which biases "
            "this approach"
        )
    if sizes < 4:
        notes.append(f"only {sizes} sizes are best anywhere: the exponent rests on very little")
    return tuple(notes)
