"""Parameters of several laws beside each other, and how N_opt grows by each."""

from typing import Any

import numpy as np
from scipy.special import chdtrc

from analysis.comparison.numbers import NORMAL_QUANTILE
from analysis.laws.base import FloatArray
from analysis.state import LawState
from analysis.uncertainty import combined_interval

_REACH = 0.5 * float(np.log(10.0))
"""Half a decade of compute to either side, over which the exponent of N_opt is taken."""


def parameter_rows(states: list[LawState]) -> list[dict[str, Any]]:
    """Return each parameter by name: its estimate under each law, and whether they differ.

    Only laws of one form share parameters; under another form `z` is None.

    Returns:
        Rows of `name`, `laws` (estimates, None where the law has no such parameter) and, for
        every law after the first, `z` (in standard errors of the difference, in the coordinate
        in which the law is fitted) and `differs` (its 90 % interval leaves out zero).
    """
    names = list(dict.fromkeys(name for s in states for name in s.law.parameters))
    errors = [_spread(state) for state in states]
    rows = []
    for name in names:
        laws = [s.parameters[name].as_dict() if name in s.parameters else None for s in states]
        z: list[float | None] = []
        for number, state in enumerate(states[1:], 1):
            if not same_form(states[0], state):
                z.append(None)
                continue
            i = state.law.parameters.index(name)
            error = np.hypot(errors[0][i], errors[number][i])
            z.append(float((state.theta[i] - states[0].theta[i]) / max(error, 1e-300)))
        told = [None if v is None else abs(v) > NORMAL_QUANTILE for v in z]
        rows.append({"name": name, "laws": laws, "z": z, "differs": told})
    return rows


def same_form(first: LawState, second: LawState) -> bool:
    """Whether two laws are one formula with other numbers."""
    return (first.law.name, first.law.settings()) == (second.law.name, second.law.settings())


def joint_test(first: LawState, second: LawState) -> dict[str, float] | None:
    """Return Wald's test that two laws of one form have the same parameters, all at once.

    Returns:
        `chi2`, `degrees` and `p`; None for laws of different forms.
    """
    if not same_form(first, second):
        return None
    total = _covariance(first) + _covariance(second)
    apart = second.theta - first.theta
    # In units of each parameter's own error, so that the inverse is well scaled.
    scale = np.sqrt(np.diag(total))
    scaled = apart / scale
    chi2 = float(scaled @ np.linalg.pinv(total / np.outer(scale, scale), rcond=1e-10) @ scaled)
    degrees = len(apart)
    return {"chi2": chi2, "degrees": degrees, "p": float(chdtrc(degrees, chi2))}


def exponent(state: LawState, flops: float, unique_tokens: float | None) -> dict[str, float]:
    """Return a in N_opt ~ C^a about a budget, over a decade, with its 90 % interval."""
    log_unique = None
    if state.law.needs_unique and unique_tokens is not None:
        log_unique = float(np.log(unique_tokens))
    ends = flops * np.exp(-_REACH), flops * np.exp(_REACH)
    value, sampled = (
        np.subtract(*(state.law.optimum(t, c, log_unique)[0] for c in reversed(ends)))
        / (2.0 * _REACH)
        for t in (state.theta, state.samples)
    )
    low_gradient, high_gradient = (
        state.law.optimum_gradient(state.theta, c, log_unique)[0] for c in ends
    )
    gradient = (high_gradient - low_gradient) / (2.0 * _REACH)
    variance = np.asarray(gradient @ state.covariance @ gradient)
    low, high = combined_interval(np.asarray(value), sampled, variance)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _spread(state: LawState) -> FloatArray:
    return np.asarray(np.sqrt(np.diag(_covariance(state))), dtype=np.float64)


def _covariance(state: LawState) -> FloatArray:
    """Return the bootstrap's covariance, widened to the standard errors that are printed."""
    drawn = np.cov(state.samples, rowvar=False)
    own = np.sqrt(np.maximum(np.diag(drawn), 1e-300))
    wanted = np.sqrt(np.maximum(np.diag(state.covariance), own**2))
    ratio = wanted / own
    return np.asarray(drawn * np.outer(ratio, ratio), dtype=np.float64)
