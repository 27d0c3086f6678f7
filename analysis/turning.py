"""After how many epochs curves of repeated data are done: a belief that needs no law of the loss.

A curve is done at the observation that shows it past its minimum (`analysis/ushape.py`). With
x = ln N and u = ln U, measured from the middle of what is searched,

    ln e_done = a + m u - k x + noise.

Curves that are done say where; the others say that they were not done yet. The posterior of
(a, m, k) is summed over a grid and used as a normal one. The prior knows the paper's exponents
(.39 and .55, equation 15) loosely, and that some hundreds of epochs were enough for models of 1e5
parameters on 1e4 bytes as for those of 1e8 on 1e7 tokens, give or take a factor of four.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr, ndtri

from analysis.laws.base import FloatArray

PRIOR_MEAN = np.array([np.log(300.0), 0.45, 0.4])
PRIOR_SPREAD = np.array([1.3, 0.25, 0.25])

SCATTER = 0.35
"""Standard deviation of ln e_done about its line: points lie a factor apart, and seeds differ."""

_REACH = 3.5
_CELLS = (61, 15, 15)


class Curve(NamedTuple):
    """What one trajectory has shown."""

    params: float
    unique_tokens: float
    epochs: float
    """At which it was done, or to which it was seen."""
    done: bool


@dataclass(frozen=True)
class Turning:
    """A normal belief about (a, m, k).

    Attributes:
        log_params, log_unique: the middle of what is searched.
        mean: [3].
        covariance: [3, 3].
    """

    log_params: float
    log_unique: float
    mean: FloatArray
    covariance: FloatArray

    @classmethod
    def of(cls, params: float, unique_tokens: float, curves: Sequence[Curve] = ()) -> "Turning":
        """Return the belief after some curves.

        Args:
            params: N in the middle of what is searched.
            unique_tokens: U there.
            curves: what was seen; those still under way were not done yet.
        """
        middle = float(np.log(params)), float(np.log(unique_tokens))
        axes = [
            mean + spread * np.linspace(-_REACH, _REACH, cells)
            for mean, spread, cells in zip(PRIOR_MEAN, PRIOR_SPREAD, _CELLS, strict=True)
        ]
        grid = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)
        score = -0.5 * (((grid - PRIOR_MEAN) / PRIOR_SPREAD) ** 2).sum(axis=1)
        for curve in curves:
            there = grid @ _row(*middle, curve.params, curve.unique_tokens)
            off = (there - np.log(curve.epochs)) / SCATTER
            score += -0.5 * off**2 if curve.done else log_ndtr(off)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        mean = weight @ grid
        return cls(*middle, mean, (weight[:, None] * (grid - mean)).T @ (grid - mean))

    def quantile(self, params: ArrayLike, unique_tokens: ArrayLike, share: float) -> FloatArray:
        """Return the epochs by which a curve is done with probability `share`, [R]."""
        mean, spread = self._normal(params, unique_tokens)
        return np.exp(mean + spread * float(ndtri(share)))

    def chance(self, params: ArrayLike, unique_tokens: ArrayLike, epochs: ArrayLike) -> FloatArray:
        """Return the probability that a curve is done within so many epochs, [R]."""
        mean, spread = self._normal(params, unique_tokens)
        found: FloatArray = ndtr((np.log(epochs) - mean) / spread)
        return found

    def expected(
        self, params: ArrayLike, unique_tokens: ArrayLike, epochs: ArrayLike
    ) -> FloatArray:
        """Return the mean epochs of a curve that ends when it is done or at `epochs`, [R]."""
        mean, spread = self._normal(params, unique_tokens)
        limit = np.asarray(epochs, dtype=np.float64)
        z = (np.log(limit) - mean) / spread
        found: FloatArray = np.exp(mean + 0.5 * spread**2) * ndtr(z - spread) + limit * ndtr(-z)
        return found

    def _normal(
        self, params: ArrayLike, unique_tokens: ArrayLike
    ) -> tuple[FloatArray, FloatArray]:
        rows = _row(self.log_params, self.log_unique, params, unique_tokens).T
        variance = np.einsum("...p,pq,...q->...", rows, self.covariance, rows)
        return rows @ self.mean, np.sqrt(variance + SCATTER**2)


def _row(
    log_params: float, log_unique: float, params: ArrayLike, unique_tokens: ArrayLike
) -> FloatArray:
    """Return (1, u, -x), [3] or [3, R]."""
    x = np.log(np.asarray(params, dtype=np.float64)) - log_params
    u = np.log(np.asarray(unique_tokens, dtype=np.float64)) - log_unique
    return np.stack(np.broadcast_arrays(1.0, u, -x))
