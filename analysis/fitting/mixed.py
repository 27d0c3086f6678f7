"""The law and its discrepancy fitted together: generalised least squares with learnt variances.

Given the amplitude of the discrepancy and the noise, ln L is normal about the law with a known
covariance, and theta follows from Gauss-Newton. Given theta, both variances follow from the
marginal likelihood, theta integrated out. The two alternate a few times. In the eigenbasis of
the discrepancy's correlation every covariance that is tried is diagonal.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from analysis.discrepancy import (
    Discrepancy,
    DiscrepancyPrior,
    correlation,
    noise_covariance,
    reducible_share,
)
from analysis.fitting.problem import Problem
from analysis.laws.base import FloatArray

OUTLIER = 3.0
"""Noise beyond this many standard deviations is cut, as Huber's estimator does."""

_ROUNDS = 8
_STEPS = 40
_MAD_TO_SIGMA = 1.482602218505602
_SMALLEST = 1e-4
_FINEST = 1e-5
"""Of sigma: losses are printed to some five digits. Rows without any noise, such as a place that
is listed twice with one loss, would otherwise drive it to nothing, and the covariance of the runs
would have no inverse."""

_CHORDS = 12
_CHORD_TOLERANCE = 1e-3


@dataclass(frozen=True)
class MixedFit:
    """The estimate. Theta is centred, as the problem's.

    Attributes:
        theta: [P].
        covariance: posterior covariance, [P, P].
        sigma: noise of one run.
        amplitude: of the discrepancy.
        objective: negative log marginal likelihood with the priors' part, up to a constant.
        converged: whether variances and theta came to rest.
        residual: ln L less the law's and the response's, [R].
        cut: the same with gross outliers cut, [R].
    """

    theta: FloatArray
    covariance: FloatArray
    sigma: float
    amplitude: float
    objective: float
    converged: bool
    residual: FloatArray
    cut: FloatArray


def fit_mixed(problem: Problem, starts: FloatArray, settings: DiscrepancyPrior) -> MixedFit:
    """Return the best estimate over `starts`, [S, P]; every parameter needs a prior or data."""
    found = [
        _from_start(problem, _Basis.of(problem, start, settings.length), start, settings)
        for start in starts
    ]
    best = min(found, key=lambda fit: fit.objective)
    # Once more with the reducible shares of the law that was found.
    return _from_start(
        problem, _Basis.of(problem, best.theta, settings.length), best.theta, settings
    )


def condition(problem: Problem, fit: MixedFit, settings: DiscrepancyPrior) -> Discrepancy:
    """Return the process given the problem's rows, in coordinates that are not centred."""
    gradient = problem.model(fit.theta[None]).gradient[0][problem.law_size :]
    return Discrepancy(
        amplitude=fit.amplitude,
        length=settings.length,
        sigma=fit.sigma,
        log_params=problem.points.log_params + problem.centre[0],
        log_tokens=problem.points.log_tokens + problem.centre[1],
        trajectory=problem.trajectory,
        residual=fit.cut,
        weights=problem.weights,
        nuisance=(gradient * problem.prior.spread[problem.law_size :, None]).T,
    )


def posterior_draws(
    problem: Problem, fit: MixedFit, settings: DiscrepancyPrior, count: int, seed: int
) -> FloatArray:
    """Return draws of theta, [B, P]: the fit repeated on rows and priors drawn about it.

    Each repeat sees other noise and another discrepancy of the fitted sizes, and priors centred
    elsewhere. For a linear law these are draws of the posterior; along the curved valleys of a
    law that is not, they follow the valley where normal draws would leave it.
    """
    rng = np.random.default_rng(seed)
    basis = _Basis.of(problem, fit.theta, settings.length)
    low, high = problem.bounds()
    variance = fit.amplitude**2 * basis.share + fit.sigma**2
    precision = _precision(problem)
    _, gradient = _model(problem, fit.theta)
    scores = basis.turn.T @ (basis.turn @ gradient / variance[:, None])
    noise = rng.standard_normal((count, variance.size)) * np.sqrt(variance)
    rows = np.linalg.solve(basis.turn, noise.T).T + problem.log_loss - fit.residual
    centre = np.broadcast_to(problem.prior.mean, (count, problem.size)).copy()
    informed = precision > 0
    centre[:, informed] = fit.theta[informed]
    drawn = rng.standard_normal((count, int(informed.sum())))
    centre[:, informed] += drawn * problem.prior.spread[informed]
    theta = np.tile(fit.theta, (count, 1))
    force = np.full(count, np.inf)
    best = theta.copy()
    for _ in range(_CHORDS):
        value = problem.model(theta).value
        pull = (rows - value) @ scores - precision * (theta - centre)
        step = pull @ fit.covariance
        size = np.abs(step).max(axis=1)
        # A chord that stops helping has met too much curvature: the best point so far stands.
        better = size < force
        best[better], force[better] = theta[better], size[better]
        if size.max(initial=0.0) < _CHORD_TOLERANCE:
            break
        theta = np.clip(theta + step / np.maximum(1.0, size)[:, None], low, high)
    return best


