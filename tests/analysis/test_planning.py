"""Plans: what the rest of a small budget buys, played to its end, and when one is followed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_search import LARGEST, TARGET, believed, menu, trunks

from analysis.steering.choosing import Account, Market, choose
from analysis.steering.goals import Optimum
from analysis.steering.places import Trajectories
from analysis.steering.planning import Hypothesis, best_plan
from analysis.steering.policy import POOL
from analysis.steering.scoring import Telling


@pytest.fixture(scope="module")
def market():
    return Market.of(menu(), Optimum(TARGET))


@pytest.fixture(scope="module")
def belief(market):
    return believed(market)


def test_a_plan_spends_the_rest_once_and_begins_with_its_dearest_run(market, belief):
    part = belief.parts[0]
    goals = market.goal.answer(part, market.goal_phi).gradient
    telling = Telling(part, market.candidates, market.phi)
    hypotheses = [Hypothesis(1.0, telling, part.covariance, goals)]
    cost, left = market.candidates.cost, 0.3 * LARGEST
    plan = best_plan(hypotheses, cost, np.ones(cost.size, dtype=bool), left)
    assert len(set(plan)) == len(plan)
    assert cost[plan].sum() <= left

    def remaining(runs: list[int]) -> float:
        covariance = part.covariance
        for run in runs:
            covariance = telling.after(covariance, run)
        return float(np.trace(goals @ covariance @ goals.T))

    rng = np.random.default_rng(0)
    by_chance: list[int] = []
    for run in rng.permutation(cost.size):
        if cost[[*by_chance, run]].sum() <= left:
            by_chance.append(int(run))
    assert remaining(plan) < remaining(by_chance)
    small = Market.of(market.candidates, market.goal, market.forms, POOL)
    choice = choose(small, belief, Account(left, 0.0, tuple(range(12))), rng)
    assert cost[choice.index] == cost[np.isfinite(choice.scores)].max()
    assert "planned" in choice.reason


@pytest.mark.parametrize("observations", [1, 3])
def test_a_plan_without_one_run_leaves_what_its_other_runs_leave(market, belief, observations):
    runs = trunks(menu(), observations)
    part = belief.parts[-1]
    goals = market.goal.answer(part, market.goal_phi).gradient
    telling = Telling(part, runs, market.basis.features(runs.points))
    plan = [3, 40, 41, 77]
    found = telling.without_each(part.covariance, goals, plan)
    before = np.trace(goals @ part.covariance @ goals.T)
    for number, removed in enumerate(found):
        covariance = part.covariance
        for other in plan[:number] + plan[number + 1 :]:
            covariance = telling.after(covariance, other)
        assert removed == pytest.approx(before - np.trace(goals @ covariance @ goals.T), rel=1e-6)


@pytest.mark.parametrize("observations", [1, 3])
def test_an_outlook_foresees_what_a_search_with_those_runs_would_see(market, belief, observations):
    runs = trunks(menu(), observations)
    part = belief.parts[-1]
    goals = market.goal.answer(part, market.goal_phi).gradient
    telling = Telling(part, runs, market.basis.features(runs.points))
    many = np.vstack([number * goals for number in range(1, 30)])
    for wanted in (goals, many):
        covariance, outlook = part.covariance, telling.outlook(part.covariance, wanted)
        kept = outlook.copy()
        for run in (3, 40, 41):
            covariance = telling.after(covariance, run)
            outlook.buy(run)
        expected = telling.reductions(covariance, wanted).sum(axis=1)
        assert outlook.reductions() == pytest.approx(expected, rel=1e-6)
        first = telling.reductions(part.covariance, wanted).sum(axis=1)
        assert kept.reductions() == pytest.approx(first, rel=1e-9), "a copy is its own"


def test_a_plan_does_not_rest_on_one_dear_run():
    """One run that tells 96 %, or six that tell 86 % together: a wrong row would cost all."""
    runs = Trajectories.of(np.full(7, 1e4), np.full(7, 1e6), [1.0, *[1 / 6] * 6])
    unsure = SimpleNamespace(
        gradient=lambda points, phi: np.ones((7, 1)),
        noise=SimpleNamespace(at=lambda log_flops: np.array([0.2, *[1.0] * 6])),
    )
    telling = Telling(unsure, runs, np.zeros((7, 0)))
    hypothesis = Hypothesis(1.0, telling, np.eye(1), np.eye(1))
    plan = best_plan([hypothesis], runs.cost, np.ones(7, dtype=bool), 1.0 + 1e-9)
    assert sorted(plan) == [1, 2, 3, 4, 5, 6]


def test_a_budget_of_many_runs_is_not_planned(market, belief):
    pool = Market.of(market.candidates, market.goal, market.forms, POOL)
    middle, bought = float(np.median(market.candidates.cost)), tuple(range(12))

    def planned(runs: float) -> bool:
        choice = choose(
            pool, belief, Account(runs * middle, middle, bought), np.random.default_rng(0)
        )
        return choice.reason.endswith("planned")

    assert planned(0.9 * POOL.few)
    assert not planned(1.1 * POOL.few)


def test_a_plan_of_a_large_pool_is_made_of_some_of_its_runs(market, belief):
    few = Market.of(
        market.candidates, market.goal, market.forms, replace(POOL, considered=20, few=np.inf)
    )
    cost, bought = market.candidates.cost, tuple(range(12))
    open_ = np.ones(cost.size, dtype=bool)
    open_[list(bought)] = False
    account = Account(0.5 * LARGEST, 0.0, bought, bought[-2:], open_)
    found = set()
    for seed in range(3):
        choice = choose(few, belief, account, np.random.default_rng(seed))
        planned = np.flatnonzero(np.isfinite(choice.scores))
        assert planned.size <= 20
        assert open_[planned].all()
        assert cost[planned].sum() <= account.budget
        found |= {int(index) for index in planned}
    assert len(found) > 20, "other runs are considered at another time"
    all_ = choose(few, belief, Account(1e6 * LARGEST, 0.0, bought, (), open_), None)
    assert np.isfinite(all_.scores).sum() == open_.sum(), "what can all be bought needs no plan"
