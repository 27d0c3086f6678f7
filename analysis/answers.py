"""Answers with intervals: any quantity that follows from a law's numbers."""

from collections.abc import Callable, Sequence

import numpy as np

from analysis.fitting.result import Fit
from analysis.lawfile import LawFile
from analysis.laws.base import FloatArray
from analysis.state import LawState
from analysis.uncertainty import Estimate, combined_interval

Source = LawState | LawFile | Fit
"""What can be asked: a law's numbers, a law file, or a fit."""

_STEP = 0.3
"""Of a standard deviation: long enough that a search's rounding is not taken for a slope."""

_LONGEST = 0.05
_WIDEST = 14.0
"""Standard deviation of a direction that no run decides."""

_UNKNOWN = 10.0 * float(np.log(10.0))
_JUMP = 3.0


def state_of(law: Source) -> LawState:
    """Return the law with its numbers."""
    return law if isinstance(law, LawState) else law.state


def warnings_of(law: Source) -> list[str]:
    """Return what is known to be wrong with the law, in sentences."""
    return [] if isinstance(law, LawState) else list(law.warnings)


def estimates(state: LawState, logs: Callable[[FloatArray], FloatArray]) -> list[Estimate]:
    """Return quantities with their 90 % intervals.

    The interval is made as `LawState.optimum` makes it: the bootstrap's quantiles, widened to
    the Laplace covariance where that is larger. Resamples for which a quantity does not exist
    are left out of its interval.

    Args:
        state: the law.
        logs: maps theta [B, P] to the logarithms of K quantities, [B, K]; NaN where one does not
            exist.
    """
    directions = state_directions(state.covariance)
    near = np.concatenate([state.theta + directions, state.theta - directions])
    count = len(state.samples)
    found = logs(np.concatenate([state.theta[None], state.samples, near]))
    value, samples, moved = found[0], found[1 : 1 + count], found[1 + count :]
    variance = np.zeros(value.shape)
    if len(directions):
        ahead, behind = np.split(moved, 2)
        lengths = np.sqrt(np.einsum("kp,kp->k", directions, directions))
        spreads = np.minimum(np.sqrt(_eigen(state.covariance)[0]), _WIDEST)
        slopes = (ahead - behind) / (2.0 * lengths[:, None]) * spreads[:, None]
        # A jump from one minimum to another is no slope.
        slopes[~np.isfinite(slopes) | (np.abs(ahead - behind) > _JUMP)] = 0.0
        variance = (slopes**2).sum(axis=0)
    return [_estimate(value[k], samples[:, k], variance[k]) for k in range(value.size)]


def _eigen(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the variances above zero and their directions, [K] and [K, P]."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-14 * max(float(values.max(initial=0.0)), 1e-300)
    return values[kept], vectors.T[kept]


def state_directions(covariance: FloatArray) -> FloatArray:
    """Return short steps along the covariance's own axes, where its variances add up, [K, P]."""
    values, vectors = _eigen(covariance)
    steps = np.minimum(_STEP * np.sqrt(values), _LONGEST)
    return steps[:, None] * vectors


def _estimate(value: float, samples: FloatArray, variance: float) -> Estimate:
    if not np.isfinite(value):
        return Estimate(float("nan"), float("nan"), float("nan"))
    samples = samples[np.isfinite(samples)]
    if samples.size == 0:
        samples = np.array([value])
    low, high = combined_interval(np.asarray(value), samples, np.asarray(variance))
    low, high = np.maximum(low, value - _UNKNOWN), np.minimum(high, value + _UNKNOWN)
    return Estimate(float(np.exp(value)), float(np.exp(low)), float(np.exp(high)))


def beyond(state: LawState, **quantities: float) -> float:
    """Return by how many decades the furthest of `quantities` leaves the ranges seen."""
    return max(float(state.decades_beyond(name, v)) for name, v in quantities.items())


def exists(estimate: Estimate) -> bool:
    """Return whether the quantity exists."""
    return bool(np.isfinite(estimate.value))


def as_plain(estimates_by_name: Sequence[tuple[str, Estimate | None]]) -> dict[str, object]:
    """Return estimates as plain numbers for JSON; None where there is none."""
    return {
        name: e.as_dict() if e is not None and exists(e) else None for name, e in estimates_by_name
    }
