"""Runs that could be bought: trajectories, observed at one or several places, with a price."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.laws.base import FloatArray, Points


@dataclass(frozen=True)
class Trajectories:
    """T training runs with S observations in all.

    Attributes:
        points: where losses are observed, [S]; a trunk with cooldowns has several.
        owner: number of each observation's trajectory, ascending from 0, [S].
        cost: of each trajectory in whatever the budget counts, branches included, [T].
    """

    points: Points
    owner: np.ndarray
    cost: FloatArray

    @classmethod
    def of(
        cls, params: ArrayLike, tokens: ArrayLike, cost: ArrayLike, unique: ArrayLike | None = None
    ) -> Self:
        """Return trajectories of one observation each."""
        points = Points.of(params, tokens, unique)
        count = points.log_params.size
        return cls(
            points, np.arange(count), np.broadcast_to(np.asarray(cost, dtype=np.float64), (count,))
        )

    @classmethod
    def of_table(cls, table: pd.DataFrame) -> Self:
        """Return the trajectories of a table with columns `params`, `tokens` and `cost`.

        Rows that share a `trajectory` are its observations; its cost is stated in each of them.
        Without the column each row is a run. `unique_tokens` is read where it is given.
        """
        unique = table.get("unique_tokens")
        whole = cls.of(table["params"], table["tokens"], table["cost"], unique)
        if "trajectory" not in table:
            return whole
        owner, names = pd.factorize(table["trajectory"])
        order = np.argsort(owner, kind="stable")
        cost = np.zeros(len(names))
        cost[owner] = table["cost"].to_numpy(dtype=np.float64)
        return cls(taken(whole.points, order), owner[order], cost)

    @property
    def count(self) -> int:
        """T."""
        return int(self.cost.size)

    def take(self, chosen: Sequence[int] | np.ndarray) -> Self:
        """Return some of the trajectories, in the order given; one may be taken twice."""
        wanted = np.asarray(chosen, dtype=np.intp)
        sizes = np.bincount(self.owner, minlength=self.count)
        first = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        rows = [first[t] + np.arange(sizes[t]) for t in wanted]
        index = np.concatenate(rows) if rows else np.zeros(0, dtype=np.intp)
        return replace(
            self,
            points=taken(self.points, index),
            owner=np.repeat(np.arange(wanted.size), sizes[wanted]),
            cost=self.cost[wanted],
        )

    @property
    def log_flops(self) -> FloatArray:
        """ln of 6 N D of each observation, [S]."""
        return float(np.log(6.0)) + self.points.log_params + self.points.log_tokens

    @property
    def middles(self) -> FloatArray:
        """Mean ln N and ln D of each trajectory, [T, 2]."""
        counts = np.bincount(self.owner, minlength=self.count)
        sums = [
            np.bincount(self.owner, weights=values, minlength=self.count)
            for values in (self.points.log_params, self.points.log_tokens)
        ]
        return np.stack(sums, axis=1) / counts[:, None]


def taken(points: Points, index: np.ndarray) -> Points:
    """Return some rows of points, whatever further columns their class has."""
    return replace(
        points,
        **{
            name: value[index]
            for name, value in vars(points).items()
            if isinstance(value, np.ndarray)
        },
    )
