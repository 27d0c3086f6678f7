"""Solving a problem: the point estimate from global starts, its covariance, the bootstrap."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.fitting.newton import Minimum, minimise
from analysis.fitting.noise import (
    HUBER_EFFICIENT,
    PRIOR_ROWS,
    TYPICAL_NOISE,
    effective_sigma,
    noise_sigma,
    robust_sigma,
)
from analysis.fitting.problem import Problem
from analysis.laws.base import FloatArray, Prior

_CONTINUATION = (0.05, 0.01, 0.003)
_BATCH_ELEMENTS = 4_000_000
"""Numbers in one batch's gradient: 32 MB, which stays near the caches."""


@dataclass(frozen=True)
class PointFit:
    """The fit of all rows: theta [P], its covariance, noise, threshold and objective."""

    theta: FloatArray
    covariance: FloatArray
    sigma: float
    delta: float
    objective: float
    converged: bool
    residual: FloatArray


def fit_point(problem: Problem, huber_delta: float | Literal["auto"]) -> PointFit:
    """Fit all rows: from global starts, then with noise, threshold and priors made consistent."""
    uses_prior = bool(np.isfinite(problem.prior.spread).any())
    prior_rows = PRIOR_ROWS if problem.law_prior else 0.0
    sigma = TYPICAL_NOISE
    delta = _CONTINUATION[0] if huber_delta == "auto" else huber_delta
    stages = [d for d in _CONTINUATION if d > delta] if huber_delta != "auto" else []
    theta = problem.starts()
    for stage in [*stages, delta]:
        last = stage == delta
        found = _minimise(problem, theta, None, stage, sigma, tolerance=1e-10 if last else 1e-3)
        theta = found.theta
    best = int(np.argmin(found.objective))
    # Keep every start until the noise is known: it decides which minimum is the lowest.
    for _ in range(4 if huber_delta == "auto" or uses_prior else 0):
        previous = (sigma, delta)
        residual = problem.log_loss - problem.model(theta[best : best + 1]).value[0]
        fitted = _fitted_count(problem, theta[best], effective_sigma(sigma, delta))
        if uses_prior:
            sigma = noise_sigma(residual, fitted, prior_rows)
        if huber_delta == "auto":
            delta = HUBER_EFFICIENT * robust_sigma(residual, fitted, prior_rows)
        if abs(np.log(previous[0] / sigma)) < 0.01 and abs(np.log(previous[1] / delta)) < 0.01:
            sigma, delta = previous
            break
        found = _minimise(problem, theta, None, delta, sigma, tolerance=1e-10)
        theta = found.theta
        best = int(np.argmin(found.objective))
    residual = problem.log_loss - problem.model(theta[best : best + 1]).value[0]
    fitted = _fitted_count(problem, theta[best], effective_sigma(sigma, delta))
    noise = noise_sigma(residual, fitted, prior_rows)
    return PointFit(
        theta=theta[best],
        covariance=_covariance(problem, theta[best], effective_sigma(noise, delta)),
        sigma=noise,
        delta=float(delta),
        objective=float(found.objective[best]),
        converged=bool(found.converged[best]),
        residual=residual,
    )


def _minimise(
    problem: Problem,
    start: FloatArray,
    weights: FloatArray | None,
    delta: float,
    sigma: float,
    *,
    tolerance: float,
    max_iterations: int = 200,
    prior: Prior | None = None,
) -> Minimum:
    return minimise(
        problem.model,
        problem.log_loss,
        start,
        weights=np.ones((1, problem.log_loss.size)) if weights is None else weights,
        delta=delta,
        bounds=problem.bounds(),
        prior=prior or problem.prior,
        prior_scale=sigma**2,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )


def _information(problem: Problem, theta: FloatArray, sigma: float) -> FloatArray:
    gradient = problem.model(theta[None]).gradient[0]
    return gradient @ gradient.T / sigma**2 + np.diag(1.0 / problem.prior.spread**2)


def _covariance(problem: Problem, theta: FloatArray, sigma: float) -> FloatArray:
    """Return the Laplace covariance, [P, P]: Gauss-Newton, which is never indefinite."""
    information = _information(problem, theta, sigma)
    scale = 1.0 / np.sqrt(np.diag(information) + 1e-300)
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    # Directions that no run informs stay wide, but finite.
    inverse = (vectors / np.maximum(values, 1e-10)) @ vectors.T
    return inverse * scale[:, None] * scale


def _fitted_count(problem: Problem, theta: FloatArray, sigma: float) -> float:
    """Return how many parameters the rows, rather than the priors, decide."""
    covariance = _covariance(problem, theta, sigma)
    return problem.size - float((np.diag(covariance) / problem.prior.spread**2).sum())


def resample(problem: Problem, point: PointFit, count: int, seed: int) -> FloatArray:
    """Return refits of resamples, [B, P].

    Trajectories are drawn with replacement, and every resample draws its priors' centres from
    the priors: where the runs say nothing, the samples spread as the prior does instead of
    repeating its centre.
    """
    rng = np.random.default_rng(seed)
    groups = int(problem.trajectory.max()) + 1
    counts = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=count)
    mean = np.broadcast_to(problem.prior.mean, (count, problem.size)).copy()
    drawn = np.isfinite(problem.prior.spread)
    mean[:, drawn] += rng.standard_normal((count, drawn.sum())) * problem.prior.spread[drawn]
    rows = problem.log_loss.size
    batch = max(1, _BATCH_ELEMENTS // (rows * problem.size))
    samples = np.empty((count, problem.size))
    for first in range(0, count, batch):
        part = slice(first, min(first + batch, count))
        size = part.stop - part.start
        samples[part] = _minimise(
            problem,
            np.tile(point.theta, (size, 1)),
            counts[part][:, problem.trajectory].astype(np.float64),
            point.delta,
            point.sigma,
            tolerance=1e-4,
            max_iterations=40,
            prior=Prior(mean[part], problem.prior.spread),
        ).theta
    return samples
