"""One run trained in two ways: the same losses up to rounding, or the same to the bit.

`tests/training/test_equality.py` holds these comparisons to their bounds.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.training.runs import run_of, windows_of
from benchmarks.training.table import Row, Setting
from quokka_ray.diffusion.objective import Batch
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.checkpoints import load_checkpoint, save_checkpoint
from quokka_ray.training.loop import Trainer


def small_run(steps: int, **changes) -> TrajectoryConfig:
    """Return a run of 2 layers whose whole batch takes the chunked head, and its parts do not."""
    return run_of(64, 2, vocab_size=8_000, seq_len=64, rows=8, steps=steps, lr=1e-3, **changes)


def trainer_of(config: TrajectoryConfig, device: str, dtype: torch.dtype) -> Trainer:
    """Return a trainer whose parameters have a type."""
    trainer = Trainer(config, windows_of(config), device)
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.to(dtype)
    trainer.smoothed_loss = trainer.smoothed_loss.to(dtype)
    return trainer


def final_loss(trainer: Trainer) -> float:
    """Return the loss of the next step's batch, all rows at once."""
    clean, drawn = trainer.feed.take(trainer.step)
    batch: Batch[Tensor] = drawn.map(lambda array: torch.from_numpy(array).to(trainer.device))
    tokens = torch.from_numpy(clean).to(trainer.device)
    with torch.no_grad(), trainer.compilation.paused():
        loss: float = trainer._objective.loss(trainer.model, tokens, batch).item()
    return loss


def trained(config: TrajectoryConfig, device: str, dtype: torch.dtype, steps: int) -> Trainer:
    """Return the trainer after some steps."""
    trainer = trainer_of(config, device, dtype)
    for _ in range(steps):
        trainer.advance()
    return trainer


def difference(
    one: dict[str, object], other: dict[str, object], device: str, dtype: torch.dtype, steps: int
) -> float:
    """Return the relative difference of two runs' losses, their training changed by these."""
    first, second = (
        final_loss(trained(small_run(steps + 1, **changes), device, dtype, steps))
        for changes in (one, other)
    )
    return abs(first - second) / abs(second)


def resumed_difference(device: str, steps: int) -> float:
    """Return the largest difference of any parameter or loss, through a checkpoint half-way."""
    config = small_run(steps)
    straight = trained(config, device, torch.float32, steps)
    first = trained(config, device, torch.float32, steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(
            Path(folder), first.tokens, first.model.state_dict(), first.state_dict()
        )
        second = trainer_of(config, device, torch.float32)
        second.load_state_dict(*load_checkpoint(path, device))
    while second.step < steps:
        second.advance()
    pairs = zip(straight.model.parameters(), second.model.parameters(), strict=True)
    largest = max((a - b).abs().max().item() for a, b in pairs)
    return max(largest, (straight.smoothed_loss - second.smoothed_loss).abs().item())


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the largest differences beside what rounding may make of them."""
    device = setting.device
    exact, long = (3, 5) if setting.quick else (20, 200)
    ways = {"micro-batch 2 against 8": ({"micro_batch_sequences": 2}, {})}
    if not setting.quick:
        ways["compiled against eager"] = ({"compile": "always"}, {"compile": "never"})
    for way, (one, other) in ways.items():
        for dtype, steps, bound in (
            (torch.float64, exact, 1e-9),
            (torch.float32, long, 2e-3),
        ):
            name = str(dtype).removeprefix("torch.")
            reached = difference(one, other, device, dtype, steps)
            what = f"loss, {way}, {name}, {steps} steps: relative difference"
            yield Row(what, reached, bound, "lower")
    yield Row(
        f"resumed against straight, {long} steps: largest difference",
        resumed_difference(device, long),
        0.0,
        "lower",
        "equal to the bit" if device == "cpu" else "",
    )
