"""A law with its numbers, detached from the runs: what predicts and allocates."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from analysis.discrepancy import Discrepancy, Misfit
from analysis.laws.base import FloatArray, Law, Points
from analysis.laws.response import Response
from analysis.uncertainty import Allocation, Estimate, Prediction, combined_interval

_UNKNOWN = 10.0 * float(np.log(10.0))
_STEP = 0.05
"""In ln N, over which the bend of the loss along a budget is taken."""

_FLAT = 1e-3
"""Bend of ln L per squared ln N below which a budget has no optimum. Published laws have .02 to
.06 at theirs."""

_LARGEST_SHIFT = 1.0
"""Of ln N_opt, by what the discrepancy adds: past that, the bend is no guide."""


@dataclass(frozen=True)
class LawState:
    """Everything that predictions need; a fit has one, and a law file stores one.

    Attributes:
        law: the formula.
        theta: its coordinates, [P].
        covariance: of theta, [P, P].
        samples: of theta, [B, P].
        sigma: noise of one run, in log loss.
        response: how untuned runs deviate.
        validity: the ranges of N, D, C (6 N D) and U that were seen.
        discrepancy: what the law's form misses, where it was fitted with the law.
    """

    law: Law
    theta: FloatArray
    covariance: FloatArray
    samples: FloatArray
    sigma: float
    response: Response = field(default_factory=Response)
    validity: dict[str, tuple[float, float]] = field(default_factory=dict)
    discrepancy: Discrepancy | None = None

    def predict(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        unique_tokens: ArrayLike | None = None,
        *,
        noise: bool = False,
    ) -> Prediction:
        """Return the loss at N and D with 90 % intervals, each of shape [R].

        A law of N and D alone takes repeated tokens for new ones; a law of repeated data takes
        `unique_tokens` that are not given for as many as `tokens`.
        """
        points = Points.of(params, tokens)
        if self.law.needs_unique:
            points = Points.of(params, tokens, tokens if unique_tokens is None else unique_tokens)
        value = self.law.log_loss(self.theta, points)
        sampled = self.law.log_loss(self.samples, points) if self._misfit is None else None
        gradient, moved, beside = self._about(points)
        value = value + moved
        low, high = combined_interval(
            value,
            sampled,
            np.einsum("rp,pq,rq->r", gradient, self.covariance, gradient),
            beside + (self.sigma**2 if noise else 0.0),
        )
        seen = {
            "params": points.log_params,
            "tokens": points.log_tokens,
            "flops": np.log(6.0) + points.log_params + points.log_tokens,
        }
        if points.log_unique is not None:
            seen["unique_tokens"] = np.minimum(points.log_unique, points.log_tokens)
        beyond = np.max([self.decades_beyond(k, np.exp(v)) for k, v in seen.items()], axis=0)
        return Prediction(np.exp(value), np.exp(low), np.exp(high), beyond)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        """Return the best N and D for a budget of 6 N D, and the loss there, with intervals."""
        unique = None
        if self.law.needs_unique and unique_tokens is not None:
            unique = float(np.log(unique_tokens))
        log_params, log_tokens = self.law.optimum(self.theta, flops, unique)
        of_params, of_loss = self.law.optimum_gradient(self.theta, flops, unique)
        there = _points(log_params[None], log_tokens[None], unique)
        log_loss = self.law.log_loss(self.theta, there)[0]
        drawn_params = drawn_tokens = drawn_loss = None
        beside_params = beside_loss = 0.0
        if self._misfit is None:
            drawn_params, drawn_tokens = self.law.optimum(self.samples, flops, unique)
            # Each resample is judged at its own optimum: the loss that its planner would reach.
            own = _points(drawn_params[:, None], drawn_tokens[:, None], unique)
            drawn_loss = self.law.log_loss(self.samples, own)[:, 0]
        else:
            # To first order the optimum moves by -slope / bend when delta tilts the budget's U.
            bend = self._bend(there)
            slope = self._misfit.slope_on_budget(there)
            shift = float(np.clip(-slope.mean[0] / bend, -_LARGEST_SHIFT, _LARGEST_SHIFT))
            log_params, log_tokens = log_params + shift, log_tokens - shift
            of_params = of_params + slope.pull[0] / bend
            beside_params = float(slope.variance[0]) / bend**2
            if bend <= _FLAT:
                # No U to have a bottom: the search's edge is not an answer.
                beside_params = _UNKNOWN**2
            level = self._misfit.at(there)
            log_loss = log_loss + level.mean[0]
            of_loss = of_loss - level.pull[0]
            beside_loss = float(level.variance[0])
        variance = float(of_params @ self.covariance @ of_params)
        loss_variance = float(of_loss @ self.covariance @ of_loss)
        return Allocation(
            flops=float(flops),
            params=_estimate(log_params, drawn_params, variance, beside_params),
            tokens=_estimate(log_tokens, drawn_tokens, variance, beside_params),
            loss=_estimate(log_loss, drawn_loss, loss_variance, beside_loss),
            extrapolation_decades=float(self.decades_beyond("flops", flops)),
        )

    def covariance_between(self, first: Points, second: Points) -> FloatArray:
        """Return the covariance of tuned runs' true ln L at two sets of points, [S, T].

        It counts the parameters' uncertainty and, where one was fitted, the discrepancy's.
        """
        result = self._about(first)[0] @ self.covariance @ self._about(second)[0].T
        return result if self._misfit is None else result + self._misfit.covariance(first, second)

    def spread_at(self, points: Points) -> FloatArray:
        """Return the standard deviation of the true ln L at points, [S]: `predict`'s, no noise."""
        gradient, _, beside = self._about(points)
        variance = np.einsum("rp,pq,rq->r", gradient, self.covariance, gradient) + beside
        return np.sqrt(np.maximum(variance, 0.0))

    def _about(self, points: Points) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the gradient of predicted ln L [S, P], the misfit's mean and its variance [S]."""
        gradient = self.law.gradient(self.theta, points)
        if self._misfit is None:
            return gradient, np.zeros(len(gradient)), np.zeros(len(gradient))
        found = self._misfit.at(points)
        return gradient - found.pull, found.mean, found.variance

    @cached_property
    def _misfit(self) -> Misfit | None:
        return None if self.discrepancy is None else self.discrepancy.given(self.law, self.theta)

    def _bend(self, there: Points) -> float:
        """Return the second derivative of ln L in ln N at fixed N D, at one point."""
        steps = np.array([-_STEP, 0.0, _STEP])
        log_tokens = there.log_tokens - steps
        unique = there.log_unique
        if unique is not None:
            unique = np.minimum(unique, log_tokens)
        line = Points(there.log_params + steps, log_tokens, unique)
        left, middle, right = self.law.log_loss(self.theta, line)
        return max(float(left - 2.0 * middle + right) / _STEP**2, _FLAT)

    def decades_beyond(self, what: str, values: ArrayLike) -> FloatArray:
        """Return by how many powers of ten `values` leave the range seen of `what`."""
        log = np.log10(np.asarray(values, dtype=np.float64))
        if what not in self.validity:
            return np.zeros_like(log)
        low, high = np.log10(self.validity[what])
        beyond = np.maximum(np.maximum(log - high, low - log), 0.0)
        # Budgets that only rounding puts outside are inside.
        return np.round(beyond, 6)

    @cached_property
    def parameters(self) -> dict[str, Estimate]:
        """The printed parameters with 90 % intervals."""
        low, high = combined_interval(self.theta, self.samples, np.diag(self.covariance))
        low = np.maximum(low, self.theta - _UNKNOWN)
        high = np.minimum(high, self.theta + _UNKNOWN)
        value, low, high = (self.law.natural(t) for t in (self.theta, low, high))
        return {
            name: Estimate(float(value[i]), float(low[i]), float(high[i]))
            for i, name in enumerate(self.law.parameters)
        }

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors of the printed parameters: the larger of bootstrap's and Laplace's."""
        spread = np.sqrt(np.maximum(np.diag(self.covariance), self.samples.var(axis=0)))
        step = 1e-6
        slope = (self.law.natural(self.theta + step) - self.law.natural(self.theta)) / step
        return dict(zip(self.law.parameters, (float(v) for v in spread * slope), strict=True))


def _points(log_params: FloatArray, log_tokens: FloatArray, log_unique: float | None) -> Points:
    unique = log_tokens if log_unique is None else np.minimum(log_unique, log_tokens)
    return Points(log_params, log_tokens, unique)


def _estimate(
    value: FloatArray, samples: FloatArray | None, variance: float, beside: float
) -> Estimate:
    low, high = combined_interval(np.asarray(value), samples, np.asarray(variance), beside)
    # Where an exponent may be zero there is no optimum to bound: the interval then says
    # "unknown" with ten decades either way, which numbers can still hold.
    low, high = np.maximum(low, value - _UNKNOWN), np.minimum(high, value + _UNKNOWN)
    return Estimate(float(np.exp(value)), float(np.exp(low)), float(np.exp(high)))