@dataclass(frozen=True)
class _Basis:
    """Rows turned so that noise is white and the discrepancy diagonal.

    Attributes:
        turn: maps rows to components, [R, R].
        share: variance of each component per squared amplitude, [R].
        noise: the noise's correlation, [R, R].
    """

    turn: FloatArray
    share: FloatArray
    noise: FloatArray

    @classmethod
    def of(cls, problem: Problem, theta: FloatArray, length: float) -> "_Basis":
        points = problem.points
        here = (points.log_params, points.log_tokens)
        scale = reducible_share(problem.law, theta[: problem.law_size], points)
        smooth = scale[:, None] * correlation(here, here, length) * scale
        noise = noise_covariance(points.log_tokens, problem.trajectory, problem.weights)
        if np.array_equal(noise, np.eye(len(noise))):
            share, vectors = np.linalg.eigh(smooth)
            return cls(vectors.T, np.maximum(share, 0.0), noise)
        white = solve_triangular(cholesky(noise, lower=True), np.eye(len(noise)), lower=True)
        share, vectors = np.linalg.eigh(white @ smooth @ white.T)
        return cls(vectors.T @ white, np.maximum(share, 0.0), noise)


def _from_start(
    problem: Problem, basis: _Basis, start: FloatArray, settings: DiscrepancyPrior
) -> MixedFit:
    low, high = problem.bounds()
    theta = np.clip(start, low, high)
    sigma, amplitude = 2.0 * settings.noise, settings.amplitude
    outlying = np.zeros_like(problem.log_loss)
    converged = False
    objective = np.inf
    for _ in range(_ROUNDS):
        before = (sigma, amplitude)
        theta = _solve(problem, basis, theta, outlying, sigma, amplitude)
        value, gradient = _model(problem, theta)
        residual = problem.log_loss - value
        rough = _noise_part(basis, residual, sigma, amplitude)
        # The median resists outliers until sigma has been learnt without them.
        size = np.abs(rough) * np.sqrt(problem.weights)
        robust = max(_MAD_TO_SIGMA * float(np.median(size)), _SMALLEST)
        limit = OUTLIER * robust / np.sqrt(problem.weights)
        outlying = rough - np.clip(rough, -limit, limit)
        sigma, amplitude, objective = _variances(
            problem, basis, theta, residual - outlying, gradient, before, settings
        )
        if max(abs(np.log(sigma / before[0])), abs(np.log(amplitude / before[1]))) < 0.01:
            converged = True
            break
    value, gradient = _model(problem, theta)
    residual = problem.log_loss - value
    variance = amplitude**2 * basis.share + sigma**2
    turned = basis.turn @ gradient
    information = turned.T @ (turned / variance[:, None]) + np.diag(_precision(problem))
    return MixedFit(
        theta, _inverse(information), sigma, amplitude, objective, converged, residual,
        residual - outlying,
    )  # fmt: skip


