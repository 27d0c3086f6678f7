"""Simulated truths, and ways to spend a budget on them: what `benchmarks/steering.py` compares.

Costs are in units of the largest run that is allowed, the smallest is a thousandth of it, tokens
per parameter run from 1 to 500; what is wanted is the optimum at a thousand times the largest
run. Every way is judged by the errors of ln N_opt and ln L_opt there.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import optuna
import pandas as pd

from analysis.fitting.isoflop import isoflop_parabolas
from analysis.laws.base import FloatArray, Points
from analysis.laws.chinchilla import CHINCHILLA
from analysis.steering.belief import Belief, believe
from analysis.steering.choosing import Account, Market, choose
from analysis.steering.forms import five_parameters
from analysis.steering.goals import Optimum
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Observed
from analysis.steering.stopping import Trust, judge, surprise

LARGEST = 1e20
SMALLEST = 1e-3
TARGET = 1e3 * LARGEST
RATIOS = (1.0, 500.0)
NOISE = 0.004
E, A, B, ALPHA, BETA = 1.81721810, 477.825868, 2143.41736, 0.347310499, 0.367172433
"""The optimum of the Epoch table (Besiroglu et al. 2024, refitted)."""

MIDDLE = (float(np.log(1.5e8)), float(np.log(4e9)))
"""Of the runs that are allowed: ln N and ln D."""

TOLERANCES = (0.1, 0.01)
MOST_RUNS = 500
BATCH = 1 / 30
"""Runs chosen at once, as a share of those bought: workers that become free together."""

Surface = Callable[[FloatArray, FloatArray], FloatArray]


def chinchilla(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the five-parameter law."""
    return np.log(E + A * np.exp(-ALPHA * x) + B * np.exp(-BETA * z))


