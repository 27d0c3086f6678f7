"""Ways that lay out a grid for a whole budget and fit it once: what searches are held against."""

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from steering_surfaces import (
    ALPHA,
    BETA,
    LARGEST,
    NOISE,
    RATIOS,
    SMALLEST,
    TARGET,
    TRUTHS,
    A,
    B,
    E,
    Truth,
    chinchilla,
    judged,
    market,
)

from analysis.fitting.isoflop import isoflop_parabolas
from analysis.laws.base import FloatArray, Points
from analysis.laws.chinchilla import CHINCHILLA
from analysis.steering.belief import believe
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Observed


@dataclass(frozen=True)
class Grid:
    """Levels of compute, a factor apart, with the same sizes on each."""

    levels: int
    sizes: int
    span: float
    low: float
    high: float

    def runs(self, budget: float) -> Trajectories | None:
        """Return the runs that use up a budget, or as much as the largest run allows."""
        share = np.geomspace(1.0 / self.span, 1.0, self.levels)
        top = min(budget / self.sizes / share.sum(), 1.0)
        work, ratio = np.meshgrid(
            top * share, np.geomspace(self.low, self.high, self.sizes), indexing="ij"
        )
        if work.min() < SMALLEST * 0.999:
            return None
        params = np.sqrt(work * LARGEST / 6.0 / ratio).ravel()
        return Trajectories.of(params, params * ratio.ravel(), work.ravel())


SHAPES = [
    Grid(levels, sizes, span, low, high)
    for levels, sizes, span, (low, high) in itertools.product(
        (2, 3, 5, 7, 9),
        (3, 5, 7, 13, 19, 27, 39),
        (3.0, 10.0, 30.0, 100.0, 300.0),
        ((1.0, 500.0), (2.0, 200.0), (5.0, 80.0)),
    )
]
STANDARD = Grid(5, 7, 16.0, 5.0, 100.0)
"""The paper's way: five budgets of seven sizes, each twice the one before, about 20 tokens a
parameter."""


WIDE = Grid(5, 7, 16.0, *RATIOS)
"""The same, spread as a fit of five parameters likes it."""


@cache
def oracle_grid(budget: float, number: int) -> Grid | None:
    """Return the grid with the least expected error of ln N_opt (0) or ln L_opt (1).

    It knows the true law, and so the covariance that each grid would leave.
    """
    best, found = np.inf, None
    for shape in SHAPES:
        runs = shape.runs(budget)
        if runs is None or runs.cost.sum() < 0.5 * budget:
            continue
        spread = _expected(runs)[number]
        if spread < best:
            best, found = spread, shape
    return found


def _expected(runs: Trajectories) -> FloatArray:
    x, z = runs.points.log_params, runs.points.log_tokens
    centre = float(x.mean()), float(z.mean())
    points = runs.points.shifted(*centre)
    theta = np.array(
        [np.log(E), np.log(A) - ALPHA * centre[0], np.log(B) - BETA * centre[1], ALPHA, BETA]
    )
    gradient = CHINCHILLA.gradient(theta, points)
    prior = CHINCHILLA.prior(points, chinchilla(x, z))
    information = gradient.T @ gradient / NOISE**2 + np.diag(1.0 / prior.spread**2)
    best = TRUTHS["chinchilla"].optimum[0]
    line = best + np.array([-0.2, 0.0, 0.2])
    there = Points(line, np.log(TARGET / 6.0) - line)
    value = chinchilla(there.log_params, there.log_tokens)
    slopes = CHINCHILLA.gradient(theta, there.shifted(*centre))
    bend = (value[0] - 2.0 * value[1] + value[2]) / 0.04
    goals = np.stack([-(slopes[2] - slopes[0]) / 0.4 / bend, slopes[1]])
    return np.sqrt(np.diag(goals @ np.linalg.solve(information, goals.T)))


def _grid_fit(truth: Truth, runs: Trajectories, seed: int) -> dict[str, Any]:
    losses = truth.buy(runs.points, np.random.default_rng([seed, 11]))
    there = market("five")
    belief = believe(there.forms, Observed(runs.points, losses, runs.owner), there.basis)
    return {"runs": runs.count, "spent": float(runs.cost.sum())} | judged(truth, belief, "five")


def grid(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """A wide 5 x 7 grid with a fit of five parameters."""
    rows = []
    for budget in budgets:
        runs = WIDE.runs(budget)
        if runs is not None:
            rows.append({"budget": budget} | _grid_fit(truth, runs, seed))
    return rows


def oracle(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """The best grid for each of the two answers, with a fit of five parameters."""
    rows = []
    for budget in budgets:
        row: dict[str, Any] = {"budget": budget}
        for number, name in enumerate(("ln_params", "ln_loss")):
            shape = oracle_grid(budget, number)
            runs = None if shape is None else shape.runs(budget)
            if runs is not None:
                found = _grid_fit(truth, runs, seed)
                row |= {name: found[name], "spent": found["spent"], "runs": found["runs"]}
        rows.append(row)
    return rows


def paper(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """The 5 x 7 grid with parabolas: N_opt a power of C, the minima's losses E + k C^-g."""
    rows = []
    for budget in budgets:
        runs = STANDARD.runs(budget)
        if runs is None:
            continue
        losses = truth.buy(runs.points, np.random.default_rng([seed, 11]))
        table = pd.DataFrame(
            {
                "params": np.exp(runs.points.log_params),
                "tokens": np.exp(runs.points.log_tokens),
                "loss": np.exp(losses),
            }
        )
        found = isoflop_parabolas(table)
        row = {"budget": budget, "runs": runs.count, "spent": float(runs.cost.sum())}
        best = truth.optimum
        row |= {"ln_params": np.inf, "ln_loss": np.inf}
        seen = found.minima[found.minima["both_arms"].astype(bool)]
        if found.params_law is not None:
            row["ln_params"] = abs(float(np.log(found.params_law(TARGET))) - best[0])
        if len(seen) >= 3:
            row["ln_loss"] = abs(_envelope(seen) - best[1])
        rows.append(row)
    return rows


def _envelope(minima: pd.DataFrame) -> float:
    """Return ln L at the target by least squares of E + k C^-g over the minima."""
    flops = minima["flops"].to_numpy(dtype=np.float64) / LARGEST
    loss = minima["loss"].to_numpy(dtype=np.float64)
    best, answer = np.inf, np.inf
    for power in np.linspace(0.02, 0.6, 117):
        basis = np.stack([np.ones_like(flops), flops**-power], axis=1)
        solved, *_ = np.linalg.lstsq(basis, loss, rcond=None)
        misfit = float(((basis @ solved - loss) ** 2).sum())
        if misfit < best and solved[0] > 0:
            best = misfit
            answer = float(np.log(max(solved[0] + solved[1] * 1e3**-power, 1e-3)))
    return answer
