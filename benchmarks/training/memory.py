"""Rows: what the memory model says against what a step holds, and whether its choice fits."""

from collections.abc import Iterator

import torch

from benchmarks.training.runs import run_of, windows_of
from benchmarks.training.table import GiB, Row, Setting
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.loop import Trainer
from quokka_ray.training.memory import Recipe, step_memory
from quokka_ray.training.memory_trace import trace_step
from quokka_ray.training.micro_batches import MicroBatches

WITHIN = 0.15


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the rows: measured on a GPU, on a CPU traced on tensors without storage."""
    size = {"d_model": 1728, "layers": 25, "vocab_size": 50_257, "seq_len": 2048}
    name = "1B"
    if setting.quick:
        size, name = {"d_model": 256, "layers": 2, "vocab_size": 8192, "seq_len": 512}, "small"
    config = run_of(**size, rows=8, precision="bf16", compile="never")
    predicted = step_memory(Recipe.of(config), 8).peak
    if setting.device == "cuda":
        micro_batches = MicroBatches(config, setting.device)
        held = _measured(config, setting.device, micro_batches)
        predicted, how = micro_batches.predicted(micro_batches.now), "max_memory_allocated"
    else:
        held, how = float(trace_step(config, 8).peak), "traced on tensors without storage"
    yield Row(
        f"memory of {name}, micro-batch 8: |model / held - 1|",
        abs(predicted / held - 1),
        WITHIN,
        "lower",
        f"{predicted / GiB:.2f} GiB predicted, {held / GiB:.2f} {how}",
    )
    if setting.device != "cuda":
        return
    # Eight times the batch: more than fits, so that something has to be chosen.
    config = run_of(**size, rows=64, precision="bf16", compile="never")
    micro_batches = MicroBatches(config, setting.device)
    chosen = micro_batches.now
    held = _measured(config, setting.device, micro_batches)
    yield Row(
        f"{name}, batch 64: parts kept over parts chosen, no out-of-memory",
        float(micro_batches.now == chosen),
        1.0,
        detail=f"{chosen}, {held / GiB:.1f} GiB held",
    )


def _measured(config: TrajectoryConfig, device: str, micro_batches: MicroBatches) -> float:
    """Return the most bytes that four steps held."""
    torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(config, windows_of(config), device, micro_batches=micro_batches)
    try:
        for _ in range(4):
            trainer.advance()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device))
    finally:
        trainer.close()
        del trainer
        torch.cuda.empty_cache()
