"""What repeated tokens are worth: the effective data of laws with unique tokens U.

All of them read the epochs e = D / U. Where more tokens are available than are used (e < 1), the
part that is used counts as the unique tokens, so that e is never under 1 and the laws become
E + A / N^alpha + B / D^beta there, as the papers say of e <= 1.
"""

import numpy as np

from analysis.laws.base import FloatArray, Points
from analysis.laws.terms import Jet

_LOG_TINY = -690.0
"""ln of the smallest epoch beyond the first that is told from none."""

_LARGEST_RATIO = 200.0
"""Of the logarithm of a resource over what it is a repetition of."""

_LARGEST_EXPONENT = 30.0
"""Of the logarithm of a penalty, which is exponentiated twice."""


def epochs_of(points: Points) -> tuple[FloatArray, FloatArray]:
    """Return ln U and ln e, with U at most D and e at least 1; shaped as the points."""
    if points.log_unique is None:
        return points.log_tokens, np.zeros_like(points.log_tokens)
    log_unique = np.minimum(points.log_unique, points.log_tokens)
    return log_unique, points.log_tokens - log_unique


def log_beyond_first(log_epochs: FloatArray) -> FloatArray:
    """Return ln(e - 1), bounded from below where e is 1."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.expm1(log_epochs)), _LOG_TINY)


def penalised(theta: FloatArray, points: Points, first: int) -> Jet:
    """Return ln D' of the Quokka paper's equation 14.

    D' = U e^{p_e} exp(-((e - 1) / e_p)^gamma), e_p = c_p U^{m_p} / N^{k_p}.

    Args:
        theta: with p_e, ln c_p, m_p, k_p, gamma from index `first` on.
        points: with unique tokens.
        first: see above.
    """
    log_unique, log_epochs = epochs_of(points)
    p, log_c, m, k, gamma = (theta[..., i : i + 1] for i in range(first, first + 5))
    x = points.log_params
    ratio = log_beyond_first(log_epochs) - log_c - m * log_unique + k * x
    penalty = np.exp(np.minimum(gamma * ratio, _LARGEST_EXPONENT))
    value = log_unique + p * log_epochs - penalty
    # The exponent gamma * ratio is linear in each of the four; by them its slopes are:
    one = np.ones_like(penalty)
    slopes = [-gamma * one, -gamma * log_unique * one, gamma * x * one, ratio]
    index = [first + 1, first + 2, first + 3, first + 4]
    derivatives = {first: log_epochs * one}
    second = {}
    for a, i in enumerate(index):
        derivatives[i] = -penalty * slopes[a]
        for b, j in enumerate(index[a:], start=a):
            bend = slopes[a] * slopes[b]
            if j == first + 4 and a < 3:
                bend = bend + slopes[a] / gamma
            second[(i, j)] = -penalty * bend
    return Jet(value, derivatives, second)


def saturation(log_ratio: FloatArray, log_limit: FloatArray) -> tuple[FloatArray, ...]:
    """Return s = ln(1 + R (1 - exp(-(e^w - 1) / R))) and s_w, s_r, s_ww, s_wr, s_rr.

    The half-life form of Muennighoff et al. (2023): what a resource grown by a factor e^w is
    worth, in the logarithm, where growth beyond the first unit fades with R = e^r.

    Args:
        log_ratio: w, at least 0.
        log_limit: r.
    """
    w = np.minimum(log_ratio, _LARGEST_RATIO)
    growth = np.exp(w)
    limit = np.exp(log_limit)
    # Beyond, exp(-y) is 0 to double precision.
    y = np.minimum(np.expm1(w) / limit, 745.0)
    left = np.exp(-y)
    worth = 1.0 - limit * np.expm1(-y)
    of_w = left * growth
    # 1 - (1 + y) exp(-y), by its series where it would cancel.
    lost = np.where(y < 1e-4, y * y * (0.5 - y / 3.0), -np.expm1(-y) - y * left)
    of_r = limit * lost
    of_ww = of_w * (1.0 - growth / limit)
    of_wr = of_w * y
    of_rr = of_r - limit * y * y * left
    s_w, s_r = of_w / worth, of_r / worth
    return (
        np.log(worth),
        s_w,
        s_r,
        of_ww / worth - s_w * s_w,
        of_wr / worth - s_w * s_r,
        of_rr / worth - s_r * s_r,
    )


def saturating(theta: FloatArray, points: Points, index: int) -> Jet:
    """Return ln D', D' = U (1 + R (1 - exp(-(e - 1) / R))), with ln R at `index` of theta."""
    log_unique, log_epochs = epochs_of(points)
    value, _, slope, _, _, bend = saturation(log_epochs, theta[..., index : index + 1])
    return Jet(log_unique + value, {index: slope}, {(index, index): bend})
