"""Refits of resampled trajectories, many at once."""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from analysis.fitting.newton import Minimum, huber, minimise
from analysis.fitting.problem import Problem
from analysis.fitting.regrid import GlobalCheck, with_response
from analysis.fitting.solve import PointFit
from analysis.fitting.taylor import Expansion
from analysis.laws.base import FloatArray, Prior

_CACHED_ELEMENTS = 150_000
"""Numbers in the largest array of one batch: with its temporaries it stays in cache, and is too
small for the allocator to hand back and fault in again each time."""

_FIRST_STEPS = 5
"""Exact steps before the few resamples that are left are gathered from all batches."""

_BATCH_ELEMENTS = 4_000_000
"""Numbers in the weights of one batch: 32 MB."""

_GRID_ELEMENTS = 20_000
"""Numbers in the weights of one batch of grids, each of which needs some fifty times as many."""

_ROUNDING = 1e-9
"""Share of an objective below which two minima are the same one."""


@dataclass(frozen=True)
class Draws:
    """What sets resamples apart.

    Attributes:
        counts: how often each trajectory was drawn, [B, T].
        mean: centres of the priors, [B, P].
    """

    counts: np.ndarray
    mean: FloatArray

    def weights(self, problem: Problem, part: slice) -> FloatArray:
        """Return the rows' weights in some resamples, [b, R]."""
        return self.counts[part][:, problem.trajectory] * problem.weights


def draw(problem: Problem, count: int, seed: int) -> Draws:
    """Draw resamples.

    Trajectories are drawn with replacement, and every resample draws its priors' centres from
    the priors: where the runs say nothing, the samples spread as the prior does instead of
    repeating its centre.
    """
    rng = np.random.default_rng(seed)
    groups = int(problem.trajectory.max()) + 1
    chosen = rng.integers(groups, size=(count, groups)) + groups * np.arange(count)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=count * groups).reshape(count, groups)
    mean = np.broadcast_to(problem.prior.mean, (count, problem.size)).copy()
    drawn = np.isfinite(problem.prior.spread)
    mean[:, drawn] += rng.standard_normal((count, drawn.sum())) * problem.prior.spread[drawn]
    return Draws(counts, mean)


def resample(problem: Problem, point: PointFit, count: int, seed: int) -> FloatArray:
    """Return refits of resamples, [B, P]."""
    return refit(problem, point, draw(problem, count, seed)).theta


def refit(problem: Problem, point: PointFit, draws: Draws) -> Minimum:
    """Refit resamples, started from the fit of all rows: by its expansion, then exactly."""
    expansion = Expansion(
        problem.model,
        problem.log_loss,
        point.theta,
        problem.weights,
        point.delta,
        point.sigma**2 / problem.prior.spread**2,
    )
    level = huber(point.residual, point.delta)[0]
    count = len(draws.counts)
    result = Minimum(
        np.empty((count, problem.size)), np.empty(count), np.zeros(count, dtype=np.bool_)
    )
    for part in _parts(count, _BATCH_ELEMENTS // problem.log_loss.size):
        weights, mean = draws.weights(problem, part), draws.mean[part]
        pieces = _parts(len(weights), _CACHED_ELEMENTS // problem.log_loss.size)
        start = np.concatenate([expansion.refit(weights[i], mean[i]) for i in pieces])
        found = _exact(problem, point, weights, mean, start, expansion.metric)
        # Where the expansion led to a higher place than it left, start from the fit itself.
        off = point.theta - mean
        before = weights @ level + 0.5 * (expansion.stiffness * off * off).sum(axis=1)
        astray = ~(found.objective <= before * (1.0 + _ROUNDING))
        if astray.any():
            start = np.tile(point.theta, (int(astray.sum()), 1))
            again = _exact(problem, point, weights[astray], mean[astray], start)
            _put(found, astray, again)
        _put(result, part, found)
    return result


def refit_globally(
    problem: Problem, point: PointFit, draws: Draws, found: Minimum
) -> tuple[Minimum, GlobalCheck]:
    """Look for a lower minimum of each resample from a grid of its own.

    A law with a grid searches it for all resamples by matrix products; any other law's global
    starts are followed down for every resample.

    Returns:
        The lower of both minima for each resample, and the point fit's check with how many
        resamples improved.
    """
    result = replace(
        found,
        theta=found.theta.copy(),
        objective=found.objective.copy(),
        converged=found.converged.copy(),
    )
    improved = 0
    for part in _parts(len(draws.counts), _GRID_ELEMENTS // problem.log_loss.size):
        weights, mean = draws.weights(problem, part), draws.mean[part]
        grid = problem.law.regrid(problem.points, problem.log_loss, weights, most=2)
        if grid is None:
            starts = problem.starts()
            grid = np.broadcast_to(starts, (len(weights), *starts.shape))
        else:
            grid = with_response(problem, grid, point.theta)
        best = _slice(result, part)
        for start in np.moveaxis(grid, 1, 0):
            other = _exact(problem, point, weights, mean, start)
            lower = other.objective < best.objective * (1.0 - _ROUNDING)
            _put(best, lower, _slice(other, lower))
        improved += int((best.objective < found.objective[part]).sum())
        _put(result, part, best)
    check = replace(point.global_check, resamples=len(draws.counts), improved=improved)
    return result, check


def _exact(
    problem: Problem,
    point: PointFit,
    weights: FloatArray,
    mean: FloatArray,
    start: FloatArray,
    metric: FloatArray | None = None,
) -> Minimum:
    """Return minima [B] from given starts; those that take long are pooled at the end."""
    result = Minimum(start.copy(), np.empty(len(start)), np.zeros(len(start), dtype=np.bool_))

    def run(rows: slice | np.ndarray, most: int) -> None:
        found = minimise(
            problem.model,
            problem.log_loss,
            result.theta[rows],
            weights=weights[rows],
            delta=point.delta,
            bounds=problem.bounds(),
            prior=Prior(mean[rows], problem.prior.spread),
            prior_scale=point.sigma**2,
            metric=metric,
            max_iterations=most,
        )
        _put(result, rows, found)

    batch = max(1, _CACHED_ELEMENTS // (problem.log_loss.size * problem.size))
    for part in _parts(len(start), batch):
        run(part, _FIRST_STEPS)
    late = np.flatnonzero(~result.converged)
    for part in _parts(late.size, batch):
        run(late[part], 200)
    return result


def _parts(count: int, batch: int) -> list[slice]:
    """Return slices of about equal size, none above `batch` unless that is under 1."""
    pieces = -(-count // max(batch, 1))
    edges = np.linspace(0, count, pieces + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _slice(found: Minimum, rows: slice | np.ndarray) -> Minimum:
    return Minimum(
        found.theta[rows].copy(), found.objective[rows].copy(), found.converged[rows].copy()
    )


def _put(into: Minimum, rows: slice | np.ndarray, values: Minimum) -> None:
    into.theta[rows] = values.theta
    into.objective[rows] = values.objective
    into.converged[rows] = values.converged
