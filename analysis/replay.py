"""Designs replayed: what would a way of choosing runs have learnt from these, for how much?

A world holds the runs that could be bought and what each would have said; a design chooses the
next from what it has bought so far; an estimator turns purchases into a law; the world scores
it. A design is a function, and sees no loss before it is paid for.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from analysis.errors import AnalysisError, ReplayError
from analysis.fitting.fit import fit_law
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray, Points
from analysis.steering.estimate import Mixture, mixture
from analysis.steering.goals import Goal, Losses, Optimum
from analysis.uncertainty import interval_scores

Judged = Fit | Mixture
"""What predicts losses and optima."""

Estimator = Callable[[pd.DataFrame], Judged]
"""Maps bought runs to a law; raises `AnalysisError` while they are too few."""


class World(Protocol):
    """Runs that can be bought.

    Attributes:
        menu: columns `params`, `tokens` and `cost`, one row a run, numbered from 0.
        repeats: whether a run may be bought again, for another draw of its noise.
        wanted: where the law will be judged, columns `params` and `tokens`: known to designs.
        goal: the same for designs that ask for it as numbers with gradients.
    """

    @property
    def menu(self) -> pd.DataFrame: ...

    @property
    def repeats(self) -> bool: ...

    @property
    def wanted(self) -> pd.DataFrame: ...

    @property
    def goal(self) -> Goal: ...

    def buy(self, run: int, rng: np.random.Generator) -> float:
        """Return the loss of a run of the menu."""

    def score(self, fit: Judged) -> dict[str, float]:
        """Return how good a law is; smaller is better, but for `coverage` and `r2`."""


@dataclass
class Purchases:
    """What a design has to go by.

    Attributes:
        world: what can be bought, and where the law will be judged.
        budget: what all runs together may cost.
        estimator: how a law will be made of them.
        bought: numbers of the runs in the order of purchase.
        losses: what they said.
        memory: what a design keeps between its choices.
    """

    world: World
    budget: float
    estimator: Estimator
    bought: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def runs(self) -> pd.DataFrame:
        """The purchases as a run table."""
        table = self.world.menu.iloc[self.bought][["params", "tokens", "cost"]]
        return table.assign(loss=self.losses).reset_index(drop=True)

    @property
    def spent(self) -> float:
        """What they cost."""
        return float(self.world.menu["cost"].to_numpy()[self.bought].sum())

    @property
    def affordable(self) -> np.ndarray:
        """Numbers of the runs that the rest of the budget pays for."""
        cost = self.world.menu["cost"].to_numpy(dtype=np.float64)
        open_ = cost <= self.budget - self.spent
        if not self.world.repeats:
            open_[self.bought] = False
        return np.flatnonzero(open_)

    @cached_property
    def _fits(self) -> dict[int, Judged | None]:
        return {}

    @property
    def fit(self) -> Judged | None:
        """The law of what was bought so far; None while there is too little for one."""
        count = len(self.bought)
        if count not in self._fits:
            try:
                found: Judged | None = self.estimator(self.runs)
            except AnalysisError:
                found = None
            self._fits.clear()
            self._fits[count] = found
        return self._fits[count]


Design = Callable[[Purchases, np.random.Generator], int]
"""Returns the number of the next run, one of `Purchases.affordable`, which is never empty."""


@dataclass(frozen=True)
class TableWorld:
    """A recorded run table: each row can be bought once, the held-out rows judge.

    Attributes:
        recorded: losses of the menu's runs, [R]; designs see the menu only.
        truth: losses of the wanted runs, [S].
    """

    menu: pd.DataFrame
    wanted: pd.DataFrame
    recorded: FloatArray
    truth: FloatArray
    repeats: bool = False

    @classmethod
    def of(cls, pool: pd.DataFrame, held_out: pd.DataFrame) -> "TableWorld":
        """Return the world of two validated tables; a run costs its 6 N D."""
        columns = ["params", "tokens"]
        menu = pool[columns].reset_index(drop=True)
        menu["cost"] = 6.0 * menu["params"] * menu["tokens"]
        losses = (table["loss"].to_numpy(dtype=np.float64) for table in (pool, held_out))
        return cls(menu, held_out[columns].reset_index(drop=True), *losses)

    @property
    def goal(self) -> Goal:
        """Losses of the wanted runs."""
        return Losses(Points.of(self.wanted["params"], self.wanted["tokens"]))

    def buy(self, run: int, rng: np.random.Generator) -> float:
        """Return the recorded loss."""
        del rng
        return float(self.recorded[run])

    def score(self, fit: Judged) -> dict[str, float]:
        """Return `interval_scores`, and R^2 of the loss clipped to [-1, 1]."""
        found = fit.predict(self.wanted["params"], self.wanted["tokens"], noise=True)
        loss = self.truth
        spread = float(((loss - loss.mean()) ** 2).sum())
        r2 = 1.0 - float(((loss - found.value) ** 2).sum()) / max(spread, 1e-300)
        scores = interval_scores(
            np.log(loss), np.log(found.value), np.log(found.low), np.log(found.high)
        )
        return {**scores, "r2": float(np.clip(r2, -1.0, 1.0))}


@dataclass(frozen=True)
class SurfaceWorld:
    """A simulated truth, judged by its optimum at a target.

    Attributes:
        log_loss: the truth, of ln N and ln D.
        sigma: noise of a run, in log loss.
        target: the budget, 6 N D, at which the optimum is wanted.
    """

    menu: pd.DataFrame
    log_loss: Callable[[FloatArray, FloatArray], FloatArray]
    sigma: float
    target: float
    repeats: bool = True

    @cached_property
    def _optimum(self) -> tuple[float, float]:
        """ln N and ln L of the true optimum, by search."""
        work = np.log(self.target / 6.0)
        grid = np.linspace(0.15 * work, 0.85 * work, 20001)
        loss = self.log_loss(grid, work - grid)
        best = int(np.argmin(loss))
        return float(grid[best]), float(loss[best])

    @property
    def wanted(self) -> pd.DataFrame:
        """The target's budget at several sizes about N = D / 20: known to designs."""
        middle = np.sqrt(self.target / 6.0 / 20.0)
        params = middle * np.geomspace(0.25, 4.0, 5)
        return pd.DataFrame({"params": params, "tokens": self.target / 6.0 / params})

    @property
    def goal(self) -> Goal:
        """The optimum at the target."""
        return Optimum(self.target)

    def buy(self, run: int, rng: np.random.Generator) -> float:
        """Return a noisy loss."""
        row = self.menu.iloc[run]
        there = (np.log(np.array([row["params"]])), np.log(np.array([row["tokens"]])))
        return float(np.exp(self.log_loss(*there)[0] + self.sigma * rng.standard_normal()))

    def score(self, fit: Judged) -> dict[str, float]:
        """Return the errors of ln N_opt and ln L_opt, and whether their intervals cover."""
        params, loss = self._optimum
        best = fit.optimum(self.target)
        inside = [
            estimate.low <= np.exp(truth) <= estimate.high
            for estimate, truth in ((best.params, params), (best.loss, loss))
        ]
        return {
            "ln_params": abs(float(np.log(best.params.value)) - params),
            "ln_loss": abs(float(np.log(best.loss.value)) - loss),
            "coverage": float(np.mean(inside)),
        }


