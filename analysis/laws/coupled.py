"""The coupled law L = E + ((A / N^alpha)^(1/kappa) + (B / D^beta)^(1/kappa))^kappa.

At kappa = 1 it is the five-parameter law; below, the larger of the two shortages dominates, and
a shortage of parameters hides one of data. Kaplan et al. 2020 (equation 1.5) is the case E = 0.
"""

from typing import ClassVar, NamedTuple

import numpy as np

from analysis.laws.base import (
    Derivatives,
    FloatArray,
    Points,
    no_curvature,
    register_law,
)
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.extended import Extended, Range

LOG_KAPPA_SPREAD = 0.25
"""Spread of the prior on ln kappa about 0. Without it, kappa and the exponents trade freely."""

LOG_KAPPA_BOUNDS = (-1.5, 1.0)


class Joined(NamedTuple):
    """ln(E + (U^(1/kappa) + V^(1/kappa))^kappa) and its slopes, each [..., R]."""

    value: FloatArray
    by_floor: FloatArray
    by_params: FloatArray
    """With respect to u = ln U."""
    by_tokens: FloatArray
    """With respect to v = ln V."""
    by_log_kappa: FloatArray


def joined(floor: FloatArray, u: FloatArray, v: FloatArray, log_kappa: FloatArray) -> Joined:
    """Return the logarithm of the coupled sum of exp(floor), exp(u) and exp(v)."""
    kappa = np.exp(log_kappa)
    share = 1.0 / (1.0 + np.exp(np.clip((v - u) / kappa, -700.0, 700.0)))
    excess = kappa * np.logaddexp(u / kappa, v / kappa)
    value = np.logaddexp(floor, excess)
    reducible = np.exp(excess - value)
    return Joined(
        value,
        np.exp(floor - value),
        reducible * share,
        reducible * (1.0 - share),
        reducible * (excess - share * u - (1.0 - share) * v),
    )


class Coupled(Extended):
    """Chinchilla's law with one more parameter, which joins its two reducible terms."""

    name: ClassVar[str] = "coupled"
    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta", "kappa")
    coordinates: ClassVar[tuple[str, ...]] = (*CHINCHILLA.coordinates, "ln_kappa")
    kinds: ClassVar[tuple[str, ...]] = (*CHINCHILLA.kinds, "shape")

    def _joined(self, theta: FloatArray, points: Points) -> Joined:
        e, a, b, alpha, beta, log_kappa = (theta[..., i : i + 1] for i in range(6))
        return joined(
            e + 0.0 * points.log_params,
            a - alpha * points.log_params,
            b - beta * points.log_tokens,
            log_kappa,
        )

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        return self._joined(np.asarray(theta, dtype=np.float64), points).value

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        at = self._joined(theta, points)
        gradient = np.stack(
            [
                at.by_floor,
                at.by_params,
                at.by_tokens,
                -at.by_params * points.log_params,
                -at.by_tokens * points.log_tokens,
                at.by_log_kappa,
            ],
            axis=-2,
        )
        return Derivatives(at.value, gradient, lambda weights: no_curvature(weights, 6))

    def last(self, log_loss: FloatArray) -> Range:
        return Range(0.0, LOG_KAPPA_SPREAD, *LOG_KAPPA_BOUNDS)

    def clip(self, theta: FloatArray) -> FloatArray:
        return np.concatenate(
            [CHINCHILLA.clip(theta[..., :5]), np.clip(theta[..., 5:], *LOG_KAPPA_BOUNDS)], axis=-1
        )

    def describe(self, theta: FloatArray) -> str:
        e, a, b, alpha, beta, kappa = self.natural(theta)
        power = 1.0 / kappa
        return (
            f"L = {e:.4g} + (({a:.4g}/N^{alpha:.4g})^{power:.4g} + "
            f"({b:.4g}/D^{beta:.4g})^{power:.4g})^{kappa:.4g}"
        )

    def latex(self) -> str:
        return (
            r"L(N, D) = E + \left(\left(\frac{A}{N^{\alpha}}\right)^{1/\kappa} + "
            r"\left(\frac{B}{D^{\beta}}\right)^{1/\kappa}\right)^{\kappa}"
        )


COUPLED = register_law(Coupled())
