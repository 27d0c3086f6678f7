"""Newton's method on the Huber loss of log residuals, for many fits at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Derivatives, FloatArray, Prior

Model = Callable[[FloatArray], Derivatives]
"""Maps theta [B, P] to the predicted log loss of all rows with its derivatives."""

FLAT = 1e-15
"""Share of the objective that a step must promise to gain: below lies rounding."""

_FIRST_DAMPING = 1e-4
_FLATTEST = 1e-9
"""Curvature relative to M from which on a direction counts as curved."""


@dataclass(frozen=True)
class Minimum:
    """Where B minimisations ended.

    Attributes:
        theta: [B, P].
        objective: [B], the Huber sum plus the penalty.
        converged: [B].
    """

    theta: FloatArray
    objective: FloatArray
    converged: np.ndarray


def huber(residual: FloatArray, delta: float) -> tuple[FloatArray, FloatArray, np.ndarray]:
    """Return the Huber loss (half the square within `delta`), its derivative and its second."""
    psi = np.clip(residual, -delta, delta)
    # 1/2 r^2 inside, delta |r| - 1/2 delta^2 outside, in one expression.
    return psi * (residual - 0.5 * psi), psi, psi == residual


def minimise(
    model: Model,
    log_loss: FloatArray,
    start: FloatArray,
    *,
    weights: FloatArray,
    delta: float,
    bounds: tuple[FloatArray, FloatArray],
    prior: Prior | None = None,
    prior_scale: float = 0.0,
    metric: FloatArray | None = None,
    tolerance: float = 1e-10,
    enough: float = FLAT,
    max_iterations: int = 200,
) -> Minimum:
    """Minimise sum_r w_r huber(y_r - f_r(theta)) + scale / 2 sum_p ((theta - mean) / spread)^2.

    The Hessian is exact where the law gives its curvature. Steps are measured in the metric
    M = sum w psi(r)/r grad f grad f^T, which bounds the Huber loss from above (the Hessian of
    iteratively reweighted least squares): the Hessian's eigenvalues relative to M enter by their
    size, and a failed step adds a multiple of M, which turns it into a short reweighted step.
    So every step goes downhill, also where hardly any residual lies within delta and psi' alone
    is almost singular, and the scale of a coordinate does not matter. A parameter that is at its
    bound and pushed outwards is held there.

    Args:
        model: the prediction and its derivatives.
        log_loss: y, [R].
        start: [B, P].
        weights: [B, R] or [1, R], such as bootstrap counts.
        delta: Huber's threshold, in log loss.
        bounds: box of theta, each [P].
        prior: normal priors, mean [P] or [B, P], spread [P].
        prior_scale: the noise variance, which puts the prior on the Huber sum's scale.
        metric: M [P, P] of all fits, which must start near their minima; unset, each has
            its own at every point.
        tolerance: of a step, in theta.
        enough: share of the objective that a further step must promise to gain.
        max_iterations: evaluations of the model.
    """
    lower, upper = bounds
    theta = np.clip(np.array(start, dtype=np.float64), lower, upper)
    batch, size = theta.shape
    weights = np.broadcast_to(weights, (batch, log_loss.shape[0]))
    precision = np.zeros(size)
    centre = np.zeros((batch, size))
    if prior is not None:
        precision = prior_scale / prior.spread**2
        centre = np.broadcast_to(prior.mean, (batch, size))
    diagonal = np.arange(size)

    def evaluate(at: FloatArray, rows: np.ndarray) -> tuple[FloatArray, ...]:
        """Return objective [B], slope [B, P], Hessian and metric [B, P, P]."""
        predicted, gradient, curvature = model(at)
        residual = log_loss - predicted
        loss, psi, inside = huber(residual, delta)
        w = weights if len(rows) == batch else weights[rows]
        weighted_psi = w * psi
        off = at - centre[rows]
        objective = np.vecdot(w, loss) + 0.5 * (precision * off * off).sum(axis=1)
        slope = precision * off - np.matmul(gradient, weighted_psi[:, :, None])[..., 0]
        transposed = gradient.swapaxes(1, 2)
        hessian = np.matmul(gradient * (w * inside)[:, None, :], transposed)
        if metric is not None:
            scale = np.broadcast_to(metric, hessian.shape)
        else:
            share = delta / np.maximum(np.abs(residual), delta)
            scale = np.matmul(gradient * (w * share)[:, None, :], transposed)
            scale[:, diagonal, diagonal] += precision
        hessian -= curvature(weighted_psi)
        hessian[:, diagonal, diagonal] += precision
        bad = ~np.isfinite(objective + slope.sum(axis=1) + hessian.sum(axis=(1, 2)))
        if bad.any():
            # Where the formula overflows there is nothing to follow: such a start stays put.
            objective[bad], slope[bad] = np.inf, 0.0
            hessian[bad] = np.eye(size)
            scale = np.where(bad[:, None, None], np.eye(size), scale)
        return objective, slope, hessian, scale

    active = np.arange(batch)
    current = theta.copy()
    objective, slope, hessian, scale = evaluate(current, active)
    final = objective.copy()
    converged = np.zeros(batch, dtype=bool)
    damping = np.full(batch, _FIRST_DAMPING if metric is None else 0.0)
    done = np.zeros(batch, dtype=bool)
    for _ in range(max_iterations):
        held = _held(slope, current, lower, upper)
        step, promise = newton_step(hessian, scale, np.where(held, 0.0, slope), damping, held)
        # A fit that has nothing left to gain needs no further evaluation.
        done |= promise <= enough * np.abs(objective)
        if done.any():
            rows = active[done]
            theta[rows], final[rows] = current[done], objective[done]
            converged[rows] = np.isfinite(objective[done])
            keep = ~done
            active, current, objective = active[keep], current[keep], objective[keep]
            slope, hessian, scale = slope[keep], hessian[keep], scale[keep]
            damping, step = damping[keep], step[keep]
            if active.size == 0:
                break
        # No coordinate moves by more than one unit (a factor of e) at a time.
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True), 1.0)
        proposal = np.clip(current + step, lower, upper)
        moved = np.abs(proposal - current).max(axis=1)
        new_objective, new_slope, new_hessian, new_scale = evaluate(proposal, active)
        better = new_objective <= objective
        gain = objective - new_objective
        damping = np.where(better, damping * 0.1, np.maximum(damping * 8.0, 1e-3))
        damping[damping < 1e-10] = 0.0
        done = (moved < tolerance) | (damping > 1e12)
        done |= better & (gain <= FLAT * np.abs(objective)) & (moved < 1e-4)
        if better.all():
            current, objective, slope = proposal, new_objective, new_slope
            hessian, scale = new_hessian, new_scale
        elif better.any():
            one, two = better[:, None], better[:, None, None]
            current, slope = np.where(one, proposal, current), np.where(one, new_slope, slope)
            objective = np.where(better, new_objective, objective)
            hessian = np.where(two, new_hessian, hessian)
            scale = np.where(two, new_scale, scale)
    if active.size:
        theta[active], final[active], converged[active] = current, objective, done
    return Minimum(theta, final, converged)


def _held(
    slope: FloatArray, theta: FloatArray, lower: FloatArray, upper: FloatArray
) -> np.ndarray:
    """Return which parameters sit at a bound with the objective falling beyond it, [B, P]."""
    return ((theta <= lower) & (slope > 0)) | ((theta >= upper) & (slope < 0))


def newton_step(
    hessian: FloatArray,
    metric: FloatArray,
    slope: FloatArray,
    damping: FloatArray,
    held: np.ndarray,
) -> tuple[FloatArray, FloatArray]:
    """Return damped Newton steps [B, P] and what undamped ones promise to gain, [B].

    Held parameters are decoupled and stay.
    """
    size = hessian.shape[1]
    index = np.arange(size)
    if held.any():
        both = ~held[:, :, None] & ~held[:, None, :]
        hessian, metric = hessian * both, metric * both
        hessian[:, index, index] += held
        metric[:, index, index] += held
    try:
        # Where all Hessians are definite, as near minima, no eigenvalues are needed.
        np.linalg.cholesky(hessian - _FLATTEST * metric)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            step = -_solve(hessian, slope)
            promise: FloatArray = -0.5 * (step * slope).sum(axis=1)
            if damping.any():
                step = -_solve(hessian + damping[:, None, None] * metric, slope)
            if np.isfinite(promise).all() and np.isfinite(step).all():
                return step, promise
        # A direction of which neither matrix says anything passes for definite.
    except np.linalg.LinAlgError:
        # Not definite, or singular once a metric of fewer rows than parameters outweighs it.
        pass
    values, basis = _directions(hessian, metric)
    along = np.matmul(basis.swapaxes(1, 2), slope[:, :, None])[..., 0]
    step = -np.matmul(basis, (along / (values + damping[:, None]))[..., None])[..., 0]
    return step, 0.5 * (along**2 / values).sum(axis=1)


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.solve(matrix, right[:, :, None])[..., 0], dtype=np.float64)


def _directions(hessian: FloatArray, metric: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return sizes [B, P] and vectors [B, P, P] that diagonalise the Hessian and the metric.

    With Q the vectors, Q^T M Q = 1 and |Q^T H Q| = diag(sizes).
    """
    whiten = scaled_inverse_root(metric)
    relative = np.matmul(np.matmul(whiten, hessian), whiten.swapaxes(1, 2))
    values, vectors = np.linalg.eigh(relative)
    sizes = np.abs(values)
    sizes = np.maximum(sizes, _FLATTEST * sizes.max(axis=1, keepdims=True)) + 1e-300
    return sizes, np.matmul(whiten.swapaxes(1, 2), vectors)


def scaled_inverse_root(metric: FloatArray) -> FloatArray:
    """Return W [B, P, P] with W M W^T = 1, for M that may be all but singular."""
    index = np.arange(metric.shape[1])
    width = np.sqrt(metric[:, index, index])
    width[width == 0.0] = 1.0
    # A unit diagonal and a trace of ridge: directions of which the runs say nothing stay finite.
    correlation = metric / (width[:, :, None] * width[:, None, :])
    correlation[:, index, index] = 1.0 + 1e-9
    return np.linalg.inv(np.linalg.cholesky(correlation)) / width[:, None, :]
