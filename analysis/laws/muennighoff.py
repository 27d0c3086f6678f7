"""Muennighoff et al. (2023), "Scaling Data-Constrained Language Models", arXiv 2305.16264."""

from typing import ClassVar

import numpy as np

from analysis.laws.base import FloatArray, Points, Prior, register_law
from analysis.laws.chinchilla import EXPONENT_BOUNDS, SMALLEST_SHARE
from analysis.laws.repeated import epochs_of, saturating, saturation
from analysis.laws.terms import Jet, SumOfTerms, constant, pair, power

LOG_LIMIT_BOUNDS = (float(np.log(0.1)), float(np.log(1e9)))
"""Of ln R: below, repetition (or excess size) is worthless; above, it costs nothing."""


class Muennighoff(SumOfTerms):
    """L = E + A/N'^alpha + B/D'^beta, where repeated tokens and excess parameters fade.

    D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D))), and N' the same of N with R_N and U_N = min(N,
    N_opt(U)): parameters beyond those that are compute-optimal for U unique tokens count as the
    repetition of the latter. N_opt(U) is where alpha A / N^alpha = beta B / U^beta. The loss
    never rises with epochs, so the law gives no largest number of them.
    """

    name: ClassVar[str] = "muennighoff"
    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
    coordinates: ClassVar[tuple[str, ...]] = (
        "ln_E", "ln_A", "ln_B", "alpha", "beta", "ln_R_D", "ln_R_N",
    )  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (
        "floor", "scale", "scale", "exponent", "exponent", "shape", "shape",
    )  # fmt: skip
    linear: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        return [
            constant(theta, 0),
            power(theta, 1, 3, _useful_params(theta, points)),
            power(theta, 2, 4, saturating(theta, points, 5)),
        ]

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(7)
        transform[1, 3] = log_params
        transform[2, 4] = log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        floor = level - SMALLEST_SHARE
        limit_low, limit_high = LOG_LIMIT_BOUNDS
        return (
            np.array([floor, floor, floor, low, low, limit_low, limit_low]),
            np.array([level + 1.0, level + 8.0, level + 8.0, high, high, limit_high, limit_high]),
        )

    def published(self, level: float) -> Prior:
        """Return weak priors: R_D 15 published, 25 to 30 refitted, 500 for diffusion."""
        mean = np.array(
            [*(level + np.log([0.6, 0.2, 0.2])), 0.35, 0.38, np.log(30.0), np.log(10.0)]
        )
        return Prior(mean, np.array([0.5, 1.0, 1.0, 0.15, 0.15, 1.5, 1.5]))

    def describe(self, theta: FloatArray) -> str:
        e, a, b, alpha, beta, data, size = self.natural(theta)
        return (
            f"L = {e:.4g} + {a:.4g}/N'^{alpha:.4g} + {b:.4g}/D'^{beta:.4g}, "
            f"R_D = {data:.4g}, R_N = {size:.4g}"
        )

    def latex(self) -> str:
        return (
            r"L(N, U, e) = E + \frac{A}{N'^{\alpha}} + \frac{B}{D'^{\beta}},\quad "
            r"D' = U \left(1 + R_D \left(1 - e^{-(e-1)/R_D}\right)\right),\quad "
            r"N' = U_N \left(1 + R_N \left(1 - e^{-(N/U_N-1)/R_N}\right)\right)"
        )


def _useful_params(theta: FloatArray, points: Points) -> Jet:
    """Return ln N', which depends on (ln A, ln B, alpha, beta) through U_N, and on ln R_N."""
    log_unique, _ = epochs_of(points)
    log_a, log_b, alpha, beta, limit = (theta[..., i : i + 1] for i in (1, 2, 3, 4, 6))
    optimal = (np.log(alpha) + log_a - np.log(beta) - log_b + beta * log_unique) / alpha
    excess = np.maximum(points.log_params - optimal, 0.0)
    # Where N is no larger than is optimal, U_N is N itself and nothing else moves N'.
    over = (excess > 0).astype(np.float64)
    worth, of_w, of_r, of_ww, of_wr, of_rr = saturation(excess, limit)
    base = {
        1: 1.0 / alpha,
        2: -1.0 / alpha,
        3: (1.0 / alpha - optimal) / alpha,
        4: (log_unique - 1.0 / beta) / alpha,
    }
    bend = {
        (1, 3): -1.0 / alpha**2,
        (2, 3): 1.0 / alpha**2,
        (3, 3): (2.0 * optimal - 3.0 / alpha) / alpha**2,
        (3, 4): (1.0 / beta - log_unique) / alpha**2,
        (4, 4): 1.0 / (alpha * beta**2),
    }
    kept = over * (1.0 - of_w)
    first = {i: kept * g for i, g in base.items()}
    first[6] = over * of_r
    second = {key: kept * h for key, h in bend.items()}
    for i, g in base.items():
        for j, h in base.items():
            if i <= j:
                second[(i, j)] = second.get((i, j), 0.0) + over * of_ww * g * h
        second[pair(i, 6)] = -over * of_wr * g
    second[(6, 6)] = over * of_rr
    return Jet(points.log_params - excess + worth, first, second)


MUENNIGHOFF = register_law(Muennighoff())
