"""What an attempt's time went into, and how near its device's peak it trains."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from quokka_ray.model.counts import training_flops
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.peaks import data_sheet_peak, measured_peak

Row = dict[str, Any]


class Telemetry:
    """Clocks of one attempt.

    Args:
        config: The trajectory.
        device: What each of its processes trains on.
        workers: How many processes train it.

    Attributes:
        evaluation_seconds: Spent on validation.
        checkpoint_seconds: Spent on writing checkpoints, waiting for the disk included.
    """

    def __init__(self, config: TrajectoryConfig, device: str, workers: int) -> None:
        self.evaluation_seconds = 0.0
        self.checkpoint_seconds = 0.0
        args = (config.shape, config.model, config.vocab_size)
        self._step_tokens = config.batch_tokens
        self._step_flops = training_flops(*args, config.batch_tokens, config.diffusion)
        half = config.training.precision == "bf16"
        self._dtype = torch.bfloat16 if half else torch.float32
        self._device = device
        self._workers = workers
        if torch.device(device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.lap()

    @contextmanager
    def timed(self, what: Literal["evaluation", "checkpoint"]) -> Iterator[None]:
        """Count what is done inside as evaluation or as checkpoint, and not as training."""
        begun = time.monotonic()
        try:
            yield
        finally:
            taken = time.monotonic() - begun
            self._paused += taken
            name = f"{what}_seconds"
            setattr(self, name, getattr(self, name) + taken)

    def lap(self) -> None:
        """Begin a stretch of training anew."""
        self._since = time.monotonic()
        self._paused = 0.0

    def speed(self, steps: int) -> Row:
        """Return the speed of the stretch, in which `steps` steps were taken.

        `mfu` is exact FLOP/s over those of a large matrix product as this process measured it,
        `mfu_data_sheet` over the data sheet's, where that is known.
        """
        seconds = max(1e-9, time.monotonic() - self._since - self._paused)
        rate = steps * self._step_flops / seconds
        peak = measured_peak(self._device, self._dtype, torch.get_num_threads())
        row = {
            "tokens_per_second": steps * self._step_tokens / seconds,
            "flops_per_second": rate,
            "mfu": rate / (peak * self._workers),
        }
        sheet = data_sheet_peak(self._device, self._dtype)
        if sheet is not None:
            row["mfu_data_sheet"] = rate / (sheet * self._workers)
        return row

    def standing(self) -> Row:
        """Return what the attempt's time and memory went into so far.

        `peak_memory_bytes` is the device's where that is a GPU; of a CPU the process's, which in a
        process that has trained others is theirs too.
        """
        if torch.device(self._device).type == "cuda":
            memory = torch.cuda.max_memory_allocated(self._device)
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "evaluation_seconds": self.evaluation_seconds,
            "checkpoint_seconds": self.checkpoint_seconds,
            "peak_memory_bytes": memory,
        }
