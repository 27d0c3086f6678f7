"""How much runs scatter about a law, and what that means for the certainty of its numbers."""

import math

import numpy as np

from analysis.laws.base import FloatArray

HUBER_EFFICIENT = 1.345
"""Threshold over noise at which Huber's estimator keeps 95 % of least squares' efficiency."""

TYPICAL_NOISE = 0.01
"""Noise of log loss to assume before the runs say otherwise: seeds of tiny models scatter by .5
to 2 %, of large ones by less."""

PRIOR_ROWS = 3.0
"""How many runs that assumption is worth, where priors are in use at all."""

_SMALLEST_NOISE = 1e-6
_MAD_TO_SIGMA = 1.482602218505602


def _pooled(square_sum: float, rows: float, fitted: float, prior_rows: float) -> float:
    """Return a standard deviation from a sum of squares that `fitted` parameters reduced."""
    freedom = max(rows - fitted, 0.0 if prior_rows else 1.0)
    variance = (square_sum + prior_rows * TYPICAL_NOISE**2) / (freedom + prior_rows)
    return max(math.sqrt(variance), _SMALLEST_NOISE)


def robust_sigma(residual: FloatArray, fitted: float, prior_rows: float = 0.0) -> float:
    """Return the noise from the median absolute residual, corrected for fitted parameters."""
    mad = _MAD_TO_SIGMA * float(np.median(np.abs(residual)))
    return _pooled(residual.size * mad**2, residual.size, fitted, prior_rows)


def noise_sigma(residual: FloatArray, fitted: float, prior_rows: float = 0.0) -> float:
    """Return the noise from the residuals' squares, outliers cut at 1.345 robust sigmas.

    The median alone wastes most of the information of few residuals; a plain mean square
    follows one diverging run. The cut lowers a normal sample's mean square to .710 of itself.
    """
    cut = HUBER_EFFICIENT * robust_sigma(residual, fitted, prior_rows)
    clipped = np.clip(residual, -cut, cut)
    _, squared = _huber_moments(HUBER_EFFICIENT)
    return _pooled(float(clipped @ clipped) / squared, residual.size, fitted, prior_rows)


def effective_sigma(sigma: float, delta: float) -> float:
    """Return the noise that a Huber fit's parameters feel: larger than sigma for small delta.

    The asymptotic variance of the estimator under normal noise, E psi^2 / (E psi')^2: 1.05 at
    1.345 sigmas, pi / 2 towards absolute deviations.
    """
    inside, squared = _huber_moments(max(delta / sigma, 1e-3))
    return sigma * math.sqrt(squared) / inside


def _huber_moments(k: float) -> tuple[float, float]:
    """Return E psi' and E psi^2 of a standard normal at threshold k."""
    inside = math.erf(k / math.sqrt(2.0))
    density = math.exp(-0.5 * k * k) / math.sqrt(2.0 * math.pi)
    return inside, inside - 2.0 * k * density + k * k * (1.0 - inside)
