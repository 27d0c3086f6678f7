"""A dimension of the recipe with a best value, off which the loss rises as a parabola.

ln L = ... + c (x - b . z)^2,    z = (1, further regressors such as ln N/N0 and ln D/D0)

x is the logarithm of a learning rate, a batch, a weight decay, a ratio of texts. The best value
may move with the regressors, so that what small runs show says where large ones are best.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.base import Derivatives, FloatArray, Prior

LOWEST_CURVATURE, HIGHEST_CURVATURE = 1e-5, 3.0
FARTHEST_CENTRE, STEEPEST_SLOPE = 6.0, 2.0


@dataclass(frozen=True)
class Bowl:
    """The rows of a fit as one bowl sees them; theta is (ln c, b), 1 + K numbers.

    Attributes:
        off: x less `centre`, [R].
        centre: what was taken off x, and is to be added to the first of b.
        basis: z of each row, the first of them 1, [K, R].
        reference: logarithms at which the further regressors are 0, [K - 1].
        own_prior: of theta.
    """

    off: FloatArray
    centre: float
    basis: FloatArray
    reference: FloatArray
    own_prior: Prior

    @property
    def size(self) -> int:
        """Number of parameters."""
        return 1 + len(self.basis)

    def prior(self) -> Prior:
        """Return the priors in the order of the parameters."""
        return self.own_prior

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box that the fit stays in."""
        edge = np.array([FARTHEST_CENTRE, *[STEEPEST_SLOPE] * (len(self.basis) - 1)])
        low = np.concatenate([[np.log(LOWEST_CURVATURE)], -edge])
        return low, np.concatenate([[np.log(HIGHEST_CURVATURE)], edge])

    def derivatives(self, theta: FloatArray) -> Derivatives:
        """Return the log loss and derivatives for theta [B, 1 + K]."""
        batch, rows = len(theta), self.basis.shape[1]
        c = np.exp(theta[:, 0:1])
        off = self.off - theta[:, 1:] @ self.basis
        value = c * off * off
        gradient = np.empty((batch, self.size, rows))
        gradient[:, 0] = value
        gradient[:, 1:] = (-2.0 * c * off)[:, None, :] * self.basis

        def curvature(weights: FloatArray) -> FloatArray:
            result = np.zeros((batch, self.size, self.size))
            result[:, 0, 0] = (weights * c * off * off).sum(axis=-1)
            cross = (-2.0 * weights * c * off) @ self.basis.T
            result[:, 0, 1:] = cross
            result[:, 1:, 0] = cross
            weighted = (2.0 * weights * c)[:, None, :] * self.basis
            result[:, 1:, 1:] = weighted @ self.basis.T
            return result

        return Derivatives(value, gradient, curvature)

    def carried(self, then: object, old: FloatArray) -> FloatArray | None:
        """Return theta of an earlier fit's bowl `then` in these coordinates, or None."""
        if not isinstance(then, Bowl) or len(then.basis) != len(self.basis):
            return None
        theta = old.copy()
        moved = np.subtract(self.reference, then.reference)
        theta[1] += then.centre - self.centre + old[2:] @ moved
        return theta


@dataclass(frozen=True)
class BowlResponse:
    """A fitted bowl whose best value moves with N and D.

    Attributes:
        curvature: c.
        log_best: ln of the best value at (N0, D0).
        slopes: by which it goes with ln N and ln D.
        reference: N0 and D0.
        tried: the smallest and the largest value of the runs.
        samples: resamples of (log_best, slopes), [B, 3].
    """

    curvature: float
    log_best: float
    slopes: tuple[float, float]
    reference: tuple[float, float]
    tried: tuple[float, float]
    samples: FloatArray = field(default_factory=lambda: np.zeros((0, 3)))

    def best(self, params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """Return the best value at N and D."""
        x, z = self._basis(params, tokens)
        return np.asarray(np.exp(self.log_best + self.slopes[0] * x + self.slopes[1] * z))

    def estimate(self, params: float, tokens: float) -> dict[str, float | None]:
        """Return the best value at N and D with its 90 % interval, where there are resamples."""
        low = high = None
        if len(self.samples):
            x, z = self._basis(params, tokens)
            drawn = self.samples @ np.array([1.0, float(x), float(z)])
            low, high = np.exp(np.percentile(drawn, [5, 95])).tolist()
        return {"value": float(self.best(params, tokens)), "low": low, "high": high}

    def penalty(self, params: ArrayLike, tokens: ArrayLike, value: ArrayLike) -> FloatArray:
        """Return by how much ln L lies above that of the best value; NaN counts as the best."""
        given = np.asarray(value, dtype=np.float64)
        distance = np.log(given / self.best(params, tokens))
        return np.where(np.isfinite(distance), self.curvature * distance**2, 0.0)

    def _basis(self, params: ArrayLike, tokens: ArrayLike) -> tuple[FloatArray, FloatArray]:
        n, d = np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return np.log(n / self.reference[0]), np.log(d / self.reference[1])

    def document(self) -> dict[str, Any]:
        """Return what a law file says of it."""
        return {
            **self.estimate(*self.reference),
            "curvature": self.curvature,
            "slope_params": self.slopes[0],
            "slope_tokens": self.slopes[1],
            "reference_params": self.reference[0],
            "reference_tokens": self.reference[1],
            "tried": list(self.tried),
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any], samples: FloatArray) -> Self:
        """Return what `document` wrote, with its resamples."""
        low, high = stored["tried"]
        return cls(
            curvature=float(stored["curvature"]),
            log_best=float(np.log(stored["value"])),
            slopes=(float(stored["slope_params"]), float(stored["slope_tokens"])),
            reference=(float(stored["reference_params"]), float(stored["reference_tokens"])),
            tried=(float(low), float(high)),
            samples=samples,
        )
