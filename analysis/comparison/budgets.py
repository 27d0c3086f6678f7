"""What several laws recommend for the same budgets, and where one becomes better."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from analysis.comparison.numbers import as_ratio, differs, log_difference
from analysis.comparison.parameters import exponent
from analysis.state import LawState

_GRID = 41
_BEYOND = 2.0
"""Decades beyond the union of the ranges in which a crossover is still looked for."""


def union_of_ranges(states: Sequence[LawState]) -> tuple[float, float]:
    """Return the smallest and the largest budget of any law's runs."""
    ranges = [s.validity.get("flops", (1e18, 1e21)) for s in states]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def default_budgets(states: Sequence[LawState]) -> list[float]:
    """Return powers of ten over the union of the laws' ranges, its ends where there is none."""
    low, high = union_of_ranges(states)
    tens = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    return [10.0**k for k in tens] or [low, high]


def budget_row(
    states: Sequence[LawState], flops: float, unique_tokens: float | None, losses: bool
) -> dict[str, Any]:
    """Return the optimum of each law at one budget, and how later laws differ from the first.

    Returns:
        `flops`, `laws` (each `params`, `tokens`, `loss`, `exponent` of N_opt, and
        `extrapolation_decades`) and `ratios` (of `params`, `tokens` and `loss` to the first
        law's: value, low, high, differs). Losses are None where they cannot be compared.
    """
    found = [s.optimum(flops, unique_tokens) for s in states]
    laws = []
    for state, best in zip(states, found, strict=True):
        row = best.as_dict()
        del row["flops"]
        laws.append({**row, "exponent": exponent(state, flops, unique_tokens)})
    ratios = []
    for best in found[1:]:
        row = {}
        for name in ("params", "tokens", "loss"):
            if name == "loss" and not losses:
                row[name] = None
                continue
            apart = log_difference(getattr(best, name), getattr(found[0], name))
            row[name] = {**as_ratio(apart).as_dict(), "differs": differs(apart)}
        ratios.append(row)
    return {"flops": flops, "laws": laws, "ratios": ratios}


def crossovers(
    first: LawState, second: LawState, span: tuple[float, float], unique_tokens: float | None
) -> dict[str, Any]:
    """Return the budgets at which the better of two laws changes, each spent at its optimum.

    Args:
        first, second: laws whose losses can be compared.
        span: budgets of either's runs; two decades beyond are searched too.
        unique_tokens: for laws of repeated data.

    Returns:
        `better_below` (0 or 1: which has the lower loss at the smallest budget) and `at`, a list
        of `flops`, `low`, `high` (between which the 90 % interval of the difference holds zero;
        None where that reaches the end of the search) and `extrapolation_decades`.
    """
    reach = 10.0**_BEYOND
    budgets = np.geomspace(span[0] / reach, span[1] * reach, _GRID)
    apart = [
        log_difference(
            second.optimum(float(c), unique_tokens).loss,
            first.optimum(float(c), unique_tokens).loss,
        )
        for c in budgets
    ]
    logs = np.log(budgets)
    value = np.array([d.value for d in apart])
    sure = np.array([differs(d) for d in apart])
    at = []
    for i, (left, right) in enumerate(pairwise(value)):
        if left == 0.0 or left * right >= 0:
            continue
        crossing = float(np.exp(np.interp(0.0, *_rising(value[i : i + 2], logs[i : i + 2]))))
        below, above = np.flatnonzero(sure[: i + 1]), np.flatnonzero(sure[i + 1 :])
        outside = max(float(s.decades_beyond("flops", crossing)) for s in (first, second))
        at.append(
            {
                "flops": crossing,
                "low": float(budgets[below[-1]]) if below.size else None,
                "high": float(budgets[i + 1 + above[0]]) if above.size else None,
                "extrapolation_decades": outside,
            }
        )
    return {"better_below": int(value[0] < 0), "at": at}


def _rising(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (x, y) if x[0] < x[1] else (x[::-1], y[::-1])
