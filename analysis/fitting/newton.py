"""Newton's method on the Huber loss of log residuals, for many fits at once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Derivatives, FloatArray, Prior

Model = Callable[[FloatArray], Derivatives]
"""Maps theta [B, P] to the predicted log loss of all rows with its derivatives."""


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


def huber(residual: FloatArray, delta: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the Huber loss (half the square within `delta`), its derivative and its second."""
    size = np.abs(residual)
    inside = size <= delta
    psi = np.clip(residual, -delta, delta)
    # 1/2 r^2 inside, delta |r| - 1/2 delta^2 outside, in one expression.
    return psi * (residual - 0.5 * psi), psi, inside.astype(np.float64)


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
    tolerance: float = 1e-10,
    max_iterations: int = 200,
) -> Minimum:
    """Minimise sum_r w_r huber(y_r - f_r(theta)) + scale / 2 sum_p ((theta - mean) / spread)^2.

    The Hessian is exact. Its eigenvalues enter by their size and a Levenberg-Marquardt term is
    added, so every step goes downhill and steps that fail are shortened. A parameter that is at
    its bound and pushed outwards is held there.

    Args:
        model: the prediction and its derivatives.
        log_loss: y, [R].
        start: [B, P].
        weights: [B, R] or [1, R], such as bootstrap counts.
        delta: Huber's threshold, in log loss.
        bounds: box of theta, each [P].
        prior: normal priors, mean [P] or [B, P], spread [P].
        prior_scale: the noise variance, which puts the prior on the Huber sum's scale.
        tolerance: of a step, in theta.
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

    def evaluate(at: FloatArray, rows: np.ndarray) -> tuple[FloatArray, FloatArray, FloatArray]:
        predicted, gradient, curvature = model(at)
        loss, psi, inside = huber(log_loss - predicted, delta)
        w = weights[rows]
        weighted_psi = w * psi
        off = at - centre[rows]
        objective = (w * loss).sum(axis=1) + 0.5 * (precision * off * off).sum(axis=1)
        slope = precision * off - np.matmul(gradient, weighted_psi[:, :, None])[..., 0]
        hessian = np.matmul(gradient * (w * inside)[:, None, :], gradient.swapaxes(1, 2))
        hessian -= curvature(weighted_psi)
        hessian[:, np.arange(size), np.arange(size)] += precision
        return objective, slope, hessian

    active = np.arange(batch)
    objective, slope, hessian = evaluate(theta, active)
    final = objective.copy()
    converged = np.zeros(batch, dtype=bool)
    current = theta.copy()
    damping = np.full(batch, 1e-4)
    eigenvalues, vectors = _decompose(hessian, slope, current, lower, upper)
    for _ in range(max_iterations):
        held = _held(slope, current, lower, upper)
        projected = np.matmul(vectors.swapaxes(1, 2), np.where(held, 0.0, slope)[..., None])[
            ..., 0
        ]
        magnitude = np.abs(eigenvalues)
        largest = magnitude.max(axis=1, keepdims=True)
        scaled = np.maximum(magnitude, 1e-9 * largest) + damping[:, None] * largest
        step = -np.matmul(vectors, (projected / scaled)[..., None])[..., 0]
        # No coordinate moves by more than one unit (a factor of e) at a time.
        step /= np.maximum(np.abs(step).max(axis=1, keepdims=True), 1.0)
        proposal = np.clip(current + step, lower, upper)
        moved = np.abs(proposal - current).max(axis=1)
        new_objective, new_slope, new_hessian = evaluate(proposal, active)
        better = new_objective <= objective
        gain = objective - new_objective
        damping = np.where(better, damping * 0.1, np.maximum(damping * 8.0, 1e-8))
        damping[damping < 1e-10] = 0.0
        done = (moved < tolerance) | (damping > 1e8)
        done |= better & (gain <= 1e-15 * objective) & (moved < 1e-4)
        if better.any():
            current[better] = proposal[better]
            objective[better] = new_objective[better]
            slope[better] = new_slope[better]
            eigenvalues[better], vectors[better] = _decompose(
                new_hessian[better], new_slope[better], current[better], lower, upper
            )
        if done.any():
            rows = active[done]
            theta[rows], final[rows], converged[rows] = current[done], objective[done], True
            keep = ~done
            active, current, objective = active[keep], current[keep], objective[keep]
            slope, damping = slope[keep], damping[keep]
            eigenvalues, vectors = eigenvalues[keep], vectors[keep]
            if active.size == 0:
                break
    theta[active], final[active] = current, objective
    return Minimum(theta, final, converged)


def _held(
    slope: FloatArray, theta: FloatArray, lower: FloatArray, upper: FloatArray
) -> np.ndarray:
    """Return which parameters sit at a bound with the objective falling beyond it, [B, P]."""
    return ((theta <= lower) & (slope > 0)) | ((theta >= upper) & (slope < 0))


def _decompose(
    hessian: FloatArray,
    slope: FloatArray,
    theta: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return eigenvalues and vectors of the Hessian with the held parameters decoupled."""
    held = _held(slope, theta, lower, upper)
    if held.any():
        free = ~held
        hessian = hessian * (free[:, :, None] & free[:, None, :])
        index = np.arange(hessian.shape[1])
        hessian[:, index, index] += held
    return np.linalg.eigh(hessian)
