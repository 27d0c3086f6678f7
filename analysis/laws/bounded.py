"""The bounded law: what is left to learn, R = A / N^alpha + B / D^beta, never exceeds K.

L = E + 1 / (1 / R + 1 / K). A power law promises a loss without bound to a model of no size or
no data, yet whatever has learnt nothing loses a finite amount: ln V nats a token where all V are
alike probable, soon less. Long before that the loss bends away from the power law, and a power
law fitted to the bend expects too little of larger runs. K = infinity is the five-parameter law,
and the best N on a compute budget does not depend on K.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.base import (
    Derivatives,
    FloatArray,
    Points,
    no_curvature,
    register_law,
)
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.extended import Extended, Range

LOG_BOUND = float(np.log(1.5))
LOG_BOUND_SPREAD = 0.5
"""Of the prior on ln(K / L), with L the runs' mean loss."""


class Bounded(Extended):
    """Chinchilla's law with one more parameter, the most that training can take away."""

    name: ClassVar[str] = "bounded"
    parameters: ClassVar[tuple[str, ...]] = (*CHINCHILLA.parameters, "K")
    coordinates: ClassVar[tuple[str, ...]] = (*CHINCHILLA.coordinates, "ln_K")
    kinds: ClassVar[tuple[str, ...]] = (*CHINCHILLA.kinds, "scale")

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        return self._terms(theta, points)[0]

    def _terms(self, theta: FloatArray, points: Points) -> tuple[FloatArray, ...]:
        """Return ln L, and its slopes in ln E, ln K, ln A and ln B, each [..., R]."""
        theta = np.asarray(theta, dtype=np.float64)
        e, a, b, alpha, beta, k = (theta[..., i : i + 1] for i in range(6))
        u, v = a - alpha * points.log_params, b - beta * points.log_tokens
        r = np.logaddexp(u, v)
        left = -np.logaddexp(-r, -k)
        value = np.logaddexp(e, left)
        share = np.exp(left - value)
        of_r, of_k = share * np.exp(left - r), share * np.exp(left - k)
        of_a = of_r * np.exp(u - r)
        return value, np.exp(e - value), of_k, of_a, of_r - of_a

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        value, of_e, of_k, of_a, of_b = self._terms(theta, points)
        x, z = points.log_params, points.log_tokens
        gradient = np.stack([of_e, of_a, of_b, -of_a * x, -of_b * z, of_k], axis=-2)
        return Derivatives(value, gradient, lambda weights: no_curvature(weights, 6))

    def last(self, log_loss: FloatArray) -> Range:
        level = float(np.mean(log_loss))
        return Range(level + LOG_BOUND, LOG_BOUND_SPREAD, level - 2.0, level + 8.0)

    def clip(self, theta: FloatArray) -> FloatArray:
        return np.concatenate([CHINCHILLA.clip(theta[..., :5]), theta[..., 5:]], axis=-1)

    def optimum(
        self, theta: FloatArray, flops: ArrayLike, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return ln N_opt and ln D_opt: those of the five-parameter law, as L rises with R."""
        return CHINCHILLA.optimum(np.asarray(theta)[..., :5], flops, log_unique)

    def optimum_gradient(
        self, theta: FloatArray, flops: float, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        of_params, _ = CHINCHILLA.optimum_gradient(theta[:5], flops, log_unique)
        log_params, log_tokens = self.optimum(theta, flops)
        there = Points(np.atleast_1d(log_params), np.atleast_1d(log_tokens))
        return np.append(of_params, 0.0), self.gradient(theta, there)[0]

    def describe(self, theta: FloatArray) -> str:
        e, a, b, alpha, beta, k = self.natural(theta)
        return (
            f"L = {e:.4g} + 1/(1/R + 1/{k:.4g}), R = {a:.4g}/N^{alpha:.4g} + {b:.4g}/D^{beta:.4g}"
        )

    def latex(self) -> str:
        return (
            r"L(N, D) = E + \left(\frac{1}{R} + \frac{1}{K}\right)^{-1},\quad "
            r"R = \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}"
        )


BOUNDED = register_law(Bounded())
