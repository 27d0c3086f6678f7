"""The Quokka paper's two alternatives for repeated data (arXiv 2510.03280, appendix B).

Both value data by Muennighoff's saturating form and add a term for overfitting.
"""

from typing import ClassVar

import numpy as np

from analysis.laws.base import FloatArray, Points, Prior, register_law
from analysis.laws.chinchilla import EXPONENT_BOUNDS, SMALLEST_SHARE
from analysis.laws.repeated import epochs_of, saturating
from analysis.laws.terms import Jet, SumOfTerms, constant, pair, power

LOG_LIMIT_BOUNDS = (float(np.log(0.1)), float(np.log(1e9)))
"""Of ln R: below, repeated tokens are worthless; above, they are as good as new ones."""

_LOG_TINY = -690.0
_LARGEST_SCALE = 25.0


class LogarithmicOverfit(SumOfTerms):
    """L = E + A/N^alpha + B/D'^beta + mu (N/U)^delta (ln e)^gamma, equation 18.

    D' = U (1 + R (1 - exp(-(e - 1)/R))) with R written R_D. The published fit, equation 21, has
    R_D so large that D' is D: `LOG_LIMIT_BOUNDS` ends where that is so. The logarithm is the
    natural one; the printed mu, 58e-4, does not give the paper's curve, which needs 1.58e-4.
    """

    name: ClassVar[str] = "data_constrained_log"
    parameters: ClassVar[tuple[str, ...]] = (
        "E", "A", "B", "mu", "alpha", "beta", "delta", "gamma", "R_D",
    )  # fmt: skip
    coordinates: ClassVar[tuple[str, ...]] = (
        "ln_E", "ln_A", "ln_B", "ln_mu", "alpha", "beta", "delta", "gamma", "ln_R_D",
    )  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (
        "floor", "scale", "scale", "scale",
        "exponent", "exponent", "exponent", "exponent", "shape",
    )  # fmt: skip
    linear: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        log_unique, log_epochs = epochs_of(points)
        with np.errstate(divide="ignore"):
            growth = np.maximum(np.log(log_epochs), _LOG_TINY)
        size = points.log_params - log_unique
        log_mu, delta, gamma = (theta[..., i : i + 1] for i in (3, 6, 7))
        one = np.ones_like(log_mu)
        overfit = Jet(
            log_mu + delta * size + gamma * growth, {3: one, 6: size * one, 7: growth * one}
        )
        return [
            constant(theta, 0),
            power(theta, 1, 4, Jet(points.log_params)),
            power(theta, 2, 5, saturating(theta, points, 8)),
            overfit,
        ]

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(9)
        transform[1, 4] = log_params
        transform[2, 5] = log_tokens
        transform[3, 6] = log_tokens - log_params
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        floor = level - SMALLEST_SHARE
        return (
            np.array([floor, floor, floor, floor - 8.0, low, low, 0.0, 0.1, LOG_LIMIT_BOUNDS[0]]),
            np.array(
                [level + 1.0] + [level + 8.0] * 3 + [high, high, 3.0, 12.0, LOG_LIMIT_BOUNDS[1]]
            ),
        )

    def published(self, level: float) -> Prior:
        """Return weak priors about equations 13, 15 and 21."""
        shares = level + np.array([*np.log([0.3, 0.1, 0.6]), -9.0])
        mean = np.array([*shares, 0.5, 0.2, 0.45, 4.0, np.log(200.0)])
        return Prior(mean, np.array([1.0, 1.5, 0.7, 3.0, 0.3, 0.15, 0.2, 1.5, 2.0]))

    def describe(self, theta: FloatArray) -> str:
        e, a, b, mu, alpha, beta, delta, gamma, limit = self.natural(theta)
        return (
            f"L = {e:.4g} + {a:.4g}/N^{alpha:.4g} + {b:.4g}/D'^{beta:.4g} "
            f"+ {mu:.4g} (N/U)^{delta:.4g} (ln e)^{gamma:.4g}, "
            f"D' = U (1 + {limit:.4g} (1 - exp(-(e-1)/{limit:.4g}))), e = D/U"
        )

    def latex(self) -> str:
        return (
            r"L(N, U, e) = E + \frac{A}{N^{\alpha}} + \frac{B}{D'^{\beta}} + "
            r"\mu \left(\frac{N}{U}\right)^{\delta} (\ln \max(1, e))^{\gamma},\quad "
            r"D' = U \left(1 + R_D \left(1 - e^{-(e-1)/R_D}\right)\right)"
        )


