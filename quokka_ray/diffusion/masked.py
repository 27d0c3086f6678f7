"""Objectives of mask noise: the ELBO, MaskGIT's loss, the estimator of the paper's release.

They differ in how masks are drawn and in the weights of the masked tokens' cross-entropies.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from quokka_ray.diffusion.head import cross_entropy, weighted_loss
from quokka_ray.diffusion.masks import (
    TRAINING,
    Masks,
    antithetic_masks,
    at_least_one,
    count_probabilities,
    independent_masks,
    scheduled_masks,
    stream,
)
from quokka_ray.diffusion.objective import (
    Batch,
    Denoiser,
    Objective,
    blind_loss,
    masked_states,
)
from quokka_ray.diffusion.schedules import Linear, NoiseSchedule
from quokka_ray.diffusion.times import TimeSampler

_GRID = 512
"""Points of the midpoint rules below."""


@dataclass(frozen=True)
class DrawnMasks:
    """The masks of one step and what the ELBO makes of them.

    Attributes:
        masks: Of the whole batch.
        weights: float64 [B], the ELBO's weight of a row's masked tokens; any value for a row
            without one.
        correction: float64 [B], the density that the noise levels should have over the one they
            were drawn from.
    """

    masks: Masks
    weights: np.ndarray
    correction: np.ndarray

    def spread(self, per_row: np.ndarray) -> np.ndarray:
        """Return float32 [M]: a number of each row at each of its masked tokens."""
        return np.repeat(per_row, self.masks.counts).astype(np.float32)


class MaskSampler:
    """Draws the masks of a step.

    Args:
        schedule: The noise schedule.
        seq_len: Tokens L of a row.
        times: Draws the noise levels of rows, whose tokens are then masked each by itself; None:
            exact numbers of masked tokens in antithetic pairs.
        steps: Optimiser steps of the run, which a curriculum follows.
    """

    def __init__(
        self, schedule: NoiseSchedule, seq_len: int, times: TimeSampler | None, steps: int
    ) -> None:
        self._schedule = schedule
        self._seq_len = seq_len
        self._times = times
        self._steps = steps
        self._probabilities = (
            None
            if times is not None or isinstance(schedule, Linear)
            else count_probabilities(schedule, seq_len)
        )

    @property
    def is_uniform(self) -> bool:
        """Whether the number of masked tokens is uniform on 1..L, and the batch's total fixed."""
        return self._times is None and self._probabilities is None

    def draw(self, seed: int, step: int, batch: int) -> DrawnMasks:
        """Draw the masks of `batch` rows at (seed, step)."""
        seq_len = self._seq_len
        if self._times is not None:
            generator = stream(seed, TRAINING, step)
            times = self._times.draw(generator, batch, step / self._steps)
            rates = 1 - self._schedule.alpha(times.values)
            masks = independent_masks(generator, rates, seq_len)
            return DrawnMasks(masks, self._schedule.weight(times.values), times.correction)
        if self._probabilities is None:
            masks = antithetic_masks(seed, step, batch, seq_len)
            return DrawnMasks(masks, seq_len / masks.counts, np.ones(batch))
        masks = scheduled_masks(seed, step, batch, self._probabilities)
        weights = 1 / (masks.counts * self._probabilities[masks.counts - 1])
        return DrawnMasks(masks, weights, np.ones(batch))

    def mean_rate(self, power: float) -> float:
        """Return the mean over noise of mask rate * weight ** power: 1 for power 1 without a
        curriculum."""
        if self._times is not None:
            grid = (np.arange(_GRID) + 0.5) / _GRID
            total = 0.0
            for progress in grid[:: _GRID // 16]:
                times = self._times.place(grid, progress)
                rates = 1 - self._schedule.alpha(times.values)
                weights = self._schedule.weight(times.values) ** power * times.correction
                total += float((rates * weights).mean())
            return total / 16
        counts = np.arange(1, self._seq_len + 1)
        probabilities = self._probabilities
        if probabilities is None:
            probabilities = np.full(self._seq_len, 1 / self._seq_len)
        weights = 1 / (counts * probabilities)
        return float((probabilities * counts / self._seq_len * weights**power).sum())


class MaskedObjective(Objective):
    """Base: a weighted sum of the masked tokens' cross-entropies."""

    _vocab_size: int

    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return sum(weight * cross-entropy) / normaliser; logits of masked positions only."""
        assert batch.flat is not None
        assert batch.weights is not None
        rows, targets = masked_states(model, tokens, batch.flat)
        return weighted_loss(
            model,
            rows,
            self._vocab_size,
            cross_entropy,
            batch.weights,
            batch.normaliser,
            targets,
        )


class MaskedElbo(MaskedObjective):
    """The ELBO of mask noise (Quokka eq. 9), or with its weight raised to a power.

    Args:
        sampler: Draws masks.
        vocab_size: Real tokens K.
        seq_len: Tokens L of a row.
        power: Of the weight; 1 is the ELBO.
    """

    def __init__(
        self, sampler: MaskSampler, vocab_size: int, seq_len: int, power: float = 1.0
    ) -> None:
        self._sampler = sampler
        self._vocab_size = vocab_size
        self._power = power
        self.blind = (
            blind_loss(vocab_size, seq_len, power)
            if sampler.is_uniform
            else math.log(vocab_size) * sampler.mean_rate(power)
        )

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw masks, and weigh each masked token by its row's weight."""
        drawn = self._sampler.draw(seed, step, len(tokens))
        weights = drawn.spread(drawn.weights**self._power * drawn.correction)
        return Batch(tokens.size, flat=drawn.masks.flat, weights=weights)


class MaskGit(MaskedObjective):
    """The masked tokens' cross-entropy without the ELBO's weight (Quokka section 5.3).

    The paper does not say what the sum is divided by. `tokens`: all B * L, which weighs a mask
    rate u by u relative to the ELBO; `masked`: the batch's masked tokens; `rows`: each row's
    masked tokens, and the mean over rows, which with uniform exact counts is the ELBO itself.
    """

    def __init__(
        self,
        sampler: MaskSampler,
        vocab_size: int,
        normalisation: Literal["tokens", "masked", "rows"] = "tokens",
    ) -> None:
        self._sampler = sampler
        self._vocab_size = vocab_size
        self._normalisation = normalisation
        share = sampler.mean_rate(0.0) if normalisation == "tokens" else 1.0
        self.blind = math.log(vocab_size) * share

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw masks, and weigh all masked tokens of a row alike."""
        drawn = self._sampler.draw(seed, step, len(tokens))
        masks, correction = drawn.masks, drawn.correction
        if self._normalisation == "rows":
            weights = drawn.spread(correction / np.maximum(masks.counts, 1))
            return Batch(len(tokens), flat=masks.flat, weights=weights)
        normaliser = tokens.size if self._normalisation == "tokens" else max(1, len(masks.flat))
        return Batch(normaliser, flat=masks.flat, weights=drawn.spread(correction))


class MegaDlm(MaskedObjective):
    """The estimator of the paper's released code (MegaDLMs, `difflm_forward_process`).

    For each row t is uniform and each token is masked by itself; a row without a mask gets one;
    the weight is L over the row's own count. One masked token then comes twice as often as any
    other number, a bias of order 1 / L. Unlike the release, the head has no row for the mask.
    """

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        self._seq_len = seq_len
        self._vocab_size = vocab_size
        self.blind = math.log(vocab_size)

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw a time and the masks of each row, independently."""
        generator = stream(seed, TRAINING, step)
        rates = generator.random(len(tokens))
        masks = independent_masks(generator, rates, self._seq_len)
        masks = at_least_one(generator, masks, self._seq_len)
        return Batch(tokens.size, flat=masks.flat, weights=masks.weights(self._seq_len))
