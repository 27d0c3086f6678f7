"""Whether an optimum is the global one, as far as a second search can tell."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fitting.newton import Minimum
from analysis.fitting.problem import Problem
from analysis.laws.base import FloatArray

_CANDIDATES = 64
_FOLLOWED = 8
_SAME = 0.05
"""Minima whose predictions of all rows differ by less than this share of the noise are one."""


@dataclass(frozen=True)
class GlobalCheck:
    """What a search beyond the fit's own found.

    Attributes:
        starts: how many starting points were followed to the end, in all.
        minima: how many different laws they ended at.
        objective: the lowest of their objectives, which is the fit's.
        gap: how far the next minimum lies above it, in the same units; infinite with one only.
        found_by_regrid: whether only the second set of starts led to it.
        resamples: how many resamples were fitted again from a grid of their own; 0: not asked.
        improved: how many of them had a lower minimum there, which then replaced the first.
    """

    starts: int
    minima: int
    objective: float
    gap: float
    found_by_regrid: bool
    resamples: int = 0
    improved: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an infinite gap is None."""
        return {**vars(self), "gap": self.gap if np.isfinite(self.gap) else None}


def further_starts(problem: Problem, starts: FloatArray) -> FloatArray:
    """Return starting points between those of the first search, [S, P].

    The first ones are spread at random over a quarter of the box, and the lowest eight of 64
    are kept; a law with a grid adds the minima at its cells' corners.
    """
    low, high = problem.bounds()
    rng = np.random.default_rng(0)
    spread = starts[rng.integers(len(starts), size=_CANDIDATES)]
    spread = spread + rng.uniform(-0.125, 0.125, spread.shape) * (high - low)
    spread = np.clip(spread, low, high)
    value = problem.law.log_loss(spread[:, : problem.law_size], problem.points)
    if problem.design is not None:
        value = value + problem.design.derivatives(spread[:, problem.law_size :]).value
    misfit = np.abs(problem.log_loss - value) @ problem.weights
    order = np.argsort(np.where(np.isfinite(misfit), misfit, np.inf))
    spread = spread[order[:_FOLLOWED]]
    grid = problem.law.regrid(problem.points, problem.log_loss, problem.weights[None])
    if grid is None:
        return spread
    return np.concatenate([with_response(problem, grid[0], starts[0]), spread])


def with_response(problem: Problem, law: FloatArray, like: FloatArray) -> FloatArray:
    """Return theta of law and response, [..., P], the response's part taken from `like` [P]."""
    rest = np.broadcast_to(like[problem.law_size :], (*law.shape[:-1], like.size - law.shape[-1]))
    return np.concatenate([law, rest], axis=-1)


def distinct(problem: Problem, found: Minimum, sigma: float) -> np.ndarray:
    """Return the indices of minima that differ in what they predict, lowest first.

    Fits that did not converge count only where no other is lower.
    """
    order = np.argsort(np.where(np.isnan(found.objective), np.inf, found.objective))
    order = order[found.converged[order] | (np.arange(order.size) == 0)]
    value = problem.model(found.theta[order]).value
    kept: list[int] = []
    for i in range(len(order)):
        if all(np.abs(value[i] - value[j]).max() > _SAME * sigma for j in kept):
            kept.append(i)
    return order[kept]
