"""Replays: nothing is read before it is paid for, budgets hold, designs compare."""

import json

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered

from analysis.cli import main
from analysis.designs import DESIGNS, expected_gain
from analysis.errors import ReplayError
from analysis.replay import (
    Purchases,
    SurfaceWorld,
    TableWorld,
    five_parameters,
    replay,
    replay_many,
)
from analysis.steering.estimate import mixture


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    runs = observe(*scattered(120, rng), rng)
    large = (runs["params"] * runs["tokens"]).rank() > 100
    return TableWorld.of(runs[~large], runs[large])


def test_designs_never_see_losses_of_the_pool(world):
    assert "loss" not in world.menu
    assert "loss" not in world.wanted


@pytest.mark.parametrize("name", DESIGNS)
def test_each_design_spends_its_budget_and_no_run_twice(world, name):
    budget = 0.2 * world.menu["cost"].sum()
    seen: list[int] = []

    def design(purchases, rng):
        run = DESIGNS[name](purchases, rng)
        assert run in purchases.affordable
        seen.append(run)
        return run

    row = replay(world, design, five_parameters, [budget], 0).iloc[0]
    assert len(set(seen)) == len(seen) == row["runs"]
    assert row["spent"] <= budget
    left = world.menu["cost"].drop(seen)
    assert row["spent"] + left.min() > budget