class SoftplusOverfit(SumOfTerms):
    """L = E + A/N^alpha + B/D'^beta + mu (N/D')^delta softplus((e - kappa (U/N)^eta)/tau)^gamma.

    Equation 22. D' = U (1 + R (1 - exp(-(e - 1)/R))) with R written R_D. Overfitting sets in
    about e = kappa (U/N)^eta and grows as a power of the epochs beyond. The published fit is
    equation 23. Of the paper's three forms it fits the digitised curves best.
    """

    name: ClassVar[str] = "data_constrained_softplus"
    parameters: ClassVar[tuple[str, ...]] = (
        "E", "A", "B", "mu", "alpha", "beta", "delta", "kappa", "eta", "tau", "gamma", "R_D",
    )  # fmt: skip
    coordinates: ClassVar[tuple[str, ...]] = (
        "ln_E", "ln_A", "ln_B", "ln_mu", "alpha", "beta", "delta",
        "ln_kappa", "eta", "ln_tau", "gamma", "ln_R_D",
    )  # fmt: skip
    kinds: ClassVar[tuple[str, ...]] = (
        "floor", "scale", "scale", "scale", "exponent", "exponent", "exponent",
        "shape", "exponent", "shape", "exponent", "shape",
    )  # fmt: skip
    linear: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)

    def terms(self, theta: FloatArray, points: Points) -> list[Jet]:
        data = saturating(theta, points, 11)
        onset = softplus_power(theta, points, (7, 8, 9, 10))
        log_mu, delta = theta[..., 3:4], theta[..., 6:7]
        size = points.log_params - data.value
        # delta (ln N - ln D') moves with delta and with R.
        first = {3: np.ones_like(log_mu), 6: size, **onset.first}
        second = dict(onset.second)
        for i, g in data.first.items():
            first[i] = -delta * g
            second[pair(6, i)] = -g
        for key, h in data.second.items():
            second[key] = -delta * h
        overfit = Jet(log_mu + delta * size + onset.value, first, second)
        return [
            constant(theta, 0),
            power(theta, 1, 4, Jet(points.log_params)),
            power(theta, 2, 5, data),
            overfit,
        ]

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(12)
        transform[1, 4] = log_params
        transform[2, 5] = log_tokens
        transform[3, 6] = log_tokens - log_params
        transform[7, 8] = log_params - log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        floor = level - SMALLEST_SHARE
        limit_low, limit_high = LOG_LIMIT_BOUNDS
        return (
            np.array(
                [floor, floor, floor, floor, low, low, 0.0, -10.0, 0.0, -3.0, 0.1, limit_low]
            ),
            np.array(
                [level + 1.0, *[level + 8.0] * 3, high, high, 3.0, 25.0, 4.0, 8.0, 6.0, limit_high]
            ),
        )

    def published(self, level: float) -> Prior:
        """Return weak priors about equations 13, 15 and 23."""
        shares = level + np.log([0.3, 0.1, 0.6, 0.05])
        mean = np.array([*shares, 0.5, 0.2, 0.35, 4.6, 1.5, 3.3, 0.9, np.log(50.0)])
        spread = np.array([1.0, 1.5, 0.7, 1.5, 0.3, 0.15, 0.2, 1.5, 0.4, 1.0, 0.4, 1.5])
        return Prior(mean, spread)

    def describe(self, theta: FloatArray) -> str:
        e, a, b, mu, alpha, beta, delta, kappa, eta, tau, gamma, limit = self.natural(theta)
        return (
            f"L = {e:.4g} + {a:.4g}/N^{alpha:.4g} + {b:.4g}/D'^{beta:.4g} + {mu:.4g} "
            f"(N/D')^{delta:.4g} softplus((e - {kappa:.4g} (U/N)^{eta:.4g})/{tau:.4g})"
            f"^{gamma:.4g}, D' = U (1 + {limit:.4g} (1 - exp(-(e-1)/{limit:.4g}))), e = D/U"
        )

    def latex(self) -> str:
        return (
            r"L(N, U, e) = E + \frac{A}{N^{\alpha}} + \frac{B}{D'^{\beta}} + "
            r"\mu \left(\frac{N}{D'}\right)^{\delta} \mathrm{softplus}\left("
            r"\frac{e - \kappa (U/N)^{\eta}}{\tau}\right)^{\gamma},\quad "
            r"D' = U \left(1 + R_D \left(1 - e^{-(e-1)/R_D}\right)\right)"
        )


def softplus_power(theta: FloatArray, points: Points, index: tuple[int, int, int, int]) -> Jet:
    """Return gamma ln softplus((e - kappa (U/N)^eta) / tau).

    Args:
        theta: [..., P].
        points: with unique tokens.
        index: of ln kappa, eta, ln tau and gamma in theta.
    """
    log_unique, log_epochs = epochs_of(points)
    log_kappa, eta, log_tau, gamma = (theta[..., i : i + 1] for i in index)
    room = log_unique - points.log_params
    # Kept where its square still is a number; the term has long vanished there.
    onset = np.exp(np.minimum(log_kappa + eta * room - log_tau, _LARGEST_SCALE))
    a = np.exp(log_epochs - log_tau) - onset
    value, slope, bend = _log_softplus(a)
    gradient = [-onset, -onset * room, -a]
    second_of_a = {
        (0, 0): -onset,
        (0, 1): -onset * room,
        (1, 1): -onset * room * room,
        (0, 2): onset,
        (1, 2): onset * room,
        (2, 2): a,
    }
    first = {index[k]: gamma * slope * g for k, g in enumerate(gradient)}
    first[index[3]] = value
    second = {}
    for (j, k), h in second_of_a.items():
        entry = gamma * (slope * h + bend * gradient[j] * gradient[k])
        second[pair(index[j], index[k])] = entry
    for k, g in enumerate(gradient):
        second[pair(index[k], index[3])] = slope * g
    return Jet(gamma * value, first, second)


def _log_softplus(a: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return f = ln ln(1 + e^a) with f' and f''; f is a + O(e^a) far below 0."""
    below = np.minimum(a, -30.0)
    middle = np.clip(a, -30.0, 30.0)
    grown = np.log1p(np.exp(middle))
    sigmoid = 1.0 / (1.0 + np.exp(-middle))
    far = a > 30.0
    plus = np.where(far, a, grown)
    slope = np.where(far, 1.0, sigmoid) / plus
    bend = np.where(far, 0.0, sigmoid * (1.0 - sigmoid)) / plus - slope * slope
    under = a < -30.0
    return (
        np.where(under, below, np.log(plus)),
        np.where(under, 1.0, slope),
        np.where(under, 0.0, bend),
    )


DATA_CONSTRAINED_LOG = register_law(LogarithmicOverfit())
DATA_CONSTRAINED_SOFTPLUS = register_law(SoftplusOverfit())
