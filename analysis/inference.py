"""Over-training: the cheapest model over its lifetime, training and inference together.

The formulation of Sardana et al. (2024), "Beyond Chinchilla-Optimal" (arXiv 2401.00448): fix a
loss and minimise the FLOPs of training to it plus those of serving T tokens,

    min over N, D of 6 N D + f N T  subject to  L(N, D) = L*

with f = 2 for a model that reads each token once. The loss here is the one that compute-optimal
training reaches with the budget given. A diffusion model denoises every position several times:
its f is 2 times the passes of the network per generated token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.answers import Source, as_plain, beyond, estimates, state_of
from analysis.errors import AllocationError
from analysis.laws.base import FloatArray, Law, Points
from analysis.laws.data_search import golden
from analysis.state import LawState
from analysis.uncertainty import Estimate

FLOPS_PER_PARAM = 2.0
"""Of one pass over one token: a multiplication and an addition for each parameter."""

_SMALLEST = -9.0
_SIZES = 31
_MOST_TOKENS = 14.0
_SCAN = 57
_BISECTIONS = 40
_GOLDENS = 24


@dataclass(frozen=True)
class LifetimeOptimum:
    """The model with the lowest FLOPs over training and T tokens of inference.

    Attributes:
        flops: C, whose compute-optimal training sets the loss.
        inference_tokens: T.
        inference_flops_per_param: f: 2 times the passes per token.
        params, tokens: the model and its training tokens.
        loss: the loss reached, that of compute-optimal training at C.
        training_flops, inference_flops, total_flops: 6 N D, f N T and their sum.
        saving: the total over that of the compute-optimal model with the same T; at most 1.
        overtraining: tokens per parameter over those of the compute-optimal model; at least 1.
        extrapolation_decades: by how far N, D or 6 N D leave the ranges seen.
    """

    flops: float
    inference_tokens: float
    inference_flops_per_param: float
    params: Estimate
    tokens: Estimate
    loss: Estimate
    training_flops: Estimate
    inference_flops: Estimate
    total_flops: Estimate
    saving: Estimate
    overtraining: Estimate
    extrapolation_decades: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = (
            "params",
            "tokens",
            "loss",
            "training_flops",
            "inference_flops",
            "total_flops",
            "saving",
            "overtraining",
        )
        return {
            "formulation": "least training and inference FLOPs at the compute-optimal loss",
            "flops": self.flops,
            "inference_tokens": self.inference_tokens,
            "inference_flops_per_param": self.inference_flops_per_param,
            **as_plain([(name, getattr(self, name)) for name in names]),
            "extrapolation_decades": self.extrapolation_decades,
        }


def lifetime_optimum(
    law: Source,
    flops: float,
    inference_tokens: float,
    unique_tokens: float | None = None,
    *,
    passes_per_token: float = 1.0,
) -> LifetimeOptimum:
    """Return the model that reaches the loss of a budget at the lowest lifetime FLOPs.

    Args:
        law: the law.
        flops: C: the loss to reach is that of compute-optimal training with it.
        inference_tokens: T, tokens read and generated over the model's life.
        unique_tokens: U, for a law of repeated data; unset: all training tokens are new.
        passes_per_token: passes of the network for each of the T tokens: 1 for a model that
            generates left to right with a cache, denoising steps over tokens of a block for a
            diffusion model.

    Raises:
        AllocationError: a count is not above 0.
    """
    for name, value in (("inference_tokens", inference_tokens), ("passes", passes_per_token)):
        if not (np.isfinite(value) and value > 0):
            raise AllocationError(f"{name} must be above 0, not {value:g}")
    state = state_of(law)
    unique = None
    if state.law.needs_unique and unique_tokens is not None:
        unique = float(np.log(unique_tokens))
    per_param = FLOPS_PER_PARAM * passes_per_token
    serving = float(np.log(per_param * inference_tokens))
    search = _Lifetime(state.law, float(flops), serving, unique)
    found = estimates(state, search.logs)
    params, tokens, loss, training, inference, total, saving, overtraining = found[:8]
    if state.discrepancy is not None:
        # To first order what the form misses moves this optimum as it moves that of compute.
        best = state.optimum(flops, unique_tokens)
        plain_params, plain_tokens = found[8:]
        params = _moved(params, plain_params, best.params)
        tokens = _moved(tokens, plain_tokens, best.tokens)
        inference = _moved(inference, plain_params, best.params)
        total = Estimate(
            training.value + inference.value,
            training.low + inference.low,
            training.high + inference.high,
        )
        loss = best.loss
    return LifetimeOptimum(
        flops=float(flops),
        inference_tokens=float(inference_tokens),
        inference_flops_per_param=per_param,
        params=params,
        tokens=tokens,
        loss=loss,
        training_flops=training,
        inference_flops=inference,
        total_flops=total,
        saving=saving,
        overtraining=overtraining,
        extrapolation_decades=_decades(state, params.value, tokens.value),
    )


def _moved(answer: Estimate, plain: Estimate, full: Estimate) -> Estimate:
    """Return `answer` moved and widened as `full` is against `plain`, in the logarithm."""
    value = answer.value * full.value / plain.value

    def width(side: str) -> float:
        own, with_form, without = (
            float(np.log(getattr(e, side) / e.value)) for e in (answer, full, plain)
        )
        return float(np.sqrt(own**2 + max(with_form**2 - without**2, 0.0)))

    low, high = value * np.exp(-width("low")), value * np.exp(width("high"))
    return Estimate(value, float(low), float(high))


def _decades(state: LawState, params: float, tokens: float) -> float:
    return beyond(state, params=params, tokens=tokens, flops=6.0 * params * tokens)


@dataclass(frozen=True)
class _Lifetime:
    """The lifetime optimum as a function of theta."""

    law: Law
    flops: float
    serving: float
    """ln of the FLOPs that inference costs for each parameter."""
    unique: float | None

    def logs(self, theta: FloatArray) -> FloatArray:
        """Return ln of N, D, L, training, inference, total, saving, over-training, [B, 10].

        The last two are ln N and ln D of the compute-optimal model.
        """
        best, best_tokens = self.law.optimum(theta, self.flops, self.unique)
        best, best_tokens = best[:, None], best_tokens[:, None]
        target = self._loss(theta, best, best_tokens)

        def cost(log_params: FloatArray) -> FloatArray:
            tokens = self._tokens(theta, log_params, best_tokens, target)
            training = np.log(6.0) + log_params + tokens
            return np.logaddexp(training, self.serving + log_params)

        # Only smaller models can be cheaper: a larger one costs more both times.
        offsets = np.linspace(_SMALLEST, 0.0, _SIZES)
        scanned = np.concatenate([cost(best + off) for off in offsets], axis=1)
        centre = best + offsets[scanned.argmin(axis=1)][:, None]
        width = offsets[1] - offsets[0]
        x = golden(cost, centre - width, np.minimum(centre + width, best), _GOLDENS)
        tokens = self._tokens(theta, x, best_tokens, target)
        training, inference = np.log(6.0) + x + tokens, self.serving + x
        total = np.logaddexp(training, inference)
        plain = np.logaddexp(np.log(self.flops), self.serving + best)
        ratio = (tokens - x) - (best_tokens - best)
        columns = [x, tokens, target, training, inference, total, total - plain, ratio]
        columns += [best, best_tokens]
        return np.concatenate(columns, axis=1)

    def _loss(self, theta: FloatArray, x: FloatArray, tokens: FloatArray) -> FloatArray:
        unique = tokens if self.unique is None else np.minimum(self.unique, tokens)
        return self.law.log_loss(theta, Points(x, tokens, unique))

    def _tokens(
        self, theta: FloatArray, x: FloatArray, fewest: FloatArray, target: FloatArray
    ) -> FloatArray:
        """Return ln of the fewest tokens with which N reaches the target, infinite if none do."""
        steps = np.linspace(-1e-6, _MOST_TOKENS, _SCAN)
        grid = fewest + steps
        reached = self._loss(theta, np.broadcast_to(x, grid.shape), grid) <= target
        first = reached.argmax(axis=1)[:, None]
        high = np.take_along_axis(grid, first, axis=1)
        low = np.take_along_axis(grid, np.maximum(first - 1, 0), axis=1)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            enough = self._loss(theta, x, middle) <= target
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached.any(axis=1, keepdims=True), high, np.inf)
