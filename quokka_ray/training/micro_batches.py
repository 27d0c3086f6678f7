"""How much of a batch is in memory at once: chosen, and made smaller when it does not fit.

A micro-batch changes neither the data nor the noise nor the loss of a step, only the order of
additions. So a run that meets an out-of-memory error drops what the step had done, halves its
micro-batch and takes the same step again; nothing else of the trial is lost.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from quokka_ray.errors import MachineError
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.device_memory import (
    MicroBatch,
    Notes,
    device_name,
    free_memory,
    is_out_of_memory,
    release,
)
from quokka_ray.training.memory import Recipe, gib, readable, step_memory
from quokka_ray.training.metrics import Row
from quokka_ray.training.precision import products_in_bf16
from quokka_ray.training.world import ALONE, World

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SHARE = {"cuda": 0.9, "cpu": 0.8}
"""How much of the free memory is planned for: an allocator has gaps, and a machine other users."""

_MEASURE_AFTER = 3
"""Steps after which the most memory that was held is a step's: optimisers have their state."""


def cuts(batch: int, policy: str, most: int | None = None) -> list[MicroBatch]:
    """Return the ways to cut a batch, in the order in which they are tried.

    Parts are equal, so that every part has the shape of the first, and even where they can be,
    since masks come in antithetic pairs. Blocks run twice only where a single sequence would not
    fit otherwise.

    Args:
        batch: Sequences of one step on this device.
        policy: `training.activation_checkpointing`.
        most: Sequences at once that were asked for; the first part of an uneven cut.
    """
    most = min(most or batch, batch)
    sizes = [n for n in range(most, 0, -1) if batch % n == 0 and (n % 2 == 0 or n == 1)]
    if not sizes or sizes[0] != most:
        sizes.insert(0, most)
    plain = [] if policy == "always" else [MicroBatch(n) for n in sizes]
    twice = [] if policy == "never" else [MicroBatch(n, checkpointing=True) for n in sizes]
    return plain + twice


