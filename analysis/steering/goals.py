"""What a search wants to know, as numbers with gradients: an optimum, or losses at places."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from analysis.laws.base import FloatArray, Points
from analysis.steering.posterior import Posterior
from analysis.steering.smooth import SmoothBasis

_REACH = 7.0
_LINE = 281
_HALF = 4
"""Steps of the line over which its bend is taken."""

_FLAT = 2e-3
"""Bend of ln L per squared ln N below which a budget has no optimum."""


class Answer(NamedTuple):
    """G numbers under one form."""

    value: FloatArray
    """[G]"""
    gradient: FloatArray
    """In all that is unknown, [G, Q]."""


class Goal(Protocol):
    """What is wanted.

    Attributes:
        names: of the G numbers.
        tolerance: half widths of 90 % intervals that are narrow enough, [G].
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def tolerance(self) -> FloatArray: ...

    def points(self) -> Points:
        """Return the places that answers are read from."""

    def answer(self, belief: Posterior, phi: FloatArray) -> Answer:
        """Return the numbers under one form, from the features of `points`, [S, M]."""


@dataclass(frozen=True)
class Optimum:
    """ln N_opt and ln L_opt on a compute budget.

    Attributes:
        flops: the budget, 6 N D.
        params: tolerance of ln N_opt.
        loss: tolerance of ln L_opt.
        unique_tokens: what there is of new tokens; unset: as many as are used.
    """

    flops: float
    params: float = 0.1
    loss: float = 0.01
    unique_tokens: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return "ln N_opt", "ln loss"

    @property
    def tolerance(self) -> FloatArray:
        return np.array([self.params, self.loss])

    def points(self) -> Points:
        work = float(np.log(self.flops / 6.0))
        # About 20 tokens a parameter, three decades to either side.
        x = 0.5 * (work - np.log(20.0)) + np.linspace(-_REACH, _REACH, _LINE)
        unique = None
        if self.unique_tokens is not None:
            unique = np.minimum(np.log(self.unique_tokens), work - x)
        return Points(x, work - x, unique)

    def answer(self, belief: Posterior, phi: FloatArray) -> Answer:
        line = self.points()
        value = belief.log_loss(line, phi)
        lowest = int(np.clip(np.argmin(value), _HALF, _LINE - 1 - _HALF))
        near = slice(lowest - _HALF, lowest + _HALF + 1)
        x = line.log_params[near] - line.log_params[lowest]
        c2, c1, c0 = np.polyfit(x, value[near], 2)
        bend = max(2.0 * c2, _FLAT)
        shift = float(np.clip(-c1 / bend, x[0], x[-1]))
        around = Points(
            line.log_params[near],
            line.log_tokens[near],
            None if line.log_unique is None else line.log_unique[near],
        )
        gradient = belief.gradient(around, phi[near])
        slope = (gradient[-1] - gradient[0]) / (x[-1] - x[0])
        return Answer(
            np.array([line.log_params[lowest] + shift, c0 + shift * (c1 + shift * c2)]),
            np.stack([-slope / bend, gradient[_HALF]]),
        )


@dataclass(frozen=True)
class Losses:
    """ln L at places.

    Attributes:
        where: the places, [G].
        loss: tolerance of each.
    """

    where: Points
    loss: float = 0.01

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"ln loss {number}" for number in range(self.where.log_params.size))

    @property
    def tolerance(self) -> FloatArray:
        return np.full(self.where.log_params.size, self.loss)

    def points(self) -> Points:
        return self.where

    def answer(self, belief: Posterior, phi: FloatArray) -> Answer:
        return Answer(belief.log_loss(self.where, phi), belief.gradient(self.where, phi))


def features(basis: SmoothBasis, goal: Goal) -> FloatArray:
    """Return the features of the goal's places, [S, M]."""
    return basis.features(goal.points())
