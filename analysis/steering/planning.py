"""What the rest of a small budget would buy: several ways to spend it, played to the end.

A rule that buys one run at a time cannot know whether the budget ends after two more runs or
after two hundred. What a set of runs would leave of the variance needs no losses, so the rest of
the budget is spent in thought, once for each of several powers of the cost; the plan that leaves
the least is followed. Of its runs the cheapest comes first: the dear ones wait until more is
known.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.laws.base import FloatArray
from analysis.steering.scoring import Telling

POWERS = (0.0, 0.2, 0.4, 0.7, 1.0)
_MOST_STEPS = 60


class Hypothesis(NamedTuple):
    """One form of a belief, as planning sees it."""

    share: float
    telling: Telling
    covariance: FloatArray
    """[Q, Q]"""
    goals: FloatArray
    """[G, Q]"""


def best_plan(
    hypotheses: Sequence[Hypothesis], costs: FloatArray, open_: np.ndarray, left: float
) -> list[int]:
    """Return the runs of the plan that leaves the least variance, each at most once.

    Args:
        hypotheses: the forms, by probability.
        costs: of the candidates, [T].
        open_: which may be bought, [T].
        left: of the budget.
    """
    before = [_total(h.goals, h.covariance) for h in hypotheses]
    best, chosen = np.inf, []
    for power in POWERS:
        runs, after = _played(hypotheses, before, costs, open_.copy(), left, power)
        value = sum(
            h.share * float(np.log(a / b))
            for h, a, b in zip(hypotheses, after, before, strict=True)
        )
        if value < best:
            best, chosen = value, runs
    return chosen


def _played(
    hypotheses: Sequence[Hypothesis],
    before: list[float],
    costs: FloatArray,
    open_: np.ndarray,
    left: float,
    power: float,
) -> tuple[list[int], list[float]]:
    """Return the runs bought at one power, and the variance that each form has left."""
    covariances = [h.covariance for h in hypotheses]
    runs: list[int] = []
    while len(runs) < _MOST_STEPS:
        open_ &= costs <= left
        if not open_.any():
            break
        worth = np.zeros(costs.size)
        for h, covariance, total in zip(hypotheses, covariances, before, strict=True):
            worth += h.share * h.telling.reductions(covariance, h.goals).sum(axis=1) / total
        index = int(np.argmax(np.where(open_, worth / costs**power, -np.inf)))
        runs.append(index)
        open_[index] = False
        left -= float(costs[index])
        covariances = [
            h.telling.after(c, index) for h, c in zip(hypotheses, covariances, strict=True)
        ]
    return runs, [_total(h.goals, c) for h, c in zip(hypotheses, covariances, strict=True)]


def _total(goals: FloatArray, covariance: FloatArray) -> float:
    return max(float(np.einsum("gq,qr,gr->", goals, covariance, goals)), 1e-300)
