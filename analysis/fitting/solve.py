"""The point fit of a problem, from a search of the whole space."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.fitting.newton import FLAT, Minimum, minimise
from analysis.fitting.noise import (
    HUBER_EFFICIENT,
    PRIOR_ROWS,
    TYPICAL_NOISE,
    effective_sigma,
    noise_sigma,
    robust_sigma,
)
from analysis.fitting.problem import Problem
from analysis.fitting.regrid import GlobalCheck, distinct, further_starts
from analysis.laws.base import FloatArray

_CONTINUATION = (0.05, 0.01, 0.003)
_STAGE = 1e-3
"""Share of the objective that a stage on the way leaves to the next one."""

_SAME = 1e-9
"""Share of an objective below which two minima are the same one."""

_FURTHER_STEPS = (8, 25)
"""In the first stage and in the last, for starts beyond the law's own: those that are not down
by then started far from any law."""

_WORSE = 1.2
"""Factor by which the noise may grow with a few more rows before the valley is in doubt."""

_FOLLOWED = 4
"""Of those starts, how many are followed to the end: the lowest after the first stage."""


@dataclass(frozen=True)
class PointFit:
    """The fit of all rows.

    Attributes:
        theta: [P].
        covariance: [P, P].
        sigma: noise of a run of weight 1.
        delta: Huber's threshold.
        objective: Huber sum plus priors.
        converged: whether the last step was down to rounding.
        residual: observed less predicted ln L, [R].
        global_check: what other starts and a second grid of them found.
        prior_scale: noise variance that put the priors on the objective's scale.
    """

    theta: FloatArray
    covariance: FloatArray
    sigma: float
    delta: float
    objective: float
    converged: bool
    residual: FloatArray
    global_check: GlobalCheck
    prior_scale: float


def fit_point(problem: Problem, huber_delta: float | Literal["auto"]) -> PointFit:
    """Fit all rows: from global starts, then with noise, threshold and priors made consistent.

    A second set of starts, between those of the law, then looks for a lower minimum.
    """
    sigma = TYPICAL_NOISE
    delta = _CONTINUATION[0] if huber_delta == "auto" else huber_delta
    theta = starts = problem.starts()
    for stage in (d for d in _CONTINUATION if d > delta):
        theta = _minimise(problem, theta, stage, sigma, enough=_STAGE).theta
    found = _minimise(problem, theta, delta, sigma)
    found, sigma, delta = _make_consistent(problem, found, sigma, delta, huber_delta)
    own = float(found.objective.min())
    found = _both(found, _follow(problem, further_starts(problem, starts), delta, sigma))
    lower = float(found.objective.min()) < own - _SAME * abs(own)
    if lower:
        found = _minimise(problem, found.theta, delta, sigma)
        found, sigma, delta = _make_consistent(problem, found, sigma, delta, huber_delta)
    return _point(problem, found, sigma, delta, by_regrid=lower)


def _point(
    problem: Problem, found: Minimum, sigma: float, delta: float, *, by_regrid: bool
) -> PointFit:
    """Return the lowest minimum with its noise, covariance and the others beside it."""
    kept = distinct(problem, found, sigma)
    best = int(kept[0])
    residual = problem.log_loss - problem.model(found.theta[best : best + 1]).value[0]
    noise = _noise(problem, residual, found.theta[best], effective_sigma(sigma, delta))[1]
    return PointFit(
        theta=found.theta[best],
        covariance=laplace_covariance(problem, found.theta[best], effective_sigma(noise, delta)),
        sigma=noise,
        delta=float(delta),
        objective=float(found.objective[best]),
        converged=bool(found.converged[best]),
        residual=residual,
        global_check=GlobalCheck(
            starts=len(found.theta),
            minima=len(kept),
            objective=float(found.objective[best]),
            gap=float(np.diff(found.objective[kept[:2]])[0]) if len(kept) > 1 else np.inf,
            found_by_regrid=by_regrid,
        ),
        prior_scale=sigma**2,
    )


def fit_point_near(
    problem: Problem,
    huber_delta: float | Literal["auto"],
    start: FloatArray,
    sigma_before: float,
) -> PointFit | None:
    """Fit all rows from `start`, [P], near which the optimum is thought to lie.

    Noise, threshold and priors are made consistent along the same path as by `fit_point`, so
    both end at the same numbers where they end in the same valley.

    Args:
        problem: the rows.
        huber_delta: as `fit_point` takes it.
        start: the optimum of most of the rows.
        sigma_before: the noise about it.

    Returns:
        None where a search of the whole space is called for: `start` did not lead to a minimum,
        or to one about which the rows scatter by so much more that it may be the wrong one.
    """
    sigma = TYPICAL_NOISE
    delta = _CONTINUATION[0] if huber_delta == "auto" else huber_delta
    found = _minimise(problem, start[None], delta, sigma)
    found, sigma, delta = _make_consistent(problem, found, sigma, delta, huber_delta)
    point = _point(problem, found, sigma, delta, by_regrid=False)
    if not point.converged or point.sigma > _WORSE * sigma_before:
        return None
    return point


def _follow(problem: Problem, theta: FloatArray, delta: float, sigma: float) -> Minimum:
    """Minimise from further starts, in two stages of few steps."""
    first, last = _FURTHER_STEPS
    coarse = max(delta, _CONTINUATION[0])
    found = _minimise(problem, theta, coarse, sigma, enough=_STAGE, most=first)
    lowest = np.argsort(found.objective, kind="stable")[:_FOLLOWED]
    return _minimise(problem, found.theta[lowest], delta, sigma, most=last)


def _both(first: Minimum, second: Minimum) -> Minimum:
    return Minimum(
        np.concatenate([first.theta, second.theta]),
        np.concatenate([first.objective, second.objective]),
        np.concatenate([first.converged, second.converged]),
    )


def _make_consistent(
    problem: Problem,
    found: Minimum,
    sigma: float,
    delta: float,
    huber_delta: float | Literal["auto"],
) -> tuple[Minimum, float, float]:
    """Return the minima with noise and threshold as the residuals of the lowest one say."""
    uses_prior = bool(np.isfinite(problem.prior.spread).any())
    for _ in range(4 if huber_delta == "auto" or uses_prior else 0):
        previous = (sigma, delta)
        theta = found.theta[int(np.argmin(found.objective))]
        residual = problem.log_loss - problem.model(theta[None]).value[0]
        robust, noise = _noise(problem, residual, theta, effective_sigma(sigma, delta))
        if uses_prior:
            sigma = noise
        if huber_delta == "auto":
            delta = HUBER_EFFICIENT * robust
        if abs(np.log(previous[0] / sigma)) < 0.01 and abs(np.log(previous[1] / delta)) < 0.01:
            return found, *previous
        found = _minimise(problem, found.theta, delta, sigma)
    return found, sigma, delta


def _noise(
    problem: Problem, residual: FloatArray, theta: FloatArray, sigma: float
) -> tuple[float, float]:
    """Return the noise of a run of weight 1, from the median and from the squares."""
    fitted = _fitted_count(problem, theta, sigma)
    used = problem.weights > 0
    standard = residual[used] * np.sqrt(problem.weights[used])
    prior_rows = PRIOR_ROWS if problem.law_prior else 0.0
    return (
        robust_sigma(standard, fitted, prior_rows),
        noise_sigma(standard, fitted, prior_rows),
    )


def _minimise(
    problem: Problem,
    start: FloatArray,
    delta: float,
    sigma: float,
    *,
    enough: float = FLAT,
    most: int = 200,
) -> Minimum:
    return minimise(
        problem.model,
        problem.log_loss,
        start,
        weights=problem.weights[None],
        delta=delta,
        bounds=problem.bounds(),
        prior=problem.prior,
        prior_scale=sigma**2,
        enough=enough,
        max_iterations=most,
    )


def laplace_covariance(problem: Problem, theta: FloatArray, sigma: float) -> FloatArray:
    """Return the Laplace covariance, [P, P]: Gauss-Newton, which is never indefinite."""
    gradient = problem.model(theta[None]).gradient[0]
    information = (gradient * problem.weights) @ gradient.T / sigma**2
    information += np.diag(1.0 / problem.prior.spread**2)
    scale = 1.0 / np.sqrt(np.diag(information) + 1e-300)
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    # Directions that no run informs stay wide, but finite.
    inverse = (vectors / np.maximum(values, 1e-10)) @ vectors.T
    return inverse * scale[:, None] * scale


def _fitted_count(problem: Problem, theta: FloatArray, sigma: float) -> float:
    """Return how many parameters the rows, rather than the priors, decide."""
    covariance = laplace_covariance(problem, theta, sigma)
    return problem.size - float((np.diag(covariance) / problem.prior.spread**2).sum())
