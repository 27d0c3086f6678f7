"""Ways to spend a budget run by run on a simulated truth, ours and its rivals.

Each takes a truth, a seed and the budgets at which it is asked, and returns a row for each. Ways
that lay out a grid at once are in `steering_grids.py`; `WAYS` names all of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from steering_grids import grid, oracle, paper
from steering_surfaces import Truth, judged, market, menu

from analysis.laws.base import Points
from analysis.steering.belief import Belief
from analysis.steering.choosing import Account, choose
from analysis.steering.posterior import Observed
from analysis.steering.stopping import Trust, judge, surprise

MOST_RUNS = 500
BATCH = 1 / 30
"""Runs chosen at once, as a share of those bought: workers that become free together."""


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


WAYS = {
    "steered": steered,
    "oracle-grid": oracle,
    "grid": grid,
    "paper": paper,
    "random": random,
    "d-optimal": d_optimal,
    "tpe": tpe,
}