def calibrated(runs: pd.DataFrame) -> Fit:
    """Return the default fit: the five-parameter law with its discrepancy."""
    return fit_law(runs, bootstrap=20)


def five_parameters(runs: pd.DataFrame) -> Fit:
    """Return the five-parameter law alone, with weak priors."""
    return fit_law(runs, law="chinchilla", discrepancy="none", priors="weak", bootstrap=20)


ESTIMATORS: dict[str, Estimator] = {
    "calibrated": calibrated,
    "five_parameters": five_parameters,
    "mixture": mixture,
}


def replay(
    world: World, design: Design, estimator: Estimator, budgets: Sequence[float], seed: int
) -> pd.DataFrame:
    """Return the scores at each budget, one row each: `budget`, `runs`, `spent`, and the scores.

    The budgets are separate searches of growing size under one seed: a design may plan for its
    whole budget. While no law can be fitted, scores are NaN.

    Raises:
        ReplayError: a budget buys not a single run.
    """
    rows = []
    for budget in budgets:
        rng = np.random.default_rng(seed)
        purchases = Purchases(world, budget, estimator)
        if not purchases.affordable.size:
            cheapest = world.menu["cost"].min()
            raise ReplayError(
                f"a budget of {budget:.3g} buys no run; the cheapest is {cheapest:.3g}"
            )
        while purchases.affordable.size:
            run = design(purchases, rng)
            purchases.bought.append(int(run))
            purchases.losses.append(world.buy(int(run), rng))
        row: dict[str, Any] = {"budget": budget, "runs": len(purchases.bought)}
        row["spent"] = purchases.spent
        if purchases.fit is not None:
            row |= world.score(purchases.fit)
        rows.append(row)
    return pd.DataFrame(rows)


def replay_many(
    world: World,
    designs: dict[str, Design],
    estimator: Estimator,
    budgets: Sequence[float],
    seeds: Iterable[int],
    jobs: int = 1,
) -> pd.DataFrame:
    """Return the scores of all designs and seeds, with columns `design` and `seed` before them.

    With several jobs the designs, the estimator and the world must be importable by name.
    """
    tasks = [(name, seed) for name in designs for seed in seeds]
    arguments = [(world, designs[name], estimator, tuple(budgets), seed) for name, seed in tasks]
    if jobs == 1:
        found = [replay(*a) for a in arguments]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            found = list(pool.map(_replay, arguments))
    tables = [
        table.assign(design=name, seed=seed)
        for (name, seed), table in zip(tasks, found, strict=True)
    ]
    result = pd.concat(tables, ignore_index=True)
    return result[["design", "seed", *[c for c in result if c not in ("design", "seed")]]]


def _replay(arguments: tuple[World, Design, Estimator, Sequence[float], int]) -> pd.DataFrame:
    return replay(*arguments)
