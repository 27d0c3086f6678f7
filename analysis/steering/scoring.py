"""What a trajectory would tell: how far it lowers the variance of what is wanted.

Under one form all that is unknown is normal with covariance V. Observations with gradients F
[K, Q] and noise covariance R lower the variance of a goal with gradient g by

    (g V F^T) (F V F^T + R)^-1 (F V g^T),

which for a single observation is (g . V f)^2 / (sigma^2 + f . V f). It needs no loss, so runs
still under way count as if they had ended.
"""

import numpy as np

from analysis.discrepancy import noise_covariance
from analysis.laws.base import FloatArray
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Posterior


def observation_noise(part: Posterior, runs: Trajectories) -> FloatArray:
    """Return the standard deviation of each observation's noise, [S]."""
    return part.noise.at(runs.log_flops)


def reductions(
    part: Posterior,
    covariance: FloatArray,
    runs: Trajectories,
    phi: FloatArray,
    goals: FloatArray,
) -> FloatArray:
    """Return by how much each trajectory lowers the variance of each goal, [T, G].

    Args:
        part: the form.
        covariance: V, [Q, Q]; `part`'s own, or what pending runs leave of it.
        runs: T trajectories with S observations.
        phi: misfit features of the observations, [S, M].
        goals: gradients of what is wanted, [G, Q].
    """
    gradient = part.gradient(runs.points, phi)
    size = observation_noise(part, runs)
    moved = gradient @ covariance
    shared = moved @ goals.T
    counts = np.bincount(runs.owner, minlength=runs.count)
    if runs.owner.size == runs.count:
        variance = np.einsum("sq,sq->s", moved, gradient)
        return np.asarray(shared**2 / (size**2 + variance)[:, None])
    result = np.zeros((runs.count, goals.shape[0]))
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    for count in np.unique(counts):
        members = np.flatnonzero(counts == count)
        rows = first[members][:, None] + np.arange(count)
        total = np.einsum("tkq,tlq->tkl", moved[rows], gradient[rows])
        total += _noise(runs, rows, size)
        with_goals = shared[rows]
        solved = np.linalg.solve(total, with_goals)
        result[members] = np.einsum("tkg,tkg->tg", with_goals, solved)
    return result


def _noise(runs: Trajectories, rows: np.ndarray, size: FloatArray) -> FloatArray:
    """Return the noise covariance of trajectories with K observations each, [T, K, K]."""
    tokens = runs.points.log_tokens[rows]
    # The same trajectory's observations share most of their noise, as `noise_covariance` says.
    result = np.empty((*rows.shape, rows.shape[1]))
    same, ones = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
    for number, row in enumerate(tokens):
        result[number] = noise_covariance(row, same, ones)
    return result * size[rows][:, :, None] * size[rows][:, None, :]


def condition(
    part: Posterior, covariance: FloatArray, runs: Trajectories, phi: FloatArray
) -> FloatArray:
    """Return the covariance after trajectories whose losses are still unknown, [Q, Q].

    A rank-K update for each trajectory of K observations.
    """
    gradient = part.gradient(runs.points, phi)
    size = observation_noise(part, runs)
    result = covariance.copy()
    for number in range(runs.count):
        rows = np.flatnonzero(runs.owner == number)
        f = gradient[rows]
        moved = result @ f.T
        noise = _noise(runs, rows[None], size)[0]
        result -= moved @ np.linalg.solve(f @ moved + noise, moved.T)
    return 0.5 * (result + result.T)