class Poisoned:
    """Recorded losses that raise unless the run was paid for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.paid = values, set()

    def __getitem__(self, run: int) -> float:
        if run not in self.paid:
            raise AssertionError(f"the loss of run {run} was read before it was bought")
        return self.values[run]

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("all losses were read at once")


@pytest.mark.parametrize("name", ["steered", "v_optimal", "random"])
def test_no_loss_is_read_before_it_is_bought(world, name):
    poisoned = Poisoned(world.recorded)

    def design(purchases, rng):
        run = DESIGNS[name](purchases, rng)
        poisoned.paid.add(run)
        return run

    table = TableWorld(world.menu, world.wanted, poisoned, world.truth)
    budget = 0.03 * world.menu["cost"].sum()
    clean = replay(world, DESIGNS[name], five_parameters, [budget], 0)
    pd.testing.assert_frame_equal(replay(table, design, five_parameters, [budget], 0), clean)


def test_a_design_that_needs_one_law_says_so_of_a_mixture(world):
    budget = 0.2 * world.menu["cost"].sum()
    with pytest.raises(ReplayError, match="take an estimator that fits one"):
        replay(world, DESIGNS["d_optimal"], mixture, [budget], 0)


def test_the_whole_pool_scores_as_a_fit_of_it(world):
    whole = replay(world, DESIGNS["random"], five_parameters, [2 * world.menu["cost"].sum()], 1)
    runs = world.menu.assign(loss=world.recorded)
    expected = world.score(five_parameters(runs))
    assert whole["rmse"].iloc[0] == pytest.approx(expected["rmse"], rel=1e-6)


def test_one_seed_repeats_itself_whatever_the_number_of_processes(world):
    designs = {"random": DESIGNS["random"], "v_optimal": DESIGNS["v_optimal"]}
    budgets = [0.05 * world.menu["cost"].sum()]
    alone = replay_many(world, designs, five_parameters, budgets, range(2))
    together = replay_many(world, designs, five_parameters, budgets, range(2), jobs=2)
    pd.testing.assert_frame_equal(alone, together)
    assert list(alone.columns[:3]) == ["design", "seed", "budget"]


def surface() -> SurfaceWorld:
    rows = [
        (np.sqrt(work / 6 / ratio), np.sqrt(work / 6 * ratio), work)
        for work in np.geomspace(1e17, 3e18, 10)
        for ratio in np.geomspace(1, 300, 10)
    ]
    menu = pd.DataFrame(rows, columns=["params", "tokens", "cost"])

    def log_loss(log_params, log_tokens):
        u, v = 480 * np.exp(-0.35 * log_params), 2100 * np.exp(-0.37 * log_tokens)
        return np.log(1.8 + u + v)

    return SurfaceWorld(menu, log_loss, sigma=0.004, target=1e22)


def test_on_a_surface_the_optimum_is_judged_and_steering_beats_chance():
    world = surface()
    errors = {}
    for name in ("random", "v_optimal"):
        found = [
            replay(world, DESIGNS[name], five_parameters, [1e19], seed).iloc[0]
            for seed in range(5)
        ]
        errors[name] = np.median([row["ln_loss"] for row in found])
        assert np.mean([row["coverage"] for row in found]) > 0.5
    assert errors["v_optimal"] < errors["random"]


def test_thompson_sampling_buys_near_the_optimum_of_each_compute():
    world = surface()
    work = np.log(world.menu["cost"].to_numpy())
    ratio = np.log((world.menu["tokens"] / world.menu["params"]).to_numpy())
    off = np.zeros(len(work))
    for level in np.unique(work.round(3)):
        rows = np.flatnonzero(work.round(3) == level)
        there = np.log(world.menu[["params", "tokens"]].to_numpy()[rows]).T
        off[rows] = np.abs(ratio[rows] - ratio[rows][np.argmin(world.log_loss(*there))])
    distance = {}
    for name in ("thompson", "random"):
        bought: list[int] = []

        def design(purchases, rng, name=name, bought=bought):
            run = DESIGNS[name](purchases, rng)
            if len(purchases.bought) >= 10:
                bought.append(run)
            return run

        replay(world, design, mixture, [2e19], 0)
        distance[name] = np.median(off[bought])
    assert distance["thompson"] < 0.5 * distance["random"]


def test_a_knowledge_gradient_is_what_the_decision_gains_on_average():
    """Against drawn losses: each moves the expectations, and the least of them is what counts."""
    rng = np.random.default_rng(0)
    middle = np.array([0.0, 0.01, 0.03])
    moves = rng.normal(0.0, 0.03, (5, 3))
    found = expected_gain(middle, moves)
    draws = rng.standard_normal(200_000)
    for gain, row in zip(found, moves, strict=True):
        after = np.stack([m + s * draws for m, s in zip(middle, row, strict=True)]).min(axis=0)
        assert gain == pytest.approx(middle.min() - after.mean(), abs=4e-4)
    assert expected_gain(middle, np.full((1, 3), 0.02)) == pytest.approx(0.0, abs=1e-9)


def test_a_budget_that_buys_nothing_is_refused(world):
    with pytest.raises(ReplayError, match="buys no run; the cheapest is"):
        replay(world, DESIGNS["random"], five_parameters, [1.0], 0)


def test_a_law_is_fitted_once_for_what_was_bought(world):
    calls = []

    def counting(runs):
        calls.append(len(runs))
        return five_parameters(runs)

    purchases = Purchases(world, world.menu["cost"].sum(), counting)
    for run in range(12):
        purchases.bought.append(run)
        purchases.losses.append(world.buy(run, np.random.default_rng(0)))
    assert purchases.fit is purchases.fit
    assert calls == [12]


def test_the_verb_prints_medians_by_budget(tmp_path, capsys):
    rng = np.random.default_rng(1)
    path = tmp_path / "runs.csv"
    observe(*scattered(80, rng), rng).to_csv(path, index=False)
    call = ["replay", str(path), "--design", "random,space_filling", "--budget", "10%,30%"]
    call += ["--seeds", "2", "--estimator", "five_parameters"]
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["design"], row["runs"] > 0) for row in rows] == [
        ("random", True),
        ("random", True),
        ("space_filling", True),
        ("space_filling", True),
    ]
    assert main(call) == 0
    assert "to buy" in capsys.readouterr().out
    assert main(["replay", str(path), "--design", "oracle"]) == 2
    assert "known: random" in capsys.readouterr().err
    assert main(["replay", str(path), "--budget", "lots"]) == 2
