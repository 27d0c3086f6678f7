"""The samplers: how the holes of a block are filled, step by step.

Each is a generator that takes one step of the block, yields, and leaves no hole at its end. The
model is called only where its answer is used: a step of masked diffusion in which no token
settles costs nothing, so that steps beyond the number of tokens are free.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from quokka_ray.diffusion.canvas import Block, split_evenly
from quokka_ray.diffusion.drawing import draw, token_probabilities
from quokka_ray.diffusion.noised import own_logit
from quokka_ray.diffusion.posterior import bridge
from quokka_ray.diffusion.processes import NoiseProcess
from quokka_ray.diffusion.texts import Texts
from quokka_ray.errors import ConfigurationError

SamplerName = Literal["ancestral", "confidence", "blocks"]
NoiseRemoval = Literal["draw", "argmax"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


@dataclass(frozen=True)
class Sampling:
    """How text is drawn from a model.

    Attributes:
        steps: Denoising steps in all; no more model calls are made. Next-token models take one
            call a token instead.
        sampler: `ancestral` follows the noise process back in time; `confidence` settles the
            tokens that the model is surest of (LLaDA's low-confidence remasking); `blocks` does
            that from left to right in blocks.
        block: Width of a block, for `blocks` and for texts longer than the model's sequence.
        temperature: Logits are divided by it; 0 takes the most probable token.
        top_p: Draw from the fewest tokens that have this mass.
        seed: Of all random numbers.
        noise_removal: What the last ancestral step does with what is still noise: `draw` as any
            step does, which is exact, or take the most probable token (`argmax`, mdlm).

    Raises:
        ConfigurationError: A value out of its range.
    """

    steps: int = 64
    sampler: SamplerName = "ancestral"
    block: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    noise_removal: NoiseRemoval = "draw"

    def __post_init__(self) -> None:
        for holds, wrong in (
            (self.steps >= 1, f"steps is {self.steps}; it must be 1 or more"),
            (self.sampler in SAMPLERS, f"no sampler {self.sampler}; there are {SAMPLERS}"),
            (self.block >= 1, f"block is {self.block}; it must be 1 or more"),
            (
                0 <= self.temperature < float("inf"),
                f"temperature is {self.temperature}; it must be 0 or more",
            ),
            (0 < self.top_p <= 1, f"top-p is {self.top_p}; it must be above 0 and at most 1"),
            (
                self.noise_removal in get_args(NoiseRemoval),
                f"no noise removal {self.noise_removal}; there are draw and argmax",
            ),
        ):
            if not holds:
                raise ConfigurationError(wrong)


def unmask_at_random(
    texts: Texts, process: NoiseProcess, block: Block, sampling: Sampling
) -> Iterator[None]:
    """Ancestral sampling of masked diffusion (mdlm, md4).

    From t to s a masked token stays masked with probability (1 - alpha_s) / (1 - alpha_t), and
    otherwise takes a token of the model's law. Times are evenly spaced from 1 to 0. The last step
    leaves no mask, even under a schedule that would.
    """
    window = texts.window(block)
    waiting = texts.holes_of(block)
    for i in range(block.steps):
        t, s = 1 - i / block.steps, 1 - (i + 1) / block.steps
        last = i == block.steps - 1
        log_rate = process.schedule.log1m_alpha
        stays = 0.0 if last else float(np.exp(log_rate(s) - log_rate(t)))
        when, which = texts.uniforms()
        going = waiting & (when >= stays)
        if going.any():
            logits = texts.logits(window, going, t)
            texts.tokens[going] = _drawn(logits, which[going], sampling, last=last)
            waiting = waiting & ~going
        yield


def unmask_by_confidence(
    texts: Texts, process: NoiseProcess, block: Block, sampling: Sampling
) -> Iterator[None]:
    """Low-confidence remasking (LLaDA): guess all, keep the surest guesses, mask the others.

    The block's tokens are split evenly over its steps, the first steps taking what is left over.
    Of equally sure guesses the leftmost is kept. How sure the model is, is the probability of the
    guess at temperature 1 and without top-p.
    """
    window = texts.window(block)
    waiting = texts.holes_of(block)
    count = len(texts.tokens)
    for settles in split_evenly(int(waiting[0].sum()), block.steps):
        if settles:
            rate = float(waiting[0, slice(*window)].double().mean())
            logits = texts.logits(window, waiting, float(process.schedule.inverse(rate)))
            guess = _drawn(logits, texts.uniforms()[1][waiting], sampling)
            sure = logits.double().softmax(-1).gather(1, guess[:, None]).view(count, -1)
            best = sure.argsort(stable=True, dim=1, descending=True)[:, :settles]
            where = waiting.nonzero()[:, 1].view(count, -1).gather(1, best)
            texts.tokens.scatter_(1, where, guess.view(count, -1).gather(1, best))
            waiting = waiting.scatter(1, where, False)
        yield


def step_back(
    texts: Texts,
    process: NoiseProcess,
    block: Block,
    sampling: Sampling,
    *,
    notices_own: bool = False,
) -> Iterator[None]:
    """Ancestral sampling through the posterior, for noise with real tokens.

    Given text is shown as it is, not noised to the level of the rest. Temperature and top-p act
    on the model's law of the clean token, for a model that `notices_own` after what its own
    noisy value adds to a token's logit is taken off.
    """
    window = texts.window(block)
    holes = texts.holes_of(block)
    for i in range(block.steps):
        t, s = 1 - i / block.steps, 1 - (i + 1) / block.steps
        last = i == block.steps - 1
        logits = texts.logits(window, holes, t)
        if notices_own:
            own = float(own_logit(process, np.array([t]))[0])
            noisy = texts.tokens[holes][:, None]
            logits = logits.scatter_add(1, noisy, logits.new_full(noisy.shape, -own))
        clean = token_probabilities(logits, sampling.temperature, sampling.top_p)
        law = bridge(process, clean, texts.tokens[holes], t, s)
        if last:
            law = law[:, : process.vocab_size]  # a schedule may leave masks at s = 0
        if last and sampling.noise_removal == "argmax":
            texts.tokens[holes] = law.argmax(-1)
        else:
            texts.tokens[holes] = draw(law, texts.uniforms()[1][holes])
        yield


def fill_with_noise(texts: Texts, process: NoiseProcess) -> None:
    """Fill all holes with the noise of t = 1. Takes one step's random numbers."""
    _, mask, other = process.marginal(1.0)
    masked = mask / (mask + process.vocab_size * other)
    which, what = texts.uniforms()
    noise = torch.where(which < masked, process.mask_id, (what * process.vocab_size).long())
    texts.tokens = torch.where(texts.holes, noise, texts.tokens)


def continue_text(texts: Texts, start_token: int, sampling: Sampling) -> Iterator[None]:
    """Write one token after the other, each given as many before it as the model was trained on.

    Args:
        texts: With all holes at the end, under a causal model.
        start_token: What the model sees before the first token of a text.
        sampling: How to draw.
    """
    for position in texts.holes.nonzero()[:, 0].tolist():
        first = max(0, position - texts.seq_len + 1)
        context = texts.tokens[:, first:position]
        if not first:
            start = torch.full_like(texts.tokens[:, :1], start_token)
            context = torch.cat((start, context), dim=1)
        logits = texts.model.logits(texts.hidden(context, 0.0)[:, -1])
        texts.tokens[:, position] = _drawn(logits, texts.uniforms()[1][:, position], sampling)
        yield


def _drawn(logits: Tensor, uniforms: Tensor, sampling: Sampling, *, last: bool = False) -> Tensor:
    """Return a token [M] of each row of logits [M, K]; `last`: as noise removal says."""
    if sampling.temperature == 0 or (last and sampling.noise_removal == "argmax"):
        return logits.argmax(-1)
    return draw(token_probabilities(logits, sampling.temperature, sampling.top_p), uniforms)