class MicroBatches:
    """The micro-batch of one run.

    Args:
        config: The run.
        device: Where it runs.
        world: The ranks that train it together, each a part of the batch. All take rank 0's cut:
            sharded models need the same number of passes on every rank.
        shards: Devices that share parameters and optimiser state.
        notes: What is known of devices.
        earlier: The micro-batch that an earlier attempt of this run ended with: the rest of the
            run is then the same to the bit.
        report: Told, as a row of the record, which micro-batch is used from now on.

    Attributes:
        batch: Sequences of a step on this device.
        now: The micro-batch.

    Raises:
        MachineError: Not even a single sequence fits.
    """

    def __init__(
        self,
        config: TrajectoryConfig,
        device: str,
        world: World = ALONE,
        *,
        shards: int = 1,
        notes: Notes | None = None,
        earlier: MicroBatch | None = None,
        report: Callable[[Row], None] = lambda row: None,
    ) -> None:
        self.batch = config.training.batch_sequences // world.size
        self._world = world
        self._device = device
        half = products_in_bf16(config.training.precision, device)
        self._recipe = Recipe.of(config, half, shards)
        self._notes = notes or Notes(None)
        self._report = report
        self._tokens_of_step = config.batch_tokens
        self._steps = 0
        self._correction = self._notes.correction(self._recipe, device)
        training = config.training
        self._asked = training.micro_batch_sequences
        self._cuts = cuts(self.batch, training.activation_checkpointing, self._asked)
        self._free = free_memory(device)
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu or not self._fits(self._cuts[0]):
            # What earlier trials have left; looking for it takes as long as a tiny trial's start.
            release(device)
            self._free = free_memory(device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self.now = world.agree(lambda: self._choose(earlier))

    def predicted(self, cut: MicroBatch) -> float:
        """Return the bytes that a step is expected to hold at most, as corrected by notes."""
        memory = step_memory(
            self._recipe,
            cut.rows,
            accumulate=cut.rows < self.batch,
            checkpointing=cut.checkpointing,
        )
        return memory.peak * self._correction

    def _choose(self, earlier: MicroBatch | None) -> MicroBatch:
        """Return the first cut that fits, no larger than one that is known to be too large."""
        known = self._notes.fitted(self._recipe, self._device, self.batch)
        start = self._cuts.index(known) if known in self._cuts else 0
        # Several ranks cannot come down in the middle of a run: what stopped them is in the notes.
        overtaken = self._world.size > 1 and earlier in self._cuts[:start]
        if earlier in self._cuts and not overtaken and self._fits(earlier, share=1.0):
            return earlier
        if self._asked is not None:
            # A user's figure is taken at its word; should it not fit, the step finds out.
            chosen = self._cuts[start]
        else:
            fitting = (cut for cut in self._cuts[start:] if self._fits(cut))
            chosen = next(fitting, self._cuts[-1])
            if chosen == self._cuts[-1] and not self._fits(chosen, share=1.0):
                raise MachineError(self._too_large("it would need more than is free"))
        if chosen != MicroBatch(self.batch) or earlier is not None:
            self._tell(chosen, 0, "chosen by the memory model")
        return chosen

    def _fits(self, cut: MicroBatch, share: float | None = None) -> bool:
        if self._free is None:
            return True
        share = share or _SHARE.get(torch.device(self._device).type, 0.9)
        return self.predicted(cut) <= share * self._free

    def until_it_fits(
        self,
        step: int,
        attempt: Callable[[MicroBatch], Result],
        undo: Callable[[], None] = lambda: None,
    ) -> Result:
        """Return what `attempt` returns, called again with less at once while memory is out.

        Args:
            step: The optimiser step, for the record.
            attempt: Part of a step; repeating it after `undo` must be the same as doing it once.
            undo: Drops what an attempt that failed has left.

        Raises:
            MachineError: A single sequence does not fit.
        """
        while True:
            try:
                return attempt(self.now)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(step, str(error).splitlines()[0])
                if self._world.size > 1:
                    # The others wait in a collective: all must begin again, from the checkpoint.
                    raise
            # The error is gone, and with it the frames that held the tensors of the attempt.
            undo()
            release(self._device)

    def _shrink(self, step: int, reason: str) -> None:
        """Take the next cut that is expected to need clearly less."""
        here = self._cuts.index(self.now)
        enough = 0.95 * self.predicted(self.now)
        smaller = [
            cut
            for cut in self._cuts[here + 1 :]
            if cut.rows <= self.now.rows // 2 or self.predicted(cut) < enough
        ]
        if not smaller:
            raise MachineError(self._too_large(reason))
        self.now = smaller[0]
        self._notes.remember(self._recipe, self._device, self.batch, self.now)
        self._tell(self.now, step, reason)

    def after_step(self) -> None:
        """Compare what was held with what was predicted, once, where the device counts it."""
        self._steps += 1
        if self._steps == _MEASURE_AFTER and torch.device(self._device).type == "cuda":
            measured = torch.cuda.max_memory_allocated(self._device)
            raw = self.predicted(self.now) / self._correction
            self._notes.correct(self._recipe, self._device, measured / raw)

    def _tell(self, cut: MicroBatch, step: int, reason: str) -> None:
        predicted = self.predicted(cut)
        logger.info("step %d: %s: %s, %s", step, reason, cut, gib(predicted))
        self._report(
            {
                "kind": "micro_batch",
                "tokens": step * self._tokens_of_step,
                "micro_batch_sequences": cut.rows,
                "activation_checkpointing": cut.checkpointing,
                "predicted_bytes": predicted,
                "free_bytes": self._free,
                "device_name": device_name(self._device),
                "reason": reason,
            }
        )

    def _too_large(self, reason: str) -> str:
        """Return what a user must know of a run that does not fit, and what can be done."""
        last = self._cuts[-1]
        memory = step_memory(
            self._recipe,
            last.rows,
            accumulate=last.rows < self.batch,
            checkpointing=last.checkpointing,
        )
        free = "" if self._free is None else f"; {gib(self._free)} were free at the start"
        shape = self._recipe.shape
        remedies = ["a smaller model", "a shorter model.seq_len"]
        if self._recipe.training.activation_checkpointing == "never":
            remedies.insert(0, "training.activation_checkpointing=auto")
        if torch.device(self._device).type == "cuda":
            remedies.append("more devices to shard it over, or a larger share of the GPU")
        return (
            f"out of memory on {device_name(self._device)} ({reason}): width {shape.d_model} and "
            f"{shape.layers} layers need {readable(memory)} for {last} of "
            f"{self._recipe.model.seq_len} tokens{free}. What helps: {', '.join(remedies)}"
        )


def recorded(row: Row) -> MicroBatch:
    """Return the micro-batch that a row of the record tells of."""
    return MicroBatch(row["micro_batch_sequences"], row["activation_checkpointing"])
