"""The Quokka paper's law of repeated data (Ni et al. 2025, arXiv 2510.03280, equation 14)."""

from typing import ClassVar

import numpy as np

from analysis.laws.base import FloatArray, Points, Prior, register_law
from analysis.laws.chinchilla import EXPONENT_BOUNDS, SMALLEST_SHARE
from analysis.laws.repeated import penalised
from analysis.laws.terms import Jet, SumOfTerms, constant, power


class DataConstrained(SumOfTerms):
    """L = E + A / N^alpha + B / D'^beta with D' = U e^p_e exp(-((e - 1) / e_p)^gamma).

    e = D / U are the epochs, and e_p = c_p U^m_p / N^k_p says when repetition turns from help
    to harm. With fewer tokens used than there are (e < 1) those used count as U, and the law is
    Chinchilla's, as the paper says of e <= 1. With gamma < 1 the loss has an edge at e = 1,
    beyond which it rises before it falls: one epoch may be the best number of them.
    """

    name: ClassVar[str] = "data_constrained"
    parameters: ClassVar[tuple[str, ...]] = (
        "E", "A", "B", "alpha", "beta", "p_e", "c_p", "m_p", "k_p", "gamma",
    )  # fmt: skip
    coordinates: ClassVar[tuple[str, ...]] = (
        "ln_E", "ln_A", "ln_B", "alpha", "beta", "p_e", "ln_c_p", "m_p", "k_p", "gamma",
    )  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (
        "floor", "scale", "scale", "exponent", "exponent",
        "exponent", "shape", "exponent", "exponent", "exponent",
    )  # fmt: skip
    linear: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        return [
            constant(theta, 0),
            power(theta, 1, 3, Jet(points.log_params)),
            power(theta, 2, 4, penalised(theta, points, 5)),
        ]

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(10)
        transform[1, 3] = log_params
        transform[2, 4] = log_tokens
        transform[6, 7] = -log_tokens
        transform[6, 8] = log_params
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        floor = level - SMALLEST_SHARE
        return (
            np.array([floor, floor, floor, low, low, 0.05, -10.0, -1.5, -1.5, 0.05]),
            np.array(
                [level + 1.0, level + 8.0, level + 8.0, high, high, 8.0, 20.0, 3.0, 3.0, 4.0]
            ),
        )

    def published(self, level: float) -> Prior:
        """Return weak priors: the exponents of equation 15, of its refits and of Chinchilla's.

        At the middle of data-constrained runs, the term of the data is the largest.
        """
        shares = level + np.log([0.3, 0.2, 0.5])
        mean = np.array([*shares, 0.4, 0.2, 1.5, 2.0, 0.4, 0.5, 0.45])
        spread = np.array([1.0, 1.0, 0.7, 0.15, 0.15, 0.5, 3.0, 0.2, 0.2, 0.15])
        return Prior(mean, spread)

    def describe(self, theta: FloatArray) -> str:
        e, a, b, alpha, beta, p, c, m, k, gamma = self.natural(theta)
        return (
            f"L = {e:.4g} + {a:.4g}/N^{alpha:.4g} + {b:.4g}/D'^{beta:.4g}, "
            f"D' = U e^{p:.4g} exp(-((e-1)/e_p)^{gamma:.4g}), "
            f"e_p = {c:.4g} U^{m:.4g}/N^{k:.4g}, e = D/U"
        )

    def latex(self) -> str:
        return (
            r"L(N, U, e) = E + \frac{A}{N^{\alpha}} + \frac{B}{D'^{\beta}},\quad "
            r"D' = U e^{p_e} \exp\left[-\left(\frac{\max(0, e - 1)}{e_p}\right)^{\gamma}\right],"
            r"\quad e_p = c_p \frac{U^{m_p}}{N^{k_p}}"
        )


DATA_CONSTRAINED = register_law(DataConstrained())
