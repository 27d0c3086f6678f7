"""How much runs scatter: one size that may grow towards small runs, and now and then an outlier.

The scatter of a run at compute C is sigma (C0 / C)^slope, C0 the runs' middle. A share of runs is
ten times as far off (a diverging run that recovered, a wrong row): each run is weighed by how
likely it is to be none of those, which costs nothing while there are none.
"""

from dataclasses import dataclass, replace

import numpy as np

from analysis.laws.base import FloatArray

TYPICAL = 0.005
"""Scatter of log loss to assume before the runs say otherwise."""

PRIOR_ROWS = 2.0
"""How many runs that is worth."""

SLOPE_SPREAD = 0.1
"""Of the prior on the slope; seeds of tiny models scatter up to a few times as much."""

_LARGEST_SLOPE = 0.4
_OUTLIERS = 0.02
_FAR = 10.0
_SMALLEST = 2e-4


@dataclass(frozen=True)
class Noise:
    """Scatter of log loss.

    Attributes:
        sigma: standard deviation at the runs' middle.
        slope: by how much ln sigma falls for each e-fold of compute, at least 0.
        middle: ln C0.
        weights: of each run, 1 or close to it unless it is an outlier, [R].
    """

    sigma: float
    slope: float
    middle: float
    weights: FloatArray

    def at(self, log_flops: FloatArray) -> FloatArray:
        """Return the standard deviation of runs of this compute, [S]."""
        return self.sigma * np.exp(self.slope * (self.middle - log_flops))

    def learnt(self, residual: FloatArray, unsure: FloatArray, log_flops: FloatArray) -> "Noise":
        """Return the noise after one step of expectation and maximisation.

        Args:
            residual: observed less predicted ln L, [R].
            unsure: variance of the prediction, which hides a part of the noise, [R].
            log_flops: ln of 6 N D, [R].
        """
        size = self.at(log_flops)
        weights = inlying(residual / size)
        relative = weights * (residual**2 + unsure) / size**2
        rows = float(residual.size)
        scale = (relative.sum() + PRIOR_ROWS * (TYPICAL / self.sigma) ** 2) / (rows + PRIOR_ROWS)
        relative = relative / scale
        lower = self.middle - log_flops
        tilt = float(lower @ (relative - 1.0)) - self.slope / SLOPE_SPREAD**2
        slope = self.slope + tilt / (2.0 * float(lower @ lower) + 1.0 / SLOPE_SPREAD**2)
        return replace(
            self,
            sigma=max(self.sigma * float(np.sqrt(scale)), _SMALLEST),
            slope=float(np.clip(slope, 0.0, _LARGEST_SLOPE)),
            weights=weights,
        )

    def log_density(self, residual: FloatArray, log_flops: FloatArray) -> float:
        """Return the log probability of residuals, priors on sigma and slope included."""
        size = self.at(log_flops)
        near, far = _log_parts(residual / size)
        rows = float((np.logaddexp(near, far) - np.log(size)).sum())
        ratio = np.log(self.sigma / TYPICAL)
        prior = -0.5 * PRIOR_ROWS * (2.0 * ratio + np.exp(-2.0 * ratio))
        return rows + float(prior) - 0.5 * (self.slope / SLOPE_SPREAD) ** 2


def inlying(standard: FloatArray) -> FloatArray:
    """Return the weight of each run from its residual in standard deviations, [R]."""
    near, far = _log_parts(standard)
    inside = 1.0 / (1.0 + np.exp(np.clip(far - near, -700.0, 700.0)))
    return np.asarray(inside + (1.0 - inside) / _FAR**2)


def _log_parts(standard: FloatArray) -> tuple[FloatArray, FloatArray]:
    square = 0.5 * standard**2
    return (
        np.log(1.0 - _OUTLIERS) - square,
        np.log(_OUTLIERS / _FAR) - square / _FAR**2,
    )