def _model(problem: Problem, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the predicted log loss [R] and its gradient [R, P]."""
    model = problem.model(theta[None])
    return model.value[0], model.gradient[0].T


def _precision(problem: Problem) -> FloatArray:
    return 1.0 / problem.prior.spread**2


def _inverse(information: FloatArray) -> FloatArray:
    scale = 1.0 / np.sqrt(np.diag(information) + 1e-300)
    values, vectors = np.linalg.eigh(information * scale[:, None] * scale)
    inverse = (vectors / np.maximum(values, 1e-10)) @ vectors.T
    return inverse * scale[:, None] * scale


def _solve(
    problem: Problem,
    basis: _Basis,
    theta: FloatArray,
    outlying: FloatArray,
    sigma: float,
    amplitude: float,
) -> FloatArray:
    """Return the most probable theta for given variances: Levenberg-Marquardt in the box."""
    low, high = problem.bounds()
    variance = amplitude**2 * basis.share + sigma**2
    precision, mean = _precision(problem), problem.prior.mean

    def objective(residual: FloatArray, at: FloatArray) -> float:
        turned = basis.turn @ (residual - outlying)
        return float((turned**2 / variance).sum() + (precision * (at - mean) ** 2).sum())

    value, gradient = _model(problem, theta)
    reached = objective(problem.log_loss - value, theta)
    damping = 1e-4
    for _ in range(_STEPS):
        turned = basis.turn @ gradient
        residual = basis.turn @ (problem.log_loss - value - outlying)
        slope = turned.T @ (residual / variance) - precision * (theta - mean)
        hessian = turned.T @ (turned / variance[:, None]) + np.diag(precision)
        held = ((theta <= low) & (slope < 0)) | ((theta >= high) & (slope > 0))
        hessian[held, :] = hessian[:, held] = 0.0
        hessian[held, held] = 1.0
        hessian += damping * np.diag(np.diag(hessian))
        step = np.linalg.solve(hessian, np.where(held, 0.0, slope))
        step /= max(1.0, float(np.abs(step).max()))
        proposal = np.clip(theta + step, low, high)
        new_value, new_gradient = _model(problem, proposal)
        new = objective(problem.log_loss - new_value, proposal)
        if new > reached:
            damping *= 8.0
            if damping > 1e8:
                break
            continue
        gain, moved = reached - new, float(np.abs(proposal - theta).max())
        theta, value, gradient, reached = proposal, new_value, new_gradient, new
        damping = max(damping * 0.1, 1e-9)
        if gain < 1e-8 or moved < 1e-7:
            break
    return theta


def _noise_part(basis: _Basis, residual: FloatArray, sigma: float, amplitude: float) -> FloatArray:
    """Return what of the residuals the discrepancy does not explain, [R]."""
    variance = amplitude**2 * basis.share + sigma**2
    solved = basis.turn.T @ (basis.turn @ residual / variance)
    return sigma**2 * (basis.noise @ solved)


def _variances(
    problem: Problem,
    basis: _Basis,
    theta: FloatArray,
    residual: FloatArray,
    gradient: FloatArray,
    start: tuple[float, float],
    settings: DiscrepancyPrior,
) -> tuple[float, float, float]:
    """Return sigma and amplitude of the largest marginal likelihood, and its negative log."""
    informed = np.isfinite(problem.prior.spread)
    spread = np.where(informed, problem.prior.spread, 1.0)
    # About the priors' mean the rows are normal with the priors' part in their covariance.
    offset = residual + gradient @ np.where(informed, theta - problem.prior.mean, 0.0)
    target = basis.turn @ offset
    effect = basis.turn @ (gradient * spread)
    effect[:, ~informed] *= 1e3

    finest = float(np.log(_FINEST))

    def cost(logs: FloatArray) -> float:
        noise = max(float(logs[0]), finest)
        variance = np.exp(2.0 * logs[1]) * basis.share + np.exp(2.0 * noise)
        inner = effect.T @ (effect / variance[:, None])
        inner[np.diag_indices_from(inner)] += 1.0
        factor = np.linalg.cholesky(inner)
        explained = np.linalg.solve(factor, effect.T @ (target / variance))
        fit = (target**2 / variance).sum() - explained @ explained
        size = np.log(variance).sum() + 2.0 * np.log(np.diag(factor)).sum()
        prior = ((logs[0] - np.log(settings.noise)) / settings.noise_spread) ** 2
        prior += ((logs[1] - np.log(settings.amplitude)) / settings.amplitude_spread) ** 2
        return 0.5 * float(fit + size + prior)

    found = minimize(
        cost,
        np.log(start),
        method="Nelder-Mead",
        options={"xatol": 3e-3, "fatol": 1e-3, "maxiter": 100},
    )
    sigma = max(float(np.exp(found.x[0])), _FINEST)
    return sigma, float(np.exp(found.x[1])), float(found.fun)
