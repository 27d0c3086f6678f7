"""Text from a trained model: the holes of a canvas filled, and the drafts on the way."""

from collections.abc import Callable, Iterator
from functools import partial

from quokka_ray.diffusion.canvas import Block, Canvas, plan_blocks
from quokka_ray.diffusion.objective import Denoiser
from quokka_ray.diffusion.processes import Mask, NoiseProcess
from quokka_ray.diffusion.samplers import (
    Sampling,
    continue_text,
    fill_with_noise,
    step_back,
    unmask_at_random,
    unmask_by_confidence,
)
from quokka_ray.diffusion.texts import Draft, Texts
from quokka_ray.errors import ConfigurationError


def generate(
    model: Denoiser,
    canvas: Canvas,
    process: NoiseProcess | None,
    sampling: Sampling,
    *,
    seq_len: int,
    count: int = 1,
    first: int = 0,
    start_token: int = 0,
    notices_own: bool = False,
    device: str = "cpu",
) -> Iterator[Draft]:
    """Fill a canvas `count` times; yield the texts at the start and after every step.

    What is given is never touched. A canvas longer than `seq_len` is filled in blocks from left
    to right, each at most half of `seq_len` wide and seen in a window of `seq_len` tokens, with
    any sampler.

    Args:
        model: The denoiser, or for `process` None a causal model, on `device`.
        canvas: What is given, and what is to be written.
        process: The noise that the model was trained on; None: it predicts the next token. A
            model without an attribute `time_conditioning` is told the time if the noise needs it.
        sampling: How to draw.
        seq_len: The model's sequence length L.
        count: Texts B to write side by side.
        first: Number of the first text: texts 4 and 5 are the same whether made alone or not.
        start_token: What a next-token model sees before the first token: its mask token.
        notices_own: The model was trained by `QuokkaUniform`: what a token's own noisy value
            adds to its logit is taken off before a step back.
        device: Where the model is.

    Raises:
        ConfigurationError: The given text does not fit the sequence; there are more blocks than
            steps; the sampler does not suit the process; a next-token model is to write before
            given text.
    """
    if canvas.given >= seq_len:
        raise ConfigurationError(
            f"the prompt has {canvas.given:,} tokens, and the model reads {seq_len:,} at once; "
            f"shorten it to {seq_len - 1:,} or fewer"
        )
    if process is None and not canvas.continues:
        raise ConfigurationError(
            "this model predicts the next token: it continues a text and fills no hole before "
            "given text; put the hole at the end"
        )
    if sampling.sampler != "ancestral" and not isinstance(process, Mask | None):
        raise ConfigurationError(
            f"the {sampling.sampler} sampler keeps the surest of masked tokens, and this model "
            f"was trained on {type(process).__name__.lower()} noise; use the ancestral sampler"
        )
    timed = process is not None and process.needs_time
    if hasattr(model, "time_conditioning"):
        timed = model.time_conditioning is not None
    texts = Texts(
        model,
        canvas,
        seed=sampling.seed,
        numbers=range(first, first + count),
        seq_len=seq_len,
        timed=timed,
        device=device,
    )
    if process is None:
        return _continued(texts, canvas, start_token, sampling)
    return _denoised(texts, canvas, process, sampling, notices_own)


def _continued(
    texts: Texts, canvas: Canvas, start_token: int, sampling: Sampling
) -> Iterator[Draft]:
    texts.steps = int(canvas.holes.sum())
    yield texts.draft()
    for _ in continue_text(texts, start_token, sampling):
        texts.step += 1
        yield texts.draft()


def _denoised(
    texts: Texts,
    canvas: Canvas,
    process: NoiseProcess,
    sampling: Sampling,
    notices_own: bool,
) -> Iterator[Draft]:
    width = sampling.block if sampling.sampler == "blocks" else len(canvas.holes)
    if len(canvas.holes) > texts.seq_len:
        width = min(sampling.block, max(1, texts.seq_len // 2))
    blocks = plan_blocks(canvas, width=width, steps=sampling.steps)
    texts.steps = sum(block.steps for block in blocks)
    noisy = not isinstance(process, Mask)
    fill: Callable[[Texts, NoiseProcess, Block, Sampling], Iterator[None]]
    if noisy:
        fill = partial(step_back, notices_own=notices_own)
        fill_with_noise(texts, process)
    else:
        fill = unmask_at_random if sampling.sampler == "ancestral" else unmask_by_confidence
    yield texts.draft(noisy=noisy)
    end = 0
    for block in blocks:
        end += block.steps
        for _ in fill(texts, process, block, sampling):
            texts.step += 1
            if texts.step == end:
                texts.finished[block.first : block.end] = True
            yield texts.draft(noisy=noisy)
