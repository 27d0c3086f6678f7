"""The "super-law": the coupled law with room for what real tables show besides.

ln L = ln(E + (U^(1/kappa) + V^(1/kappa))^kappa) + lambda1 s(N/N0) + lambda2 s(D/D0)
ln U = a - alpha x,  ln V = b - (beta + gamma x) z,  x = ln N/N0,  z = ln D/D0
s(r) = 1 / (r^(1/2) + 1/8)

gamma lets the exponent of D drift with size; lambda1 and lambda2 are offsets of the smallest
runs, which fade with scale. Four tight priors shrink it to the five-parameter law where the data
do not speak against that. N0 and D0 are the runs' geometric means: the law is stated about them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from analysis.laws.base import (
    Derivatives,
    FloatArray,
    Law,
    Points,
    Prior,
    no_curvature,
    register_law,
)
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.coupled import LOG_KAPPA_BOUNDS, LOG_KAPPA_SPREAD, joined

GAMMA_SPREAD = 0.012
OFFSET_SPREAD = 0.03
"""Of the priors: an exponent that drifts by .03 a decade, offsets of 3 % at the runs' middle."""

_GAMMA_BOUND = 0.1
_OFFSET_BOUND = 0.5
_SATURATION = 0.125
"""Bounds an offset at eight times its size: without it, a negative one would promise ever lower
losses to ever smaller models."""


def _fading(log_ratio: FloatArray) -> FloatArray:
    """Return s, which falls as the square root of size."""
    return np.asarray(1.0 / (np.exp(0.5 * log_ratio) + _SATURATION))


@dataclass(frozen=True)
class SuperLaw(Law):
    """Nine parameters, four of them tied to zero by priors.

    Attributes:
        log_params, log_tokens: ln N0 and ln D0. Theta is stated about them.
    """

    log_params: float = 0.0
    log_tokens: float = 0.0

    name: ClassVar[str] = "super"
    parameters: ClassVar[tuple[str, ...]] = (
        *("E", "A", "B", "alpha", "beta"),
        *("kappa", "gamma", "lambda1", "lambda2"),
    )
    coordinates: ClassVar[tuple[str, ...]] = (
        *("ln_E", "ln_A", "ln_B", "alpha", "beta"),
        *("ln_kappa", "gamma", "lambda1", "lambda2"),
    )
    kinds: ClassVar[tuple[str, ...]] = (*CHINCHILLA.kinds, "shape", "shape", "shape", "shape")

    def _here(self, points: Points) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        x, z = points.log_params - self.log_params, points.log_tokens - self.log_tokens
        return x, z, _fading(x), _fading(z)

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        x, z, small_x, small_z = self._here(points)
        theta = np.asarray(theta, dtype=np.float64)
        e, a, b, alpha, beta, log_kappa, gamma, l1, l2 = (theta[..., i : i + 1] for i in range(9))
        sums = joined(e + 0.0 * x, a - alpha * x, b - (beta + gamma * x) * z, log_kappa)
        return sums.value + l1 * small_x + l2 * small_z

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        x, z, small_x, small_z = self._here(points)
        e, a, b, alpha, beta, log_kappa, gamma, l1, l2 = (theta[..., i : i + 1] for i in range(9))
        at = joined(e + 0.0 * x, a - alpha * x, b - (beta + gamma * x) * z, log_kappa)
        rows = at.value.shape
        gradient = np.stack(
            [
                at.by_floor,
                at.by_params,
                at.by_tokens,
                -at.by_params * x,
                -at.by_tokens * z,
                at.by_log_kappa,
                -at.by_tokens * x * z,
                np.broadcast_to(small_x, rows),
                np.broadcast_to(small_z, rows),
            ],
            axis=-2,
        )
        value = at.value + l1 * small_x + l2 * small_z
        return Derivatives(value, gradient, lambda weights: no_curvature(weights, 9))

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        del log_params, log_tokens
        return np.eye(9)

    def located(self, log_params: float, log_tokens: float) -> "SuperLaw":
        return SuperLaw(log_params, log_tokens)

    def settings(self) -> dict[str, Any]:
        return {"log_params": self.log_params, "log_tokens": self.log_tokens}

    def with_settings(self, settings: Mapping[str, Any]) -> "SuperLaw":
        return SuperLaw(float(settings["log_params"]), float(settings["log_tokens"]))

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = CHINCHILLA.bounds(log_loss)
        extra = np.array([_GAMMA_BOUND, _OFFSET_BOUND, _OFFSET_BOUND])
        return (
            np.concatenate([low, [LOG_KAPPA_BOUNDS[0]], -extra]),
            np.concatenate([high, [LOG_KAPPA_BOUNDS[1]], extra]),
        )

    def clip(self, theta: FloatArray) -> FloatArray:
        return np.concatenate([CHINCHILLA.clip(theta[..., :5]), theta[..., 5:]], axis=-1)

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        found = CHINCHILLA.starts(points, log_loss)
        return np.concatenate([found, np.zeros((len(found), 4))], axis=1)

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        five = CHINCHILLA.prior(points, log_loss, weak=weak)
        spread = [LOG_KAPPA_SPREAD, GAMMA_SPREAD, OFFSET_SPREAD, OFFSET_SPREAD]
        return Prior(
            np.concatenate([five.mean, np.zeros(4)]), np.concatenate([five.spread, spread])
        )

    def latex(self) -> str:
        return (
            r"\ln L(N, D) = \ln\left(E + \left(U^{1/\kappa} + V^{1/\kappa}\right)^{\kappa}\right)"
            r" + \lambda_1 s(N/N_0) + \lambda_2 s(D/D_0), \quad s(r) = (\sqrt{r} + 1/8)^{-1},"
            r" \; U = A (N_0/N)^{\alpha}, \; V = B (D_0/D)^{\beta + \gamma \ln(N/N_0)}"
        )


SUPER = register_law(SuperLaw())
