"""What is expected of one run before it is trained, as plain numbers that a ledger can keep."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri

from analysis.laws.base import FloatArray, Points
from analysis.steering.belief import Belief
from analysis.uncertainty import LEVEL

_NEGLIGIBLE = 1e-4
"""Probability under which a form is left out."""

_FARTHEST = 8.0
"""Surprises are stated up to so many standard deviations."""

_BISECTIONS = 50


@dataclass(frozen=True)
class Predictive:
    """ln L of one run, noise included: a mixture of normal distributions.

    Attributes:
        shares: probabilities of the forms, [F].
        means: ln L under each, [F].
        spreads: standard deviations, [F].
    """

    shares: FloatArray
    means: FloatArray
    spreads: FloatArray

    @classmethod
    def of(cls, belief: Belief, point: Points) -> "Predictive":
        """Return what a belief expects of a run that is observed at one point."""
        phi = belief.basis.features(point)
        flops = float(np.log(6.0)) + point.log_params + point.log_tokens
        rows = []
        for share, part in zip(belief.shares, belief.parts, strict=True):
            if share < _NEGLIGIBLE:
                continue
            f = part.gradient(point, phi)[0]
            variance = float(f @ part.covariance @ f) + float(part.noise.at(flops)[0]) ** 2
            rows.append((share, part.log_loss(point, phi)[0], np.sqrt(variance)))
        shares, means, spreads = np.array(rows, dtype=np.float64).T
        return cls(shares / shares.sum(), means, spreads)

    def moved(self, by: float, unsure: float) -> "Predictive":
        """Return the same with ln L higher by `by`, known to a standard deviation of `unsure`."""
        return replace(self, means=self.means + by, spreads=np.hypot(self.spreads, unsure))

    @property
    def spread(self) -> float:
        """Standard deviation of ln L, what the forms differ in included."""
        mean = self.shares @ self.means
        return float(np.sqrt(self.shares @ (self.spreads**2 + (self.means - mean) ** 2)))

    def interval(self) -> tuple[float, float, float]:
        """Return the median of L and the ends of its 90 % interval."""
        levels = np.array([0.5, 0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])
        reach = _FARTHEST * self.spreads
        low = np.full(3, float((self.means - reach).min()))
        high = np.full(3, float((self.means + reach).max()))
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = ndtr((middle[:, None] - self.means) / self.spreads) @ self.shares
            high = np.where(below >= levels, middle, high)
            low = np.where(below >= levels, low, middle)
        median, lower, upper = (float(value) for value in np.exp(0.5 * (low + high)))
        return median, lower, upper

    def surprise(self, loss: float) -> float:
        """Return the quantile of an observed loss as a normal deviate, within +-8."""
        z = (np.log(loss) - self.means) / self.spreads
        # From the nearer tail, where 1 - p has not lost its digits.
        below, above = float(ndtr(z) @ self.shares), float(ndtr(-z) @ self.shares)
        deviate = ndtri(below) if below < above else -ndtri(above)
        return float(np.clip(deviate, -_FARTHEST, _FARTHEST))
