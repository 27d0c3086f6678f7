"""The replay on a pool of live runs: what is held out, what a grid buys, and how it is read."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def replay(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("live_replay")


def parabolas(log_params, log_flops):
    """ln L = ln(1.5 + 40 C^-.15) + .02 (ln N - ln N_opt)^2, N_opt = .3 C^.45."""
    best = np.log(0.3) + 0.45 * log_flops
    return np.log(1.5 + 40 * np.exp(-0.15 * log_flops)) + 0.02 * (log_params - best) ** 2


def pool_of(levels, factors=(0.2, 0.5, 1.0, 2.0, 5.0)):
    """Runs of some sizes about the best one at each level, two seeds a place."""
    rows = []
    for level in levels:
        for number, factor in enumerate(factors):
            params = 0.3 * level**0.45 * factor
            loss = float(np.exp(parabolas(np.log(params), np.log(level))))
            rows += [
                {
                    "trajectory": f"{level:.1e}-{number}-{seed}",
                    "params": params,
                    "tokens": level / (6 * params),
                    "flops": level,
                    "loss": loss,
                    "seed": seed,
                }
                for seed in (0, 1)
            ]
    return pd.DataFrame(rows)


def test_the_dearest_tenth_of_trajectories_judges_and_cannot_be_bought(replay):
    runs = pool_of(np.geomspace(1e10, 1e12, 10))
    pool = replay.Pool.of(runs)
    assert len(pool.held_out) == 10
    assert (pool.held_out["flops"] == runs["flops"].max()).all()
    assert pool.kept["flops"].max() < runs["flops"].max()
    assert len(pool.kept) + len(pool.held_out) == len(runs)


def test_a_branch_of_a_held_out_trajectory_cannot_be_bought_either(replay):
    runs = pool_of(np.geomspace(1e10, 1e12, 10))
    dearest = runs["trajectory"].iloc[-1]
    branch = runs.iloc[[-1]].assign(tokens=runs["tokens"].iloc[-1] / 4, flops=2.5e11)
    pool = replay.Pool.of(pd.concat([runs, branch], ignore_index=True))
    assert dearest not in set(pool.kept["trajectory"])


def test_parabolas_in_exact_runs_predict_larger_ones(replay):
    surface = replay.ParabolaSurface.of(pool_of(np.geomspace(1e10, 3e11, 5)))
    log_flops = np.full(3, np.log(1e12))
    log_params = np.log(0.3) + 0.45 * log_flops + np.array([-1.0, 0.0, 1.0])
    expected = parabolas(log_params, log_flops)
    np.testing.assert_allclose(surface.log_loss(log_params, log_flops), expected, atol=1e-3)
    assert surface.sizes == pytest.approx((np.log(0.3), 0.45), rel=1e-3)


def test_a_grid_buys_its_cheapest_levels_one_seed_a_place(replay):
    pool = replay.Pool.of(pool_of([*replay.GRID, 1e12], factors=(0.1, 0.2, 0.5, 1.0, 2.0, 5.0)))
    world = pool.world(0)
    rows = world.menu.iloc[replay.grid_of(world, 3, np.random.default_rng(0))]
    work = (6 * rows["params"] * rows["tokens"]).to_numpy()
    assert sorted(np.unique(work.round(-5))) == pytest.approx(sorted(replay.GRID)[:3], rel=1e-3)
    assert len(rows) == 3 * replay.SIZES
    assert not rows.duplicated(["params", "tokens"]).any()


def test_every_design_keeps_within_its_budget(replay):
    world = replay.Pool.of(pool_of(np.geomspace(1e10, 1e12, 10))).world(1)
    for design in replay.DESIGNS:
        budget = 6e11
        bought = replay._bought(world, design, budget, seed=0)
        assert len(set(bought)) == len(bought) > 3
        assert world.menu["cost"].iloc[bought].sum() <= budget


def test_a_true_search_is_scored_by_its_finished_runs_on_what_was_held_out(replay, tmp_path):
    pool = pool_of(np.geomspace(1e10, 1e12, 10))
    pool.to_csv(tmp_path / "pool.csv", index=False)
    search = pool_of(np.geomspace(1e10, 3e11, 5)).assign(status="finished")
    search["loss"] *= np.exp(0.004 * np.random.default_rng(0).normal(size=len(search)))
    died = search.iloc[[0]].assign(loss=np.nan, status="diverged")
    pd.concat([search, died]).to_csv(tmp_path / "search.csv", index=False)
    rows = replay.searched(tmp_path / "pool.csv", tmp_path / "search.csv")
    assert [row["reader"] for row in rows] == list(replay.LAWS)
    for row in rows:
        assert row["runs"] == len(search)
        assert row["rmse"] < 0.05
