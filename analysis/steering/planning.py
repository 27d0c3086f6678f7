"""What the rest of a small budget would buy: several ways to spend it, played to the end.

A rule that buys one run at a time cannot know whether the budget ends after two more runs or
after two hundred. What a set of runs would leave of the variance needs no losses, so the rest of
the budget is spent in thought, once for each of several powers of the cost. A plan is worth what
it leaves of the variance without one of its runs, in the mean over them: a few dear runs promise
most under a law that is right, and a law that one run's luck can bend is not known. Of the best
plan the dearest run comes first, since what is left is planned again and small runs fill it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.laws.base import FloatArray
from analysis.steering.scoring import Outlook, Telling

POWERS = (0.2, 0.4, 0.7, 1.0)
"""Without 0, which buys the largest runs whatever they cost."""

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
    """Return the runs of the plan that leaves the least variance without one, each at most once.

    Args:
        hypotheses: the forms, by probability.
        costs: of the candidates, [T].
        open_: which may be bought, [T].
        left: of the budget.
    """
    before = [_total(h.goals, h.covariance) for h in hypotheses]
    prepared = [h.telling.outlook(h.covariance, h.goals) for h in hypotheses]
    best, chosen = np.inf, []
    for power in POWERS:
        outlooks = [outlook.copy() for outlook in prepared]
        runs = _played(hypotheses, outlooks, before, costs, open_.copy(), left, power)
        value = 0.0
        for h, total in zip(hypotheses, before, strict=True):
            after = total - h.telling.without_each(h.covariance, h.goals, runs)
            value += h.share * float(np.log(np.maximum(after / total, 1e-12)).mean())
        if value < best:
            best, chosen = value, runs
    return chosen


def _played(
    hypotheses: Sequence[Hypothesis],
    outlooks: list[Outlook],
    before: list[float],
    costs: FloatArray,
    open_: np.ndarray,
    left: float,
    power: float,
) -> list[int]:
    """Return the runs bought at one power."""
    runs: list[int] = []
    while len(runs) < _MOST_STEPS:
        open_ &= costs <= left
        if not open_.any():
            break
        worth = np.zeros(costs.size)
        for h, outlook, total in zip(hypotheses, outlooks, before, strict=True):
            worth += h.share * outlook.reductions() / total
        index = int(np.argmax(np.where(open_, worth / costs**power, -np.inf)))
        runs.append(index)
        open_[index] = False
        left -= float(costs[index])
        for outlook in outlooks:
            outlook.buy(index)
    return runs


def _total(goals: FloatArray, covariance: FloatArray) -> float:
    return max(float(np.einsum("gq,qr,gr->", goals, covariance, goals)), 1e-300)
