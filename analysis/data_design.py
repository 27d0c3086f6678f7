"""The next trajectory over repeated data worth paying for, by a law of N, U and epochs.

A trajectory observed along its epochs is K correlated observations. With F [K, P] the gradients
of their log losses, R the covariance of their noise and V that of the law's coordinates, it
lowers the variance of an answer with gradient g by

    g^T V F^T (F V F^T + R)^-1 F V g,

which needs no loss, so trajectories still under way count as if they had ended. Answers are the
best size, the best epochs and the loss at the target's unique tokens; where the law as it stands
names no best ones, the losses of a grid of sizes and epochs there take their place (V-optimality).
"""

from typing import Protocol

import numpy as np
import pandas as pd

from analysis.answers import state_directions
from analysis.discrepancy import noise_covariance
from analysis.epochs import DataSearch
from analysis.laws.base import FloatArray, Law, Points
from analysis.state import LawState
from analysis.steering.places import Trajectories

TOLERANCES = np.array([0.1, 0.1, 0.01])
"""Half widths to which ln N, ln e and ln L at the target are wanted; of losses, the last."""

_JUMP = 3.0
_ANSWERS = [0, 2, 4]
"""ln N, ln e and ln L among `DataSearch.logs`."""


class Steerable(Protocol):
    """What the design needs of a fit: `analysis.fitting.result.Fit` and `LawState` have it."""

    @property
    def law(self) -> Law: ...

    @property
    def theta(self) -> FloatArray: ...

    @property
    def covariance(self) -> FloatArray: ...

    @property
    def sigma(self) -> float: ...


def target_gradients(
    state: LawState, unique_tokens: float, params: FloatArray, epochs: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients [G, P] of what is wanted at `unique_tokens`, and tolerances [G].

    Args:
        state: the law as it stands.
        unique_tokens: U of the target.
        params: sizes, for the losses that stand in for answers which do not exist.
        epochs: and epochs.
    """
    directions = state_directions(state.covariance)
    search = DataSearch(state, float(np.log(unique_tokens)), None)
    near = np.concatenate([state.theta[None], state.theta + directions, state.theta - directions])
    found = search.logs(near)[:, _ANSWERS]
    if np.isfinite(found[0]).all():
        ahead, behind = np.split(found[1:], 2)
        lengths = np.linalg.norm(directions, axis=1)[:, None]
        slopes = (ahead - behind) / (2.0 * lengths)
        # A jump from one minimum to another is no slope.
        slopes[~np.isfinite(slopes) | (np.abs(ahead - behind) > _JUMP)] = 0.0
        return slopes.T @ (directions / lengths), TOLERANCES
    size, passes = (grid.ravel() for grid in np.meshgrid(params, epochs, indexing="ij"))
    points = Points.of(size, unique_tokens * passes, unique_tokens)
    gradients = state.law.gradient(state.theta, points)
    return gradients, np.full(len(gradients), TOLERANCES[-1])


def trajectory_gains(
    fit: Steerable,
    candidates: Trajectories,
    gradients: FloatArray,
    tolerances: FloatArray,
    pending: Trajectories | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return what each candidate lowers the answers' variances by, [T, G], and these, [G].

    Both in units of the squared tolerances.

    Args:
        fit: the law as it stands.
        candidates: T trajectories.
        gradients: of the answers, [G, P].
        tolerances: [G].
        pending: trajectories under way.
    """
    goals = gradients / tolerances[:, None]
    covariance = fit.covariance
    for number in range(0 if pending is None else pending.count):
        assert pending is not None
        f, noise = _rows(fit, pending, number)
        moved = covariance @ f.T
        covariance = covariance - moved @ np.linalg.solve(f @ moved + noise, moved.T)
    gains = np.empty((candidates.count, len(goals)))
    for number in range(candidates.count):
        f, noise = _rows(fit, candidates, number)
        shared = f @ covariance @ goals.T
        solved = np.linalg.solve(f @ covariance @ f.T + noise, shared)
        gains[number] = np.einsum("kg,kg->g", shared, solved)
    return gains, np.einsum("gp,pq,gq->g", goals, covariance, goals)


def _rows(fit: Steerable, runs: Trajectories, number: int) -> tuple[FloatArray, FloatArray]:
    """Return the gradients [K, P] and the noise covariance [K, K] of one trajectory."""
    points = runs.take([number]).points
    count = points.log_tokens.size
    noise = noise_covariance(points.log_tokens, np.zeros(count), np.ones(count))
    return fit.law.gradient(fit.theta, points), fit.sigma**2 * noise


def spread_over(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` rows that fill the space of ln N and ln U, the start of a search.

    The cheapest comes first, then always the one that lies farthest from all before it, its
    coordinates as shares of the table's range; ties go to the cheaper.

    Args:
        table: columns `params`, `unique_tokens` and `cost`, one row for each (N, U).
        count: how many; all where there are no more.
    """
    place = np.log(table[["params", "unique_tokens"]].to_numpy(dtype=np.float64))
    span = np.ptp(place, axis=0)
    place = (place - place.min(axis=0)) / np.where(span > 0, span, 1.0)
    cost = table["cost"].to_numpy(dtype=np.float64)
    chosen = [int(np.argmin(cost))]
    while len(chosen) < min(count, len(table)):
        distance = np.linalg.norm(place[:, None] - place[chosen], axis=2).min(axis=1)
        far = np.flatnonzero(distance > distance.max() - 1e-9)
        chosen.append(int(far[np.argmin(cost[far])]))
    return table.iloc[chosen].reset_index(drop=True)