def coupled(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with the two shortages joined at kappa .6."""
    u, v = (np.log(A) - ALPHA * x) / 0.6, (np.log(B) - BETA * z) / 0.6
    return np.logaddexp(np.log(E), 0.6 * np.logaddexp(u, v))


def hoffmann(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the published law of Hoffmann et al. 2022."""
    return np.log(1.69 + 406.4 * np.exp(-0.34 * x) + 410.7 * np.exp(-0.28 * z))


def quokka(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the published law of masked diffusion (Quokka's equation 13)."""
    return np.log(2.41294 + 798.693 * np.exp(-0.37928 * x) + 4605.18 * np.exp(-0.37792 * z))


def offsets(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with small models worse by 3 % at the middle, 24 % at most."""
    return chinchilla(x, z) + 0.03 / (np.exp(0.7 * (x - MIDDLE[0])) + 0.125)


def power_offsets(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with small models worse by N^-.4, close to the law's own exponent."""
    return chinchilla(x, z) + 0.03 * np.exp(-0.4 * (x - MIDDLE[0]))


def own_drift(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with exponents that fall by .005 for each e-fold along their own axis."""
    alpha = ALPHA - 0.005 * (x - MIDDLE[0])
    beta = BETA - 0.005 * (z - MIDDLE[1])
    a, b = np.log(A) - ALPHA * MIDDLE[0], np.log(B) - BETA * MIDDLE[1]
    u, v = a - alpha * (x - MIDDLE[0]), b - beta * (z - MIDDLE[1])
    return np.log(E + np.exp(u) + np.exp(v))


def drifting(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with an exponent of D that rises by .015 for each e-fold of N."""
    beta = BETA + 0.015 * (x - MIDDLE[0])
    scale = B * np.exp(-BETA * MIDDLE[1])
    return np.log(E + A * np.exp(-ALPHA * x) + scale * np.exp(-beta * (z - MIDDLE[1])))


@dataclass(frozen=True)
class Truth:
    """A surface and how runs scatter about it.

    Attributes:
        surface: ln L of ln N and ln D.
        outliers: share of runs that are off by an exponential error of 8 %, mostly upwards.
        growth: by how much ln sigma rises for each e-fold of compute below the largest run.
        noise: scatter of ln L of the largest run.
    """

    surface: Surface
    outliers: float = 0.0
    growth: float = 0.0
    noise: float = NOISE

    def buy(self, points: Points, rng: np.random.Generator) -> FloatArray:
        """Return noisy ln L."""
        x, z = points.log_params, points.log_tokens
        below = np.log(LARGEST / 6.0) - x - z
        noise = self.noise * np.exp(self.growth * below) * rng.standard_normal(x.shape)
        hit = rng.random(x.shape) < self.outliers
        sign = np.where(rng.random(x.shape) < 0.8, 1.0, -1.0)
        return self.surface(x, z) + noise + hit * sign * rng.exponential(0.08, x.shape)

    @cached_property
    def optimum(self) -> FloatArray:
        """ln N and ln L of the best run at the target."""
        work = np.log(TARGET / 6.0)
        x = np.linspace(0.3 * work, 0.7 * work, 50001)
        loss = self.surface(x, work - x)
        best = int(loss.argmin())
        return np.array([x[best], loss[best]])


TRUTHS = {
    "chinchilla": Truth(chinchilla),
    "coupled": Truth(coupled),
    "small-scale offsets": Truth(offsets),
    "drifting exponent": Truth(drifting),
    "5 % outliers": Truth(chinchilla, outliers=0.05),
    "growing noise": Truth(chinchilla, growth=0.15),
    "hoffmann": Truth(hoffmann, noise=0.006),
    "quokka": Truth(quokka),
    "offsets as N^-.4": Truth(power_offsets),
    "drift on its own axis": Truth(own_drift),
}
"""The last four were never used to choose anything in `analysis.steering`; the last two are known
to deceive it (docs/log.md)."""


def menu() -> Trajectories:
    """Return the runs that are allowed."""
    work, ratio = np.meshgrid(
        LARGEST * np.geomspace(SMALLEST, 1.0, 13), np.geomspace(*RATIOS, 14), indexing="ij"
    )
    params = np.sqrt(work / 6.0 / ratio).ravel()
    return Trajectories.of(params, params * ratio.ravel(), work.ravel() / LARGEST)


@cache
def market(forms: str = "standard") -> Market:
    """Return what can be bought, under the standard forms or five parameters alone."""
    chosen = five_parameters() if forms == "five" else None
    return Market.of(menu(), Optimum(TARGET, *TOLERANCES), chosen)


def judged(truth: Truth, belief: Belief, forms: str) -> dict[str, float]:
    """Return errors, coverage and half widths at the target."""
    there = market(forms)
    found = belief.interval(there.goal, there.goal_phi)
    best = truth.optimum
    inside = (found[1] <= best) & (best <= found[2])
    half = 0.5 * (found[2] - found[1])
    return {
        "ln_params": abs(float(found[0, 0] - best[0])),
        "ln_loss": abs(float(found[0, 1] - best[1])),
        "params_inside": float(inside[0]),
        "loss_inside": float(inside[1]),
        "params_width": float(half[0]),
        "loss_width": float(half[1]),
        "simplest": float(belief.shares[0]),
    }


def steered(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """Search with `analysis.steering`; return the state at each budget and at the stop."""
    there, rng = market(), np.random.default_rng([seed, 7])
    noise = np.random.default_rng([seed, 11])
    cost = there.candidates.cost
    rows: list[dict[str, Any]] = []
    left, bought, losses = list(budgets), [], []
    spent, belief, trust, stopped = 0.0, None, Trust(), False

    def runs() -> Observed:
        taken = there.candidates.take(bought)
        return Observed(taken.points, np.array(losses), taken.owner)

    while left:
        if bought:
            all_runs = runs()
            kept = trust.trusted(all_runs)
            trusted = Observed(
                Points(all_runs.points.log_params[kept], all_runs.points.log_tokens[kept]),
                all_runs.log_loss[kept],
                np.arange(int(kept.sum())),
            )
            belief = there.believe(trusted, belief if len(bought) > 10 else None)
        batch: list[int] = []
        promised = spent
        for _ in range(max(1, int(len(bought) * BATCH))):
            open_ = there.candidates.log_flops >= trust.log_floor - 1e-9
            account = Account(budgets[-1], promised, (*bought, *batch), tuple(batch), open_)
            choice = choose(there, belief, account, rng)
            if choice is None or len(bought) + len(batch) >= MOST_RUNS:
                break
            batch.append(choice.index)
            promised += cost[choice.index]
        while left and (not batch or spent + cost[batch[0]] > left[0]):
            assert belief is not None
            rows.append(
                {"budget": left.pop(0), "runs": len(bought), "raised": trust.raised}
                | {"spent": spent} | judged(truth, belief, "standard")
            )  # fmt: skip
        if belief is not None and not stopped and len(bought) > 10:
            verdict = judge(there, belief, trust, affordable=bool(batch) and bool(left))
            if verdict.kind != "go on":
                stopped = True
                rows.append(
                    {"budget": np.nan, "runs": len(bought), "kind": verdict.kind}
                    | {"spent": spent} | judged(truth, belief, "standard")
                )  # fmt: skip
        for index in batch:
            one = there.candidates.take([index]).points
            loss = float(truth.buy(one, noise)[0])
            if belief is not None and len(bought) >= 10 and cost[index] > cost[bought].max():
                trust = trust.after(surprise(belief, one, loss), runs())
            bought.append(index)
            losses.append(loss)
            spent += cost[index]
    return rows


def one_by_one(
    truth: Truth,
    seed: int,
    budgets: tuple[float, ...],
    pick: Callable[[list[int], list[float], np.random.Generator], int],
) -> list[dict[str, Any]]:
    """Buy what `pick` names of the menu; fit five parameters at each budget."""
    there, rng = market("five"), np.random.default_rng([seed, 7])
    noise = np.random.default_rng([seed, 11])
    bought: list[int] = []
    losses: list[float] = []
    rows, spent, left = [], 0.0, list(budgets)
    while left:
        index = pick(bought, losses, rng)
        price = float(there.candidates.cost[index])
        while left and (spent + price > left[0] or len(bought) >= MOST_RUNS):
            row: dict[str, Any] = {"budget": left.pop(0), "runs": len(bought), "spent": spent}
            if len(bought) >= 3:
                row |= judged(truth, _five(bought, losses), "five")
            rows.append(row)
        bought.append(index)
        losses.append(float(truth.buy(there.candidates.take([index]).points, noise)[0]))
        spent += price
    return rows


def _five(bought: list[int], losses: list[float], before: Belief | None = None) -> Belief:
    there = market("five")
    taken = there.candidates.take(bought)
    return there.believe(Observed(taken.points, np.array(losses), taken.owner), before)


def random(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """Any run of the menu."""
    count = menu().count
    return one_by_one(truth, seed, budgets, lambda b, y, rng: int(rng.integers(count)))


def d_optimal(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """The run that shrinks the volume of theta's uncertainty most per cost; a start as ours."""
    there = market("five")
    memory: dict[str, Belief | None] = {"belief": None}

    def pick(bought: list[int], losses: list[float], rng: np.random.Generator) -> int:
        cost = there.candidates.cost
        if len(bought) < 10:
            start = Account(budgets[-1], 0.0, tuple(bought))
            choice = choose(there, None, start, rng)
            assert choice is not None
            return choice.index
        belief = _five(bought, losses, memory["belief"])
        memory["belief"] = belief
        part = belief.parts[0]
        gradient = part.gradient(there.candidates.points, there.phi)
        variance = np.einsum("sq,qr,sr->s", gradient, part.covariance, gradient)
        size = part.noise.at(there.candidates.log_flops)
        worth = np.log1p(variance / size**2) / cost
        worth[cost > max(cost[bought].sum() / 3.0, 1.01 * cost.min())] = 0.0
        return int(np.argmax(worth))

    return one_by_one(truth, seed, budgets, pick)


def tpe(truth: Truth, seed: int, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
    """Optuna's TPE minimises the loss over compute and tokens per parameter."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    trials: list[optuna.trial.Trial] = []

    def pick(bought: list[int], losses: list[float], rng: np.random.Generator) -> int:
        del rng
        if trials:
            study.tell(trials[-1], losses[-1])
        trial = study.ask()
        trials.append(trial)
        level, ratio = trial.suggest_int("compute", 0, 12), trial.suggest_int("ratio", 0, 13)
        return 14 * level + ratio

    return one_by_one(truth, seed, budgets, pick)


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


WAYS = {
    "steered": steered,
    "oracle-grid": oracle,
    "grid": grid,
    "paper": paper,
    "random": random,
    "d-optimal": d_optimal,
    "tpe": tpe,
}
