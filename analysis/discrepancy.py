"""What a law's form misses: a smooth random function of ln N and ln D beside the law.

No formula with a handful of parameters is the loss. Fitted to many runs it leaves residuals that
are smooth in N and D rather than noise, and where it extrapolates its error grows while its
standard errors stay small. So the loss is modelled as

    ln L = law(N, D; theta) + delta(ln N, ln D) + noise

with delta a Gaussian process (Kennedy and O'Hagan 2001): zero on average, with a Matern-5/2
correlation that falls over `length` in ln N and ln D. Its standard deviation is `amplitude` times
the share of the loss that the law calls reducible: a form that is wrong is wrong about what
training removes, so where little is left to remove little is left to be wrong about. Near runs
the process follows their residuals; away from them it returns to zero and leaves its variance to
the interval. Parameters that a smooth function could imitate come out as uncertain as they are.

Amplitude and length have priors learnt on run tables of several projects, each reported with
settings chosen on the others: `benchmarks/coverage.py`, `docs/decisions.md`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from analysis.laws.base import FloatArray, Law, Points

TRAJECTORY_NUGGET = 0.1
"""Share of the noise that two observations of one trajectory never share. The rest fades by e
for each e-fold between their token counts: cooldowns a factor of 2 apart share half."""


_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class DiscrepancyPrior:
    """What run tables of other projects say of a law's misfit, in log of the reducible loss."""

    amplitude: float = 0.15
    amplitude_spread: float = 0.3
    """Of ln amplitude: a table's own runs may move it, but seldom by more than a factor of 2."""
    length: float = 6.0
    """In ln N and ln D: the misfit bends over many budgets, not within one."""
    noise: float = 0.004
    noise_spread: float = 1.0
    """Of ln noise."""


def reducible_share(
    law: Law, theta: FloatArray, points: Points, log_loss: FloatArray | None = None
) -> FloatArray:
    """Return 1 - E / L of one theta at `points`, [S]; 1 for a law without a floor.

    Args:
        law: the formula.
        theta: its parameters, [P].
        points: [S].
        log_loss: the law's ln L there, where it is known already.
    """
    if "floor" not in law.kinds:
        return np.ones(points.log_params.shape)
    floor = theta[law.kinds.index("floor")]
    value = law.log_loss(theta, points) if log_loss is None else log_loss
    return np.maximum(-np.expm1(floor - value), _LEAST_SHARE)


class Kriged(NamedTuple):
    """The process at S points, given the runs and the law at its estimate."""

    mean: FloatArray
    """[S]"""
    variance: FloatArray
    """[S], with the law's parameters known."""
    pull: FloatArray
    """How the mean falls as parameters rise, [S, P]: the runs' residuals move with them."""


def correlation(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray], length: float
) -> FloatArray:
    """Return the Matern-5/2 correlation of points (ln N [R], ln D [R]), [R, S]."""
    distance = np.sqrt(5.0 * _square_distance(first, second)) / length
    return (1.0 + distance + distance * distance / 3.0) * np.exp(-distance)


def _square_distance(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray]
) -> FloatArray:
    result: FloatArray = np.zeros((first[0].size, second[0].size))
    for a, b in zip(first, second, strict=True):
        result += (a[:, None] - b) ** 2
    return result


def trajectory_noise(log_tokens: FloatArray) -> FloatArray:
    """Return the covariance of the noise within T trajectories of K rows each, [T, K, K].

    Per variance of a row; the blocks of `noise_covariance`.

    Args:
        log_tokens: ln D of the rows, [T, K].
    """
    apart = np.abs(log_tokens[:, :, None] - log_tokens[:, None, :])
    shared = (1.0 - TRAJECTORY_NUGGET) * np.exp(-apart)
    return np.asarray(shared + TRAJECTORY_NUGGET * np.eye(log_tokens.shape[1]))


def noise_covariance(
    log_tokens: FloatArray, trajectory: np.ndarray, weights: FloatArray
) -> FloatArray:
    """Return the covariance of rows' noise per variance of a row of weight 1, [R, R].

    Rows hang together only within a trajectory.
    """
    same = trajectory[:, None] == trajectory
    shared = (1.0 - TRAJECTORY_NUGGET) * np.exp(-np.abs(log_tokens[:, None] - log_tokens))
    result = np.where(same, shared, 0.0) + TRAJECTORY_NUGGET * np.eye(log_tokens.size)
    return result / np.sqrt(weights[:, None] * weights)


