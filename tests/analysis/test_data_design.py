"""Choosing trajectories over (N, U): where they tell most of a law of repeated data."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.data_design import spread_over, target_gradients, trajectory_gains
from analysis.fitting.fit import fit_law
from analysis.laws.base import Points, get_law
from analysis.steering.places import Trajectories

LAW = get_law("data_constrained")
TRUTH = LAW.theta(np.array([0.8, 60.0, 8.0, 0.5, 0.14, 1.5, 30.0, 0.39, 0.5, 0.42]))
SIZES, UNIQUE = np.geomspace(30e3, 180e3, 5).round(), [4096.0, 8192.0, 16384.0]
EPOCHS = 2.0 ** np.arange(4, 9.5, 0.5)
TARGET = 32768.0
NOISE = 0.004


def table(places, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number, (n, u) in enumerate(places):
        log_loss = LAW.log_loss(TRUTH, Points.of(n, u * EPOCHS, u))
        own = NOISE * (0.7 * rng.normal() + 0.7 * rng.normal(size=EPOCHS.size))
        for e, loss in zip(EPOCHS, np.exp(log_loss + own), strict=True):
            rows.append((f"t{number}", n, u * e, u, loss))
    names = ["trajectory", "params", "tokens", "unique_tokens", "loss"]
    return pd.DataFrame(rows, columns=names)


def trajectories(places):
    n, u = (np.repeat(column, EPOCHS.size) for column in np.array(places).T)
    e = np.tile(EPOCHS, len(places))
    cost = np.array([6 * n * u * EPOCHS[-1] for n, u in places])
    return Trajectories(
        Points.of(n, u * e, u), np.repeat(np.arange(len(places)), e.size // len(places)), cost
    )


@pytest.fixture(scope="module")
def fit():
    start = [(SIZES[0], 4096.0), (SIZES[2], 8192.0), (SIZES[4], 4096.0), (SIZES[0], 16384.0)]
    return fit_law(table(start, 0), law="data_constrained", bootstrap=0, priors="weak")


def test_a_trajectory_gains_as_adding_its_rows_to_the_fit_would(fit):
    places = list(itertools.product(SIZES, UNIQUE))
    goals, tolerances = target_gradients(fit.state, TARGET, SIZES, EPOCHS)
    gains, before = trajectory_gains(fit, trajectories(places), goals, tolerances)
    assert gains.shape == (len(places), len(goals))
    assert (gains >= 0).all()
    assert (gains <= before * (1 + 1e-9)).all()
    pending = trajectories([places[7]])
    later, less = trajectory_gains(fit, trajectories(places), goals, tolerances, pending)
    assert (less <= before + 1e-9).all()
    assert np.allclose(before - less, gains[7])
    assert later[7].sum() < 0.8 * gains[7].sum()


def test_chosen_trajectories_predict_the_target_better_than_random_ones(fit):
    places = list(itertools.product(SIZES, UNIQUE))
    runs = trajectories(places)
    start = [(SIZES[0], 4096.0), (SIZES[2], 8192.0), (SIZES[4], 4096.0), (SIZES[0], 16384.0)]
    goals, tolerances = target_gradients(fit.state, TARGET, SIZES, EPOCHS)
    bought: list[int] = []
    for _ in range(2):
        pending = runs.take(bought) if bought else None
        gains, _ = trajectory_gains(fit, runs, goals, tolerances, pending)
        bought.append(int(gains.sum(axis=1).argmax()))
    there = Points.of(90e3, TARGET * EPOCHS, TARGET)
    truth = LAW.log_loss(TRUTH, there)

    def miss(chosen, seed):
        runs = table([*start, *(places[k] for k in chosen)], seed)
        law = fit_law(runs, law="data_constrained", bootstrap=0, priors="weak")
        return float(np.abs(law.law.log_loss(law.theta, there) - truth).mean())

    chosen = np.mean([miss(bought, seed) for seed in range(6)])
    rng = np.random.default_rng(1)
    random = np.mean(
        [miss(rng.choice(len(places), 2, replace=False), seed % 6) for seed in range(12)]
    )
    assert chosen < random


def test_without_an_optimum_the_losses_at_the_target_are_wanted(fit):
    endless = fit_law(fit.runs, law="muennighoff", bootstrap=0, priors="weak")
    goals, tolerances = target_gradients(endless.state, TARGET, SIZES, EPOCHS[:3])
    assert goals.shape == (SIZES.size * 3, endless.theta.size)
    assert np.unique(tolerances).tolist() == [0.01]


def test_the_start_fills_the_corners_first_and_begins_cheap():
    menu = pd.DataFrame(itertools.product(SIZES, UNIQUE), columns=["params", "unique_tokens"])
    menu["cost"] = menu["params"] * menu["unique_tokens"]
    start = spread_over(menu, 6)
    assert start["cost"].iloc[0] == menu["cost"].min()
    corners = set(itertools.product(SIZES[[0, -1]], (4096.0, 16384.0)))
    assert corners == set(zip(start["params"][:4], start["unique_tokens"][:4], strict=True))
    assert not start.duplicated(["params", "unique_tokens"]).any()
    assert len(spread_over(menu, 100)) == len(menu)
