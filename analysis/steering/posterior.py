"""One form fitted to the runs: a normal distribution of its parameters and its misfit's features.

Theta and the features' weights are found together by Gauss-Newton, noise and outliers by
expectation and maximisation on the way, the covariance by Laplace. A fit that starts from the
one before the last run takes a millisecond, which is what lets a search refit after every run.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from analysis.discrepancy import reducible_share
from analysis.laws.base import FloatArray, Points
from analysis.laws.chinchilla import CHINCHILLA
from analysis.laws.shrinkage import SuperLaw
from analysis.steering.forms import Form
from analysis.steering.noise import Noise
from analysis.steering.smooth import SmoothBasis
from analysis.steering.whitening import Whitening

_COLD = 30
_WARM = 8
_ROBUST = 4
_MAD_TO_SIGMA = 1.482602218505602
_SMALLEST_START = 2e-3
_ENOUGH = 3e-3
"""What a further step must promise to gain, in log posterior density."""


@dataclass(frozen=True)
class Observed:
    """What was bought.

    Attributes:
        points: [R].
        log_loss: [R].
        trajectory: number of each observation's trajectory, [R].
    """

    points: Points
    log_loss: FloatArray
    trajectory: np.ndarray

    @property
    def log_flops(self) -> FloatArray:
        """ln of 6 N D, [R]."""
        return float(np.log(6.0)) + self.points.log_params + self.points.log_tokens


@dataclass(frozen=True)
class Posterior:
    """A form with its numbers.

    Attributes:
        form: the hypothesis.
        centre: ln N and ln D about which theta is stated.
        theta: [P].
        active: which entries of theta are free, [P].
        weights: of the misfit's features, [M].
        covariance: of the free entries of theta, then the features' weights, [Q, Q].
        noise: how runs scatter.
        log_evidence: log marginal likelihood, to a constant that all forms share.
    """

    form: Form
    centre: tuple[float, float]
    theta: FloatArray
    active: np.ndarray
    weights: FloatArray
    covariance: FloatArray
    noise: Noise
    log_evidence: float

    def log_loss(self, points: Points, phi: FloatArray) -> FloatArray:
        """Return the expected ln L at points with misfit features phi [S, M], [S]."""
        there = points.shifted(*self.centre)
        value = self.form.law.log_loss(self.theta, there)
        if not self.weights.size:
            return value
        share = reducible_share(self.form.law, self.theta, there, value)
        return np.asarray(value + self.form.amplitude * share * (phi @ self.weights))

    def gradient(self, points: Points, phi: FloatArray) -> FloatArray:
        """Return the gradient of ln L in all that is unknown, [S, Q]."""
        there = points.shifted(*self.centre)
        found = self.form.law.derivatives(self.theta[None], there)
        own = found.gradient[0][self.active].T
        if not self.weights.size:
            return np.asarray(own)
        share = reducible_share(self.form.law, self.theta, there, found.value[0])
        return np.concatenate([own, (self.form.amplitude * share)[:, None] * phi], axis=1)


def fit_form(
    form: Form, runs: Observed, basis: SmoothBasis, before: Posterior | None = None
) -> Posterior:
    """Return the form fitted to the runs.

    Args:
        form: the hypothesis.
        runs: observations.
        basis: features of the misfit, for forms that have one.
        before: the same form fitted to fewer runs: a start close by. Without it the whole space
            is searched.
    """
    centre = float(runs.points.log_params.mean()), float(runs.points.log_tokens.mean())
    fitter = _Fitter(form, runs, centre, basis)
    if before is not None:
        theta = _recentred(form, before.theta, before.centre, centre)
        noise = Noise(
            before.noise.sigma, before.noise.slope, fitter.middle, np.ones(runs.log_loss.size)
        )
        return fitter.descend(theta, before.weights, noise, _WARM)
    starts = form.law.starts(fitter.points, runs.log_loss)[:3]
    starts = np.where(fitter.active, starts, fitter.mean)
    found = [
        fitter.descend(start, np.zeros(fitter.features), None, _COLD)
        for start in np.concatenate([starts, fitter.mean[None]])
    ]
    return max(found, key=lambda one: one.log_evidence)


def _recentred(
    form: Form, theta: FloatArray, old: tuple[float, float], new: tuple[float, float]
) -> FloatArray:
    """Return theta stated about another centre; to first order where a law drifts."""
    shift = new[0] - old[0], new[1] - old[1]
    if isinstance(form.law, SuperLaw):
        # The super-law keeps its centre: its first five coordinates move as Chinchilla's do.
        moved = theta.copy()
        moved[:5] = CHINCHILLA.centring(-shift[0], -shift[1]) @ theta[:5]
        return moved
    return np.asarray(form.law.centring(-shift[0], -shift[1]) @ theta)


class _Fitter:
    """One form and its rows, ready to be descended from several starts."""

    def __init__(
        self, form: Form, runs: Observed, centre: tuple[float, float], basis: SmoothBasis
    ) -> None:
        self.form, self.runs, self.centre = form, runs, centre
        self.points = runs.points.shifted(*centre)
        self.log_flops = runs.log_flops
        self.middle = float(self.log_flops.mean())
        prior = form.prior(self.points, runs.log_loss)
        spread = prior.spread
        self.mean = prior.mean
        self.active = spread > 0
        self.features = basis.size if form.amplitude > 0 else 0
        self.phi = basis.features(runs.points) if self.features else np.zeros((0, 0))
        self.low, self.high = form.law.bounds(runs.log_loss)
        self.precision = np.concatenate([1.0 / spread[self.active] ** 2, np.ones(self.features)])
        self.centres = np.concatenate([prior.mean[self.active], np.zeros(self.features)])
        self.white = Whitening.of(runs.points.log_tokens, runs.trajectory)

    def _model(self, theta: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return residuals [R] and the gradient of the prediction [R, Q]."""
        found = self.form.law.derivatives(theta[None], self.points)
        value, gradient = found.value[0], found.gradient[0][self.active].T
        if self.features:
            share = reducible_share(self.form.law, theta, self.points, value)
            smooth = (self.form.amplitude * share)[:, None] * self.phi
            value, gradient = value + smooth @ weights, np.hstack([gradient, smooth])
        return self.runs.log_loss - value, gradient

    def _whitened(self, rows: FloatArray, scale: FloatArray) -> FloatArray:
        return self.white(rows * (scale if rows.ndim == 1 else scale[:, None]))

    def descend(
        self, theta: FloatArray, weights: FloatArray, noise: Noise | None, most: int
    ) -> Posterior:
        theta = np.clip(theta, self.low, self.high)
        cold = noise is None
        residual, gradient = self._model(theta, weights)
        unsure = np.zeros_like(residual)
        if noise is None:
            noise = Noise(self._robust(residual), 0.0, self.middle, np.ones_like(residual))
        unknowns = np.concatenate([theta[self.active], weights])
        for number in range(most):
            if cold and number < _ROBUST:
                # Until the law is near, far rows say that it is not, rather than that they err.
                noise = Noise(self._robust(residual), 0.0, self.middle, noise.weights)
            else:
                noise = noise.learnt(residual, unsure, self.log_flops)
            scale = np.sqrt(noise.weights) / noise.at(self.log_flops)
            rows, off = self._whitened(gradient, scale), self._whitened(residual, scale)
            information = rows.T @ rows
            information[np.diag_indices_from(information)] += self.precision
            slope = rows.T @ off - self.precision * (unknowns - self.centres)
            factor = cho_factor(information)
            step = np.asarray(cho_solve(factor, slope))
            unsure = self._unsure(factor, gradient)
            promise = float(step @ slope)
            if promise < _ENOUGH and not (cold and number <= _ROBUST):
                break
            before = float(off @ off) + self._prior(unknowns)
            step /= max(1.0, float(np.abs(step[: self.active.sum()]).max()))
            for _ in range(5):
                proposal = self._clipped(unknowns + step)
                theta, weights = self._split(theta, proposal)
                residual, gradient = self._model(theta, weights)
                off = self._whitened(residual, scale)
                if float(off @ off) + self._prior(proposal) <= before + 1e-9:
                    break
                step = 0.3 * step
            unknowns = proposal
        return self._posterior(theta, weights, unknowns, noise, residual, gradient)

    def _posterior(
        self,
        theta: FloatArray,
        weights: FloatArray,
        unknowns: FloatArray,
        noise: Noise,
        residual: FloatArray,
        gradient: FloatArray,
    ) -> Posterior:
        scale = np.sqrt(noise.weights) / noise.at(self.log_flops)
        rows = self._whitened(gradient, scale)
        information = rows.T @ rows
        information[np.diag_indices_from(information)] += self.precision
        factor = np.linalg.cholesky(information)
        inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
        evidence = noise.log_density(residual, self.log_flops) - 0.5 * self._prior(unknowns)
        evidence += 0.5 * float(np.log(self.precision).sum())
        evidence -= float(np.log(np.diag(factor)).sum())
        return Posterior(
            self.form,
            self.centre,
            theta,
            self.active,
            weights,
            inverse.T @ inverse,
            noise,
            evidence,
        )

    def _robust(self, residual: FloatArray) -> float:
        return max(_MAD_TO_SIGMA * float(np.median(np.abs(residual))), _SMALLEST_START)

    def _prior(self, unknowns: FloatArray) -> float:
        return float((self.precision * (unknowns - self.centres) ** 2).sum())

    def _unsure(self, factor: tuple[FloatArray, bool], gradient: FloatArray) -> FloatArray:
        solved = np.asarray(cho_solve(factor, gradient.T))
        return np.asarray(np.einsum("rq,qr->r", gradient, solved))

    def _clipped(self, unknowns: FloatArray) -> FloatArray:
        count = int(self.active.sum())
        result = unknowns.copy()
        result[:count] = np.clip(result[:count], self.low[self.active], self.high[self.active])
        return result

    def _split(self, theta: FloatArray, unknowns: FloatArray) -> tuple[FloatArray, FloatArray]:
        count = int(self.active.sum())
        full = theta.copy()
        full[self.active] = unknowns[:count]
        return full, unknowns[count:]
