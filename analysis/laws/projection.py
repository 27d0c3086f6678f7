"""Starts for laws that are sums of terms: variable projection over random shapes.

Given exponents and shapes, such a law is linear in the factors of its terms. Shapes are drawn
from what is published and from the whole box, the factors follow by nonnegative least squares,
and the best are polished on a part of the rows before the full fit takes them over.
"""

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from analysis.fitting.newton import minimise
from analysis.laws.base import FloatArray, Points

if TYPE_CHECKING:
    from analysis.laws.data_constrained import SumOfTerms

_DRAWS = 600
_KEPT = 32
_ROWS = 400
_RETURNED = 6
_DELTA = 0.005
_SEED = 0


def projected_starts(law: "SumOfTerms", points: Points, log_loss: FloatArray) -> FloatArray:
    """Return up to six starts [S, P], best first; the search is the same at every call.

    Args:
        law: the law.
        points: centred points.
        log_loss: ln L, [R].
    """
    rng = np.random.default_rng(_SEED)
    rows = np.unique(np.linspace(0, log_loss.size - 1, _ROWS).astype(np.intp))
    if log_loss.size > _ROWS:
        rows = np.sort(rng.choice(log_loss.size, _ROWS, replace=False))
    some = _take(points, rows)
    observed = log_loss[rows]
    drawn = _draw(law, log_loss, rng)
    candidates, errors = _project(law, drawn, some, observed)
    best = candidates[np.argsort(errors, kind="stable")[:_KEPT]]
    for delta in (10.0 * _DELTA, _DELTA):
        found = minimise(
            lambda theta: law.derivatives(theta, some),
            observed,
            best,
            weights=np.ones((1, observed.size)),
            delta=delta,
            bounds=law.bounds(log_loss),
            tolerance=1e-4,
            max_iterations=80,
        )
        best = found.theta
    order = np.argsort(found.objective, kind="stable")
    return _distinct(best[order], found.objective[order])


def _take(points: Points, rows: np.ndarray) -> Points:
    unique = None if points.log_unique is None else points.log_unique[rows]
    return Points(points.log_params[rows], points.log_tokens[rows], unique)


def _draw(law: "SumOfTerms", log_loss: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return thetas with random shapes and unit factors: half about what is published."""
    low, high = law.bounds(log_loss)
    known = law.published(float(np.mean(log_loss)))
    near = known.mean + 1.5 * known.spread * rng.standard_normal((_DRAWS // 2, low.size))
    anywhere = low + (high - low) * rng.random((_DRAWS - len(near), low.size))
    drawn = np.clip(np.concatenate([known.mean[None], near, anywhere]), low, high)
    drawn[:, list(law.linear)] = 0.0
    return drawn


def _project(
    law: "SumOfTerms", drawn: FloatArray, points: Points, log_loss: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Set the factors to their nonnegative least squares; return thetas and relative errors."""
    low, _ = law.bounds(log_loss)
    linear = list(law.linear)
    columns = np.stack(
        [
            np.broadcast_to(term.value, (len(drawn), log_loss.size))
            for term in law.terms(drawn, points)
        ],
        axis=-1,
    )
    # Each column by its largest value, so that none overflows; its factor takes it back.
    top = columns.max(axis=1, keepdims=True)
    basis = np.exp(columns - top) * np.exp(-log_loss)[:, None]
    errors = np.full(len(drawn), np.inf)
    for index in range(len(drawn)):
        if not np.isfinite(basis[index]).all():
            continue
        try:
            factors, errors[index] = nnls(basis[index], np.ones(log_loss.size))
        except RuntimeError:
            continue
        with np.errstate(divide="ignore"):
            drawn[index, linear] = np.log(factors) - top[index, 0]
    # A term that is absent starts at a thousandth of the loss, whence it can come back.
    absent = ~np.isfinite(drawn)
    drawn[absent] = np.broadcast_to(low + 5.0, drawn.shape)[absent]
    return drawn, errors


def _distinct(theta: FloatArray, objective: FloatArray) -> FloatArray:
    """Return the best few that are not repeats of a better one."""
    kept = [theta[0]]
    worst = 3.0 * objective[0]
    for candidate, value in zip(theta[1:], objective[1:], strict=True):
        if len(kept) == _RETURNED or value > worst:
            break
        if min(float(np.abs(candidate - k).max()) for k in kept) > 0.05:
            kept.append(candidate)
    return np.array(kept)
