"""How many trials share a GPU: as many as fit, and as find idle time there.

A trial of ten million parameters is bound by the host, which launches hundreds of kernels of a
few microseconds each; meanwhile the device waits, and other trials can use it. Processes take
turns on a GPU, so what they can fill is the waiting alone. Under NVIDIA's MPS their kernels run
side by side, and they also fill what a small kernel leaves of the device's processors.

Everything here is arithmetic from the configuration and data sheets. `benchmarks/train.py --only
packing` measures it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from quokka_ray.model.counts import flops_per_token, head_fraction
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.trajectory import Shape
from quokka_ray.training.device_memory import MicroBatch
from quokka_ray.training.memory import Recipe, step_memory
from quokka_ray.training.micro_batches import cuts

GiB = 2**30


@dataclass(frozen=True)
class Gpu:
    """What a data sheet says of a GPU.

    Attributes:
        memory: Bytes.
        flops: Dense bfloat16 FLOP/s.
        processors: Streaming multiprocessors.
    """

    memory: float
    flops: float
    processors: int


GPUS = {
    "B200": Gpu(180 * GiB, 2250e12, 148),
    "H200": Gpu(140 * GiB, 989e12, 132),
    "H100": Gpu(79 * GiB, 989e12, 132),
    "A100-80G": Gpu(79 * GiB, 312e12, 108),
    "A100": Gpu(39 * GiB, 312e12, 108),
    "L40S": Gpu(44 * GiB, 362e12, 142),
    "A10G": Gpu(22 * GiB, 70e12, 80),
    "L4": Gpu(22 * GiB, 121e12, 58),
    "V100": Gpu(15 * GiB, 112e12, 80),
    "T4": Gpu(14 * GiB, 65e12, 40),
}
"""By Ray's names of accelerator types; memory as drivers report it, of the smallest version."""

_SHARE_OF_PEAK = 0.5
"""Of the data sheet's FLOP/s, what the matrix products of a step reach."""

_LAUNCH_SECONDS, _KERNEL_SECONDS = 6e-6, 2.5e-6
"""The host's time for a kernel, and the least that a kernel takes on the device."""

_LAUNCHES_OF_A_BLOCK, _LAUNCHES_BESIDE = 120, 100
"""Kernels of a forward and backward pass (`cuda_graphs.py`)."""

_TILE = 128
"""Rows and columns of a product that one multiprocessor works on at a time."""

_CONTEXT = 0.7 * GiB
"""What a process takes of a GPU before its first tensor."""

_MOST = 16
"""Trials of one GPU; each also takes a host's core."""


def gpu_named(names: Iterable[str]) -> Gpu | None:
    """Return the GPU of Ray's accelerator types, the smallest of several; None: none is known."""
    known = [GPUS[name] for name in names if name in GPUS]
    return min(known, key=lambda gpu: gpu.memory, default=None)


def busy_share(recipe: Recipe, batch: int, cut: MicroBatch, gpu: Gpu, *, mps: bool) -> float:
    """Return which share of a GPU one trial keeps busy, between 0 and 1.

    Args:
        recipe: What is trained.
        batch: Sequences of one step.
        cut: How they are cut.
        gpu: On what.
        mps: Whether kernels of several processes run side by side.
    """
    tokens = cut.rows * recipe.model.seq_len
    share = head_fraction(recipe.diffusion, recipe.model.seq_len)
    flops = tokens * flops_per_token(
        recipe.shape, recipe.model, recipe.vocab_size, head_fraction=share
    )
    # Float32 products run outside the tensor cores, at about a fifteenth of their rate.
    rate = gpu.flops * _SHARE_OF_PEAK / (1 if recipe.half else 15)
    launches = recipe.shape.layers * _LAUNCHES_OF_A_BLOCK + _LAUNCHES_BESIDE
    device = max(flops / rate, launches * _KERNEL_SECONDS)
    busy = min(1.0, device / (launches * _LAUNCH_SECONDS))
    if mps:
        tiles = math.ceil(tokens / _TILE) * math.ceil(recipe.shape.d_model / _TILE)
        busy *= min(1.0, tiles / gpu.processors)
    return busy


def trials_on_gpu(recipe: Recipe, batch: int, gpu: Gpu, *, mps: bool = False) -> int:
    """Return how many trials of one shape share a GPU well; at least 1.

    Each takes its whole batch at once: where several trials would have to cut it to fit, one
    trial has enough to do by itself.
    """
    cut = cuts(batch, "never")[0]
    peak = step_memory(recipe, cut.rows).peak
    fitting = math.floor(0.95 * gpu.memory / (peak / 0.9 + _CONTEXT))
    idle = math.floor(1 / busy_share(recipe, batch, cut, gpu, mps=mps) + 1e-9)
    return max(1, min(fitting, idle, _MOST))


def share_of_gpu(
    study: StudyConfig, shape: Shape, vocab_size: int, gpu: Gpu, *, mps: bool = False
) -> float:
    """Return the fraction of a GPU that trials of a study ask for, if `shape` is its largest."""
    fewest = min(
        trials_on_gpu(
            Recipe.of_study(trial, shape, vocab_size), trial.training.batch_sequences, gpu, mps=mps
        )
        for trial in study.heaviest
    )
    return 1 / fewest
