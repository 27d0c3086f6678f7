"""The step of a small model on one CPU thread: against a full head, and against the machine.

A run of this shape that is long enough for `training.compile: auto` has its blocks compiled, and
one that trains the model well is by far long enough. So the rate is measured both ways, and the
compiled one is held against the aim.
"""

import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.training.runs import run_of, step_flops, windows_of
from benchmarks.training.table import Row, Setting, interleaved
from quokka_ray.diffusion.objective import Batch, Denoiser, Objective, hidden_states
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.allocator import keep_freed_memory
from quokka_ray.training.compiled import steps_that_pay
from quokka_ray.training.loop import Trainer

_SQUARE = 1024
"""Side of the matrix product that the machine is measured by: its best size on a core."""


class FullHead(Objective):
    """An objective's own loss the plain way: logits of all positions, and weights of zero."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.blind = objective.blind

    def draw(self, seed, step, tokens):
        """Draw what the objective draws."""
        return self._objective.draw(seed, step, tokens)

    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the loss of the objective."""
        assert batch.flat is not None
        assert batch.weights is not None
        clean = tokens.reshape(-1)
        noisy = clean.index_fill(0, batch.flat, model.mask_id).view_as(tokens)
        logits = model.logits(hidden_states(model, noisy, None))
        losses = functional.cross_entropy(logits, clean, reduction="none")
        weights = torch.zeros_like(losses).index_copy_(0, batch.flat, batch.weights)
        return losses.dot(weights) / batch.normaliser


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the rows of d 256, 6 layers, T 256, V 32k, B 4 in float32."""
    keep_freed_memory()  # As `training.run.train` does.
    vocab, layers, turns = (4_000, 2, 1) if setting.quick else (32_000, 6, 7)
    config = run_of(256, layers, vocab_size=vocab, seq_len=256, rows=4)
    # Turns that are taken in between would look like slow steps, which compiling pays for.
    eager = _with(config, "never")
    ours, plain = (Trainer(eager, windows_of(config), "cpu") for _ in range(2))
    plain._objective = FullHead(plain._objective)
    plain.fused = None  # Which the quick size has.
    compiled = None if setting.quick else _compiled(config)
    square = torch.randn(_SQUARE, _SQUARE)
    flops = 2 * _SQUARE**3

    def product() -> None:
        for _ in range(8):
            square @ square

    calls = {"product": product, "ours": ours.advance, "plain": plain.advance}
    if compiled is not None:
        calls["compiled"] = compiled.advance
    seconds = interleaved(calls, "cpu", turns)
    torch.testing.assert_close(ours.smoothed_loss, plain.smoothed_loss, rtol=1e-3, atol=1e-3)
    what = f"CPU, 1 thread, fp32, d 256, {layers} layers, T 256, V {vocab:,}, B 4"
    gain = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["plain"], strict=True))
    rate = config.batch_tokens / min(seconds["ours"])
    yield Row(f"{what}: over a full head", gain, 1.35, detail=f"{rate:,.0f} tokens/s")
    peak = 8 * flops / min(seconds["product"])
    for how, name in (("", "ours"), (", blocks compiled", "compiled")):
        if name not in seconds:
            continue
        reached = step_flops(config) / min(seconds[name])
        detail = f"{reached / 1e9:.0f} of {peak / 1e9:.0f} GFLOP/s"
        if name == "compiled":
            steps = steps_that_pay(min(seconds["ours"]), "cpu")
            detail += f"; what `auto` runs from {math.ceil(steps):,} steps on"
        yield Row(
            f"  the same{how}: exact FLOP/s over a matrix product's",
            reached / peak,
            0.57 if name == "compiled" else None,
            detail=detail,
        )


def _compiled(config: TrajectoryConfig) -> Trainer | None:
    """Return a trainer whose blocks are compiled, or None where they do not compile."""
    trainer = Trainer(_with(config, "always"), windows_of(config), "cpu")
    trainer.advance()
    return trainer if trainer.compilation.mode == "compiled" else None


def _with(config: TrajectoryConfig, compiling: str) -> TrajectoryConfig:
    training = config.training.model_copy(update={"compile": compiling})
    return config.model_copy(update={"training": training})
