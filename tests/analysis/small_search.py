"""A small search whose truth is the laboratory's: what can be bought, and what runs of it say."""

import numpy as np
import pandas as pd
from laboratory import true_loss

from analysis.laws.base import Points
from analysis.steering.belief import Belief
from analysis.steering.choosing import Market
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Observed

LARGEST = 1e12
TARGET = 1e15


def log_loss(points: Points) -> np.ndarray:
    return np.log(true_loss(np.exp(points.log_params), np.exp(points.log_tokens)))


def menu(levels: int = 9, ratios: int = 10) -> Trajectories:
    work, ratio = np.meshgrid(
        np.geomspace(1e-3 * LARGEST, LARGEST, levels), np.geomspace(1, 500, ratios), indexing="ij"
    )
    params = np.sqrt(work / 6 / ratio).ravel()
    return Trajectories.of(params, params * ratio.ravel(), work.ravel())


def trunks(runs: Trajectories, observations: int) -> Trajectories:
    """Return the runs with cooldowns at halves of their tokens besides, at the same prices."""
    return Trajectories.of_table(
        pd.DataFrame(
            {
                "params": np.repeat(np.exp(runs.points.log_params), observations),
                "tokens": np.outer(
                    np.exp(runs.points.log_tokens), 0.5 ** np.arange(observations)
                ).ravel(),
                "trajectory": np.repeat(np.arange(runs.count), observations),
                "cost": np.repeat(runs.cost, observations),
            }
        )
    )


def seen(runs: Trajectories, rng: np.random.Generator, noise: float = 0.004) -> Observed:
    y = log_loss(runs.points) + noise * rng.standard_normal(runs.owner.size)
    return Observed(runs.points, y, runs.owner)


def believed(market: Market, count: int = 25) -> Belief:
    """Return what some runs of a market, drawn at random, say."""
    rng = np.random.default_rng(0)
    bought = market.candidates.take(rng.integers(market.candidates.count, size=count))
    return market.believe(seen(bought, rng))
