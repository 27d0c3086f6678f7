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
        starts: how many starting points were followed down, in all.
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


def further_starts(problem: Problem, minima: FloatArray) -> FloatArray:
    """Return starting points between those of the first search, [S, P].

    The starts of the first search and the minima that they led to are spread at random over a
    quarter of the box, and the lowest eight of 64 are followed; a law with a grid adds the
    minima at its cells' corners.
    """
    low, high = problem.bounds()
    seeds = np.concatenate([problem.starts(), minima])
    rng = np.random.default_rng(0)
    spread = seeds[rng.integers(len(seeds), size=_CANDIDATES)]
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
    return np.concatenate([with_response(problem, grid[0], minima[0]), spread])


def with_response(problem: Problem, law: FloatArray, like: FloatArray) -> FloatArray:
    """Return theta of law and response, [..., P], the response's part taken from `like` [P]."""
    rest = np.broadcast_to(like[problem.law_size :], (*law.shape[:-1], like.size - law.shape[-1]))
    return np.concatenate([law, rest], axis=-1)


def global_check(
    problem: Problem, found: Minimum, sigma: float, found_by_regrid: bool
) -> GlobalCheck:
    """Return the check of the minima that all starts led to."""
    order = np.argsort(found.objective)
    order = order[found.converged[order]]
    value = problem.model(found.theta[order]).value if order.size else np.zeros((0, 1))
    kept: list[int] = []
    for i in range(len(order)):
        if all(np.abs(value[i] - value[j]).max() > _SAME * sigma for j in kept):
            kept.append(i)
    levels = found.objective[order[kept]]
    return GlobalCheck(
        starts=len(found.theta),
        minima=len(kept),
        objective=float(found.objective.min()),
        gap=float(levels[1] - levels[0]) if len(kept) > 1 else float("inf"),
        found_by_regrid=found_by_regrid,
    )