@dataclass(frozen=True)
class Discrepancy:
    """The process, conditioned on runs.

    Attributes:
        amplitude: standard deviation far from any run, as a share of the reducible loss.
        length: correlation length in ln N and ln D.
        sigma: noise of a run of weight 1.
        log_params, log_tokens: where the runs lie, [R].
        trajectory: number of each run's trajectory, [R].
        residual: ln L observed less the law's and the response's, gross outliers cut, [R].
        weights: the runs' precisions relative to one another, [R].
        nuisance: effect of one prior spread of each response parameter, [R, Q]: what the
            response may explain is not the law's nor the process's.
    """

    amplitude: float
    length: float
    sigma: float
    log_params: FloatArray
    log_tokens: FloatArray
    trajectory: np.ndarray
    residual: FloatArray
    weights: FloatArray
    nuisance: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def covariance(self, law: Law, theta: FloatArray) -> FloatArray:
        """Return the covariance of the runs' ln L about the law, noise included, [R, R]."""
        here = (self.log_params, self.log_tokens)
        amplitude = self.amplitude * reducible_share(law, theta, Points(*here))
        total = amplitude[:, None] * correlation(here, here, self.length) * amplitude
        total += self.sigma**2 * noise_covariance(self.log_tokens, self.trajectory, self.weights)
        return total

    def given(self, law: Law, theta: FloatArray) -> "Misfit":
        """Return the process about `law` at its estimate `theta` [P], ready to be asked."""
        return Misfit(self, law, theta)


@dataclass(frozen=True)
class Misfit:
    """The process about one law: what is solved once and asked often."""

    known: Discrepancy
    law: Law
    theta: FloatArray

    def at(self, points: Points) -> Kriged:
        """Return the process at `points`, [S]."""
        share = self._amplitude(points)
        there = (points.log_params, points.log_tokens)
        cross = correlation(
            there, (self.known.log_params, self.known.log_tokens), self.known.length
        )
        return self._conditional(share[:, None] * cross, share**2)

    def slope_on_budget(self, points: Points) -> Kriged:
        """Return the process's derivative in ln N at fixed N D, at `points`, as `at` does.

        The share changes little along a budget near its optimum, where the loss is flat.
        """
        share = self._amplitude(points)
        rate = float(np.sqrt(5.0)) / self.known.length
        x = points.log_params[:, None] - self.known.log_params
        z = points.log_tokens[:, None] - self.known.log_tokens
        distance = rate * np.sqrt(x * x + z * z)
        # d/ds of the correlation along (+1, -1): -(rate^2 / 3)(1 + r) e^-r (x - z).
        cross = -(rate**2) / 3.0 * (1.0 + distance) * np.exp(-distance) * (x - z)
        return self._conditional(share[:, None] * cross, 2.0 * share**2 * rate**2 / 3.0)

    def covariance(self, first: Points, second: Points) -> FloatArray:
        """Return the process's covariance given the runs, the law's theta being known, [S, T]."""
        places = [(points.log_params, points.log_tokens) for points in (first, second)]
        sizes = [self._amplitude(points) for points in (first, second)]
        before = (
            sizes[0][:, None] * correlation(places[0], places[1], self.known.length) * sizes[1]
        )
        if not self.known.residual.size:
            return before
        runs = (self.known.log_params, self.known.log_tokens)
        here = self._amplitude(self._runs)
        crosses = [
            size[:, None] * correlation(place, runs, self.known.length) * here
            for size, place in zip(sizes, places, strict=True)
        ]
        return before - crosses[0] @ np.asarray(cho_solve(self._factor, crosses[1].T))

    def _amplitude(self, points: Points) -> FloatArray:
        return self.known.amplitude * reducible_share(self.law, self.theta, points)

    @cached_property
    def _runs(self) -> Points:
        return Points(self.known.log_params, self.known.log_tokens)

    @cached_property
    def _factor(self) -> tuple[FloatArray, bool]:
        total = self.known.covariance(self.law, self.theta)
        if self.known.nuisance.size:
            total += self.known.nuisance @ self.known.nuisance.T
        # The least eigenvalue is that of the noise; one below what rounding makes of the sum
        # leaves no factor. A law file's sigma may be as small as its writer liked.
        rounding = len(total) * np.finfo(np.float64).eps * float(np.trace(total))
        if TRAJECTORY_NUGGET * self.known.sigma**2 / self.known.weights.max() < rounding:
            total[np.diag_indices_from(total)] += rounding
        factor: tuple[FloatArray, bool] = cho_factor(total, lower=True)
        return factor

    @cached_property
    def _gradient(self) -> FloatArray:
        return self.law.gradient(self.theta, self._runs)

    def _conditional(self, cross: FloatArray, variance: FloatArray) -> Kriged:
        """Return the process given the runs.

        Args:
            cross: covariance with the runs, but for the runs' own amplitudes, [S, R].
            variance: before the runs are known, [S].
        """
        if not self.known.residual.size:
            nothing = np.zeros((variance.size, self.theta.size))
            return Kriged(np.zeros_like(variance), variance, nothing)
        cross = cross * self._amplitude(self._runs)
        solved = np.asarray(cho_solve(self._factor, cross.T)).T
        explained = np.einsum("sr,sr->s", solved, cross)
        return Kriged(
            solved @ self.known.residual,
            np.maximum(variance - explained, 0.0),
            solved @ self._gradient,
        )
