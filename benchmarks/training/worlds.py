"""One run by one process and by two: the same losses up to rounding, however it is shared.

The two talk over gloo on a CPU, also where there is a GPU: two ranks cannot share one.
`tests/training/test_worlds.py` holds the same comparisons to their bounds.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from benchmarks.training.equality import small_run
from benchmarks.training.runs import windows_of
from benchmarks.training.table import Row, Setting
from quokka_ray.diffusion.objective import Batch
from quokka_ray.training.loop import Trainer
from quokka_ray.training.world import ALONE, World, joined


def loss_after(world: World, sharded: bool, dtype: torch.dtype, steps: int) -> float:
    """Return the loss of a batch after some steps, computed by every rank for all of its rows."""
    config = small_run(steps + 1)
    trainer = Trainer(config, windows_of(config), "cpu", world, sharded)
    if dtype == torch.float64:
        trainer.model.double()
    trainer.smoothed_loss = trainer.smoothed_loss.to(dtype)
    for _ in range(steps):
        trainer.advance()
    clean, drawn = trainer.feed.take(trainer.step)
    batch: Batch[Tensor] = drawn.map(torch.from_numpy)
    tokens = torch.from_numpy(clean)
    with torch.no_grad():
        loss = trainer.apply(lambda model: trainer._objective.loss(model, tokens, batch))
    return float(loss.item())


def _rank(rank: int, folder: str, sharded: bool, dtype: torch.dtype, steps: int) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    loss = loss_after(joined(), sharded, dtype, steps)
    if rank == 0:
        Path(folder, "loss").write_text(repr(loss))
    dist.barrier()
    dist.destroy_process_group()


def loss_by_two(sharded: bool, dtype: torch.dtype, steps: int) -> float:
    """Return the loss that two processes reach."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (folder, sharded, dtype, steps), nprocs=2)
        return float(Path(folder, "loss").read_text())


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the differences beside what rounding may make of them."""
    exact, long = (3, 5) if setting.quick else (20, 200)
    for dtype, steps, bound in ((torch.float64, exact, 1e-9), (torch.float32, long, 2e-3)):
        alone = loss_after(ALONE, False, dtype, steps)
        for sharded, name in ((False, "whole copies"), (True, "sharded")):
            reached = abs(loss_by_two(sharded, dtype, steps) - alone) / alone
            kind = str(dtype).removeprefix("torch.")
            what = f"loss, 1 process against 2, {name}, {kind}, {steps} steps: difference"
            yield Row(what, reached, bound, "lower")
