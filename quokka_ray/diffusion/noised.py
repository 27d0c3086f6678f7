"""Objectives that score every token: uniform and hybrid noise, and the next token."""

import math

import numpy as np
import torch
from torch import Tensor

from quokka_ray.diffusion.elbo import elbo
from quokka_ray.diffusion.head import LossOfLogits, by_parts, cross_entropy, weighted_loss
from quokka_ray.diffusion.masks import TRAINING, stream
from quokka_ray.diffusion.objective import Batch, Denoiser, Objective, hidden_states
from quokka_ray.diffusion.processes import NoiseProcess
from quokka_ray.diffusion.times import TimeSampler


def process_losses(
    model: Denoiser,
    process: NoiseProcess,
    tokens: Tensor,
    noisy: Tensor,
    t: Tensor,
    time: Tensor,
    own: Tensor | None = None,
) -> Tensor:
    """Return the ELBO's integrand of every position, in nats.

    Args:
        model: The denoiser.
        process: The noise.
        tokens: int64 [B, L], clean.
        noisy: int64 [B, L].
        t: floating [B], the time of each row, the process's own.
        time: floating [B], what the model is told.
        own: floating [B], taken off the logit of each position's own noisy token, for a model
            that was trained to take notice of it: see `QuokkaUniform`.

    Returns:
        float32 [B * L].
    """
    rows = hidden_states(model, noisy, time)
    others = _positions(tokens, noisy, t)
    if own is not None:
        others = (*others, own.repeat_interleave(tokens.shape[1]))
    return by_parts(model, rows, process.vocab_size, _integrand(process), *others)


def _positions(tokens: Tensor, noisy: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """Return what the integrand takes of each of the B * L positions."""
    return tokens.reshape(-1), noisy.reshape(-1), t.repeat_interleave(tokens.shape[1])


def _integrand(process: NoiseProcess) -> LossOfLogits:
    """Return the ELBO's integrand as a function of logits, clean, noisy, t and perhaps own."""

    def integrand(logits: Tensor, *these: Tensor) -> Tensor:
        clean, seen, at, *less = these
        if less:
            column = seen[:, None]
            logits = logits.scatter_add(1, column, -less[0][:, None].to(logits.dtype))
        return elbo(process, logits, clean, seen, at)

    return integrand


def next_token_losses(model: Denoiser, tokens: Tensor, vocab_size: int) -> Tensor:
    """Return -log p(token | the tokens before it) of every position, in nats, float32 [B * L].

    The mask token stands before the first one, as the beginning: so all L tokens of a row are
    scored, as under diffusion, and not the last L - 1.
    """
    rows = _states_before(model, tokens)
    return by_parts(model, rows, vocab_size, cross_entropy, tokens.reshape(-1))


def _states_before(model: Denoiser, tokens: Tensor) -> Tensor:
    """Return the states [B * L, d] that have seen what comes before each token."""
    first = tokens.new_full((len(tokens), 1), model.mask_id)
    return hidden_states(model, torch.cat((first, tokens[:, :-1]), dim=1), None)


class ProcessElbo(Objective):
    """The ELBO of uniform or hybrid noise.

    Args:
        process: The noise.
        times: Draws the noise levels of rows.
        steps: Optimiser steps of the run, which a curriculum follows.
    """

    def __init__(self, process: NoiseProcess, times: TimeSampler, steps: int) -> None:
        self._process = process
        self._times = times
        self._steps = steps
        # Noise treats all real tokens alike, so a model that does not tell them apart has the
        # same bound for every text; and it is exact for a source of uniform tokens.
        self.blind = math.log(process.vocab_size)

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw the time and the noisy text of each row."""
        generator = stream(seed, TRAINING, step)
        times = self._times.draw(generator, len(tokens), step / self._steps)
        noisy = self._process.corrupt(tokens, times.values, generator)
        weights = None
        if (times.correction != 1).any():
            weights = times.correction.repeat(tokens.shape[1]).astype(np.float32)
        time = times.values.astype(np.float32)
        return Batch(tokens.size, noisy=noisy, weights=weights, time=time)

    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the sum of the integrand over all positions / normaliser."""
        assert batch.noisy is not None
        assert batch.time is not None
        process = self._process
        return weighted_loss(
            model,
            hidden_states(model, batch.noisy, batch.time),
            process.vocab_size,
            _integrand(process),
            batch.weights,
            batch.normaliser,
            *_positions(tokens, batch.noisy, batch.time),
        )


class QuokkaUniform(Objective):
    """The paper's loss for uniform noise (section 5.1), which is not a bound.

    Cross-entropy of the clean token at every position. Replaced tokens are weighed as masked ones
    are, by w = -alpha' / (1 - alpha), over all tokens; each row's mean over the others is added. A
    token that noise drew equal to itself cannot be told from a clean one and counts as clean.

    What a model learns from it takes notice of the token's own noisy value z: x_theta(v) is best
    when proportional to p(v | the other tokens) times the weight and the chance of seeing z, which
    is -alpha' / K for v other than z, and 1 for z. The ELBO wants the first factor alone: taking
    `own_logit` off the logit of z gives it.
    """

    def __init__(self, process: NoiseProcess, times: TimeSampler, steps: int) -> None:
        self._process = process
        self._times = times
        self._steps = steps
        grid = (np.arange(512) + 0.5) / 512
        drawn = times.place(grid, 0.5)
        _, _, other = process.marginal(drawn.values)
        weights = process.schedule.weight(drawn.values) * drawn.correction
        replaced = float((weights * other).mean()) * (process.vocab_size - 1)
        self.blind = math.log(process.vocab_size) * (replaced + 1)

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw the time and the noisy text of each row, and weigh its tokens."""
        generator = stream(seed, TRAINING, step)
        times = self._times.draw(generator, len(tokens), step / self._steps)
        noisy = self._process.corrupt(tokens, times.values, generator)
        replaced = noisy != tokens
        of_row = self._process.schedule.weight(times.values)[:, None]
        kept = tokens.shape[1] / np.maximum(1, (~replaced).sum(1, keepdims=True))
        weights = np.where(replaced, of_row, kept) * times.correction[:, None]
        time = times.values.astype(np.float32)
        return Batch(
            tokens.size, noisy=noisy, weights=weights.astype(np.float32).ravel(), time=time
        )

    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the weighted sum of cross-entropies / normaliser."""
        assert batch.noisy is not None
        assert batch.weights is not None
        return weighted_loss(
            model,
            hidden_states(model, batch.noisy, batch.time),
            self._process.vocab_size,
            cross_entropy,
            batch.weights,
            batch.normaliser,
            tokens.reshape(-1),
        )


def own_logit(process: NoiseProcess, time: np.ndarray) -> np.ndarray:
    """Return what `QuokkaUniform` adds to the best logit of a position's own noisy token.

    Args:
        process: Uniform noise.
        time: float64 [B], in the time of its schedule.

    Returns:
        float64 [B], log(K / -alpha'(t)).
    """
    slope = np.maximum(-process.schedule.alpha_prime(time), 1e-12)
    less: np.ndarray = math.log(process.vocab_size) - np.log(slope)
    return less


class NextToken(Objective):
    """The autoregressive baseline: exact, and without noise."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.blind = math.log(vocab_size)

    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw nothing."""
        return Batch(tokens.size)

    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the sum of all tokens' losses / normaliser."""
        return weighted_loss(
            model,
            _states_before(model, tokens),
            self._vocab_size,
            cross_entropy,
            None,
            batch.normaliser,
            tokens.reshape(-1),
        )
