"""A law of repeated data whose overfitting ends at a ceiling: this package's own form."""

from typing import ClassVar

import numpy as np

from analysis.laws.base import FloatArray, Points, Prior, register_law
from analysis.laws.chinchilla import EXPONENT_BOUNDS, SMALLEST_SHARE
from analysis.laws.repeated import epochs_of, log_beyond_first, saturating
from analysis.laws.repetition import LOG_LIMIT_BOUNDS
from analysis.laws.terms import Jet, SumOfTerms, constant, pair, power


class CeilingOverfit(SumOfTerms):
    """L = E + A/N^alpha + B/D'^beta + M / (1 + (e_0 / (e - 1))^gamma), e_0 = kappa (U/N)^eta.

    D' = U (1 + R_D (1 - exp(-(e - 1)/R_D))), Muennighoff's. The loss that overfitting adds
    grows as a power of the epochs until about e_0, which comes earlier for larger models and
    later with more data, and levels off at M: the curves of the Quokka paper's largest models
    do level off, which none of the paper's three forms can follow. With as many parameters as
    equation 14 it fits those curves better than all three and predicts held-out larger models
    better; held-out larger corpora about as well. Lowest losses of held-out curves are predicted
    better by `data_constrained_log`. The
    paper does not have it.
    """

    name: ClassVar[str] = "data_constrained_ceiling"
    parameters: ClassVar[tuple[str, ...]] = (
        "E", "A", "B", "M", "alpha", "beta", "kappa", "eta", "gamma", "R_D",
    )  # fmt: skip
    coordinates: ClassVar[tuple[str, ...]] = (
        "ln_E", "ln_A", "ln_B", "ln_M", "alpha", "beta", "ln_kappa", "eta", "gamma", "ln_R_D",
    )  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (
        "floor", "scale", "scale", "scale", "exponent",
        "exponent", "shape", "exponent", "exponent", "shape",
    )  # fmt: skip
    linear: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        return [
            constant(theta, 0),
            power(theta, 1, 4, Jet(points.log_params)),
            power(theta, 2, 5, saturating(theta, points, 9)),
            _overfit(theta, points),
        ]

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(10)
        transform[1, 4] = log_params
        transform[2, 5] = log_tokens
        transform[6, 7] = log_params - log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        floor = level - SMALLEST_SHARE
        limit_low, limit_high = LOG_LIMIT_BOUNDS
        return (
            np.array([floor, floor, floor, floor, low, low, -10.0, 0.0, 0.1, limit_low]),
            np.array([level + 1.0, *[level + 8.0] * 3, high, high, 25.0, 4.0, 8.0, limit_high]),
        )

    def published(self, level: float) -> Prior:
        """Return weak priors: the terms of N and D as published, the rest from one set of runs."""
        shares = level + np.log([0.3, 0.1, 0.6, 0.7])
        mean = np.array([*shares, 0.5, 0.2, 10.0, 1.0, 1.7, np.log(50.0)])
        return Prior(mean, np.array([1.0, 1.5, 0.7, 1.0, 0.3, 0.15, 3.0, 0.5, 0.7, 1.5]))

    def describe(self, theta: FloatArray) -> str:
        e, a, b, most, alpha, beta, kappa, eta, gamma, limit = self.natural(theta)
        return (
            f"L = {e:.4g} + {a:.4g}/N^{alpha:.4g} + {b:.4g}/D'^{beta:.4g} + {most:.4g}"
            f"/(1 + (e_0/(e-1))^{gamma:.4g}), e_0 = {kappa:.4g} (U/N)^{eta:.4g}, "
            f"D' = U (1 + {limit:.4g} (1 - exp(-(e-1)/{limit:.4g}))), e = D/U"
        )

    def latex(self) -> str:
        return (
            r"L(N, U, e) = E + \frac{A}{N^{\alpha}} + \frac{B}{D'^{\beta}} + "
            r"\frac{M}{1 + \left(e_0 / \max(0, e - 1)\right)^{\gamma}},\quad "
            r"e_0 = \kappa \left(\frac{U}{N}\right)^{\eta},\quad "
            r"D' = U \left(1 + R_D \left(1 - e^{-(e-1)/R_D}\right)\right)"
        )


def _overfit(theta: FloatArray, points: Points) -> Jet:
    """Return ln M - ln(1 + e^z) with z = gamma (ln kappa + eta ln(U/N) - ln(e - 1))."""
    log_unique, log_epochs = epochs_of(points)
    room = log_unique - points.log_params
    log_most, log_kappa, eta, gamma = (theta[..., i : i + 1] for i in (3, 6, 7, 8))
    distance = log_kappa + eta * room - log_beyond_first(log_epochs)
    z = gamma * distance
    left = 1.0 / (1.0 + np.exp(-np.clip(z, -700.0, 700.0)))
    bend = -left * (1.0 - left)
    slopes = {6: gamma, 7: gamma * room, 8: distance}
    first = {i: -left * slope for i, slope in slopes.items()}
    first[3] = np.ones_like(z)
    second = {pair(i, j): bend * slopes[i] * slopes[j] for i in slopes for j in slopes if i <= j}
    second[(6, 8)] = second[(6, 8)] - left
    second[(7, 8)] = second[(7, 8)] - left * room
    return Jet(log_most - np.logaddexp(0.0, z), first, second)


DATA_CONSTRAINED_CEILING = register_law(CeilingOverfit())
