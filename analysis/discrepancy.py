"""What a law's form misses: a smooth random function of ln N and ln D beside the law.

No formula with a handful of parameters is the loss. Fitted to many runs it leaves residuals that
are smooth in N and D rather than noise, and where it extrapolates its error grows while its
standard errors stay small. So the loss is modelled as

    ln L = law(N, D; theta) + delta(ln N, ln D) + noise

with delta a Gaussian process (Kennedy and O'Hagan 2001): zero on average, of standard deviation
`amplitude`, with a Matern-5/2 correlation that falls over `length` in ln N and ln D. Near runs
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


@dataclass(frozen=True)
class DiscrepancyPrior:
    """What run tables of other projects say of a law's misfit, in log loss."""

    amplitude: float = 0.03
    amplitude_spread: float = 0.3
    """Of ln amplitude: a table's own runs may move it, but seldom by more than a factor of 2."""
    length: float = 4.0
    """In ln N and ln D: the misfit bends over a factor of e^4 or so, not within one budget."""
    noise: float = 0.004
    noise_spread: float = 1.0
    """Of ln noise."""


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


def noise_correlation(log_tokens: FloatArray, trajectory: np.ndarray) -> FloatArray:
    """Return how the noise of rows hangs together, [R, R]: only within a trajectory."""
    same = trajectory[:, None] == trajectory
    shared = (1.0 - TRAJECTORY_NUGGET) * np.exp(-np.abs(log_tokens[:, None] - log_tokens))
    return np.where(same, shared, 0.0) + TRAJECTORY_NUGGET * np.eye(log_tokens.size)


@dataclass(frozen=True)
class Discrepancy:
    """The process, conditioned on runs.

    Attributes:
        amplitude: standard deviation far from any run, in log loss.
        length: correlation length in ln N and ln D.
        sigma: noise of one run.
        log_params, log_tokens: where the runs lie, [R].
        trajectory: number of each run's trajectory, [R].
        residual: ln L observed less the law's and the response's, gross outliers cut, [R].
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
    nuisance: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    @cached_property
    def _factor(self) -> tuple[FloatArray, bool]:
        here = (self.log_params, self.log_tokens)
        total = self.amplitude**2 * correlation(here, here, self.length)
        total += self.sigma**2 * noise_correlation(self.log_tokens, self.trajectory)
        if self.nuisance.size:
            total += self.nuisance @ self.nuisance.T
        factor: tuple[FloatArray, bool] = cho_factor(total, lower=True)
        return factor

    @cached_property
    def _weights(self) -> FloatArray:
        return np.asarray(cho_solve(self._factor, self.residual))

    def _gradient(self, law: Law, theta: FloatArray) -> FloatArray:
        return law.gradient(theta, Points(self.log_params, self.log_tokens))

    def at(self, law: Law, theta: FloatArray, points: Points) -> Kriged:
        """Return the process at `points` [S], with `law` at its estimate `theta` [P]."""
        there = (points.log_params, points.log_tokens)
        cross = self.amplitude**2 * correlation(
            there, (self.log_params, self.log_tokens), self.length
        )
        return self._conditional(law, theta, cross, np.full(len(cross), self.amplitude**2))

    def slope_on_budget(self, law: Law, theta: FloatArray, points: Points) -> Kriged:
        """Return the process's derivative in ln N at fixed N D, at `points`, as `at` does."""
        x = points.log_params[:, None] - self.log_params
        z = points.log_tokens[:, None] - self.log_tokens
        rate = np.sqrt(5.0) / self.length
        distance = rate * np.sqrt(x * x + z * z)
        # d/ds of the correlation along (+1, -1): -(rate^2 / 3)(1 + r) e^-r (x - z).
        cross = -(self.amplitude**2) * rate**2 / 3.0 * (1.0 + distance) * np.exp(-distance)
        variance = 2.0 * self.amplitude**2 * rate**2 / 3.0
        return self._conditional(law, theta, cross * (x - z), np.full(len(x), variance))

    def _conditional(
        self, law: Law, theta: FloatArray, cross: FloatArray, variance: FloatArray
    ) -> Kriged:
        if not self.residual.size:
            return Kriged(np.zeros_like(variance), variance, np.zeros((variance.size, theta.size)))
        solved = np.asarray(cho_solve(self._factor, cross.T)).T
        explained = np.einsum("sr,sr->s", solved, cross)
        return Kriged(
            cross @ self._weights,
            np.maximum(variance - explained, 0.0),
            solved @ self._gradient(law, theta),
        )
