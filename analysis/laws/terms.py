"""Sums of terms with exact derivatives, from the logarithm of each term and its derivatives.

With L = sum_k exp(t_k(theta)), s_k the share of term k in L and g the gradient of ln L,

    g = sum_k s_k grad t_k
    Hessian of ln L = sum_k s_k (grad t_k grad t_k^T + Hessian t_k) - g g^T

so a law only states each t_k with its first and second derivatives in the few coordinates that
the term depends on. A `Jet` holds them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from analysis.laws.base import Derivatives, FloatArray, Law, Points, Prior
from analysis.laws.projection import projected_starts

LARGEST_LOG = 600.0
"""Of a predicted log loss: far beyond it, a formula of doubly exponential terms overflows."""


@dataclass(frozen=True)
class Jet:
    """A quantity at R points for B thetas, with derivatives in some coordinates of theta.

    Attributes:
        value: [..., R].
        first: derivative by coordinate, each broadcastable to [..., R]; absent ones are zero.
        second: second derivative by pair of coordinates (i, j) with i <= j.
    """

    value: FloatArray
    first: dict[int, FloatArray] = field(default_factory=dict)
    second: dict[tuple[int, int], FloatArray] = field(default_factory=dict)


def pair(i: int, j: int) -> tuple[int, int]:
    """Return the key of a second derivative."""
    return (i, j) if i <= j else (j, i)


def constant(theta: FloatArray, index: int) -> Jet:
    """Return the term that is one coordinate itself, such as ln E."""
    value = theta[..., index : index + 1]
    return Jet(value, {index: np.ones_like(value)})


def power(theta: FloatArray, scale: int, exponent: int, base: Jet) -> Jet:
    """Return ln S - p b: the logarithm of S / X^p, with b = ln X, which may depend on theta.

    Args:
        theta: [..., P].
        scale: coordinate ln S.
        exponent: coordinate p.
        base: ln X, in coordinates other than these two unless `scale` is one of them.
    """
    p = theta[..., exponent : exponent + 1]
    first = {i: -p * g for i, g in base.first.items()}
    second = {k: -p * h for k, h in base.second.items()}
    one = np.ones_like(p)
    first[scale] = first.get(scale, 0.0) + one
    first[exponent] = first.get(exponent, 0.0) - base.value
    for i, g in base.first.items():
        # d2 / dp di of -p b; twice on the diagonal, where p itself moves b.
        key = pair(i, exponent)
        second[key] = second.get(key, 0.0) - (g if i != exponent else 2.0 * g)
    return Jet(theta[..., scale : scale + 1] - p * base.value, first, second)


def log_sum(values: Sequence[FloatArray]) -> tuple[FloatArray, list[FloatArray]]:
    """Return ln sum_k exp(t_k) and the shares s_k, each [..., R]."""
    top = values[0]
    for value in values[1:]:
        top = np.maximum(top, value)
    parts = [np.exp(value - top) for value in values]
    total = sum(parts[1:], start=parts[0])
    return top + np.log(total), [part / total for part in parts]


def combine(terms: Sequence[Jet], size: int) -> Derivatives:
    """Return ln L with its derivatives for L the sum of the terms' exponentials.

    Args:
        terms: logarithms of the terms, values broadcastable to [B, R].
        size: number of coordinates, P.
    """
    value, shares = log_sum([term.value for term in terms])
    batch, rows = value.shape
    gradient = np.zeros((batch, size, rows))
    for term, share in zip(terms, shares, strict=True):
        for i, slope in term.first.items():
            gradient[:, i] += share * slope

    def curvature(weights: FloatArray) -> FloatArray:
        result = -np.matmul(gradient * weights[:, None, :], gradient.swapaxes(-1, -2))
        for term, share in zip(terms, shares, strict=True):
            weighted = weights * share
            index = np.array(list(term.first))
            slopes = np.stack(
                [np.broadcast_to(g, (batch, rows)) for g in term.first.values()], axis=1
            )
            outer = np.matmul(slopes * weighted[:, None, :], slopes.swapaxes(-1, -2))
            result[:, index[:, None], index] += outer
            for (i, j), bend in term.second.items():
                amount = (weighted * bend).sum(axis=-1)
                result[:, i, j] += amount
                if i != j:
                    result[:, j, i] += amount
        return result

    return Derivatives(value, gradient, curvature)


class SumOfTerms(Law):
    """A law whose loss is a sum of positive terms: `terms` says all that its formula says."""

    needs_unique: ClassVar[bool] = True
    linear: ClassVar[tuple[int, ...]]
    """Coordinates that are the logarithm of a term's factor, one for each term, in order."""

    @abstractmethod
    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        """Return the logarithm of each term with its derivatives, for theta [..., P]."""

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        theta = np.asarray(theta, dtype=np.float64)
        value, _ = log_sum([term.value for term in self.terms(theta, points)])
        return np.minimum(value, LARGEST_LOG)

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        return combine(self.terms(theta, points), len(self.coordinates))

    def clip(self, theta: FloatArray) -> FloatArray:
        low, high = self.bounds(np.zeros(1))
        bounded = np.array([kind in ("exponent", "shape") for kind in self.kinds])
        free = np.array([name.startswith("ln_") for name in self.coordinates]) | ~bounded
        return np.where(free, theta, np.clip(theta, low, high))

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        return projected_starts(self, points, log_loss)

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        del points
        size = len(self.coordinates)
        if not weak:
            return Prior(np.zeros(size), np.full(size, np.inf))
        return self.published(float(np.mean(log_loss)))

    @abstractmethod
    def published(self, level: float) -> Prior:
        """Return what published laws say of the centred coordinates, weakly."""
