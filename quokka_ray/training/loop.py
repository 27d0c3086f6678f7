"""The optimiser step, and the state that a run carries from step to step."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from quokka_ray.diffusion.build import build_objective
from quokka_ray.diffusion.objective import Batch
from quokka_ray.model.transformer import DiffusionTransformer, build_model
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.compiled import Compilation
from quokka_ray.training.cuda_graphs import Replayed, fits
from quokka_ray.training.device_memory import MicroBatch
from quokka_ray.training.dropout import dropping, with_keys
from quokka_ray.training.feed import Feed, steps_ahead
from quokka_ray.training.fused_step import FusedStep, fused_step
from quokka_ray.training.lr_schedules import leg_schedule
from quokka_ray.training.micro_batches import MicroBatches
from quokka_ray.training.optimizers import Muon, build_optimizers, norm_of
from quokka_ray.training.precision import products_in_bf16
from quokka_ray.training.world import ALONE, World, local

if TYPE_CHECKING:
    from quokka_ray.training.sharding import ShardedModel

Result = TypeVar("Result")

_SMOOTHING = 0.02
_DIVERGED = 1.5
"""A smoothed loss this many times that of a model which knows nothing has diverged."""


class Windows(Protocol):
    """An endless stream of training windows with random access."""

    def batch(self, first: int, count: int) -> np.ndarray:
        """Return windows first .. first + count, int64 [count, seq_len]."""


class Trainer:
    """One model, its optimisers and its place in the run.

    Step s reads windows s * B .. (s + 1) * B, draws the masks of (seed, s), and takes the
    schedule's rate at s: what it does depends on the parameters, the optimisers' state and s
    alone, which is why a resumed run equals a straight one to the bit. In a world of several
    every rank draws the whole batch's masks and takes its rows; all rows are divided by the whole
    batch's normaliser, so the sum of gradients over ranks is the gradient of one process.

    Args:
        config: The trajectory.
        windows: Its text.
        device: Where this rank computes.
        world: The ranks that train it together.
        sharded: Whether they share its parameters (FSDP2), or each has all of them.
        micro_batches: How much of a batch is in memory at once; unset: what fits.

    Attributes:
        step: Steps taken.
        feed: Draws the steps' text and noise; `feed.seconds` is the time that steps waited.
        schedule: Step to its share of the peak rate; at first that of the first leg.
        loss: 0-d tensor on the device, the last step's objective.
        smoothed_loss: 0-d tensor on the device, the exponential mean of the objective.
        grad_norm: 0-d tensor on the device, the last step's norm before clipping.
        fused: What computes loss and gradients of a tiny model; None: autograd does.
        micro_batches: How much of a batch is in memory at once.
    """

    def __init__(
        self,
        config: TrajectoryConfig,
        windows: Windows,
        device: str,
        world: World = ALONE,
        sharded: bool = False,
        micro_batches: MicroBatches | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.world = world
        # Before the model is there: it says what of the free memory a step may take.
        self.micro_batches = micro_batches or MicroBatches(config, device, world)
        self.step = 0
        self._rows = world.share(config.training.batch_sequences)
        self._windows = windows
        self.model = build_model(config)
        self.model.initialise(config.model, config.seed)
        self.model.to(device)
        self.compilation = Compilation(config, self.model.blocks, device, world)
        self._whole: ShardedModel | None = None
        muon: Callable[..., Muon] = Muon
        if sharded:
            # Loaded where it is needed: one process by itself needs none of it.
            from quokka_ray.training.sharding import shard, sharded_muon

            self._whole, muon = shard(self.model, world, device), sharded_muon(world)
        self._parameters = list(self.model.parameters())
        self.schedule = leg_schedule(config, config.legs[0])
        self._objective = build_objective(
            config.diffusion, config.vocab_size, config.model.seq_len, config.steps
        )
        self._replayed = Replayed(self._learn, self._parameters)
        self.feed = Feed(self._draw, steps_ahead(device), config.steps)
        self.fused: FusedStep | None = None
        half = products_in_bf16(config.training.precision, device)
        if not (sharded or half) and config.training.compile != "always":
            # Ranks on unlike processors would round differently, and their copies come apart.
            native = world.size == 1 and config.training.compile != "never"
            self.fused = fused_step(self.model, self._objective, native)
        if self.fused is not None:
            self.compilation.decided = True
            muon = self.fused.muon
        self._optimizers = build_optimizers(self.model, config.training, config.lr, muon)
        self.loss = self.smoothed_loss = torch.tensor(self._objective.blind, device=device)
        self.grad_norm = torch.tensor(0.0, device=device)

    @property
    def tokens(self) -> int:
        """Tokens processed along the path of what is being trained."""
        return self.step * self.config.batch_tokens

    def advance(self) -> None:
        """Take one optimiser step. Nothing in it waits for the device.

        Where memory runs out, the step is taken again in smaller parts, with the same data and
        noise; an update is gone on with where it stopped.
        """
        clean, batch = self.feed.take(self.step)
        fitting = self.micro_batches.until_it_fits
        fitting(self.step, lambda now: self._prepare(clean, batch, now), self._start_again)
        self.loss = fitting(
            self.step, lambda now: self._gradients(clean, batch, now), self._start_again
        )
        rate = self.schedule(self.step)
        fitting(self.step, lambda now: self._optimizers.step(rate))
        self._drop()
        self.smoothed_loss.lerp_(self.loss, _SMOOTHING)
        self.step += 1
        self.micro_batches.after_step()

    def _gradients(self, clean: np.ndarray, batch: Batch[np.ndarray], now: MicroBatch) -> Tensor:
        """Leave the clipped gradients of the whole batch, and return its loss."""
        self.model.checkpointing = now.checkpointing
        rows, at_once = len(clean), now.rows
        begin, end = self._rows
        losses = []
        for first in range(begin, end, at_once):
            last = min(first + at_once, end)
            part = batch if last - first == rows else batch.part(first, last, clean.shape[1])
            passes = self._replayed if self._may_replay(last - first) else self._learn
            losses.append(passes(self._send(clean[first:last]), part.map(self._send)))
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self._sum_over_ranks(loss)
        self.grad_norm = self._clip(self.config.training.grad_clip)
        return loss

    def _drop(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def _start_again(self) -> None:
        """Drop what passes have left and hold: a graph keeps the memory of what it recorded."""
        self._drop()
        self._replayed = Replayed(self._learn, self._parameters)

    def _may_replay(self, rows: int) -> bool:
        """Return whether passes of `rows` sequences go through a graph."""
        if not fits(self.config, rows, self.device):
            return False
        # What is recorded stays: not before it is known whether the blocks are compiled.
        return self.compilation.decided and self.world.size == 1

    def _draw(self, step: int) -> tuple[np.ndarray, Batch[np.ndarray]]:
        """Return the text and the noise of a step: the whole batch's."""
        rows = self.config.training.batch_sequences
        clean = self._windows.batch(step * rows, rows)
        batch = self._objective.draw(self.config.seed, step, clean)
        rate = self.config.training.dropout
        return clean, with_keys(batch, rate, self.config.seed, step, rows)

    def _prepare(self, clean: np.ndarray, batch: Batch[np.ndarray], now: MicroBatch) -> None:
        """Compile the blocks, if it is time to; memory that ends meanwhile leaves it undecided."""
        self.model.checkpointing = now.checkpointing
        decided = self.compilation.decided
        try:
            self.compilation.before_step(self.step, lambda: self._rehearse(clean, batch, now))
        except RuntimeError:
            self.compilation.decided = decided
            raise

    def _rehearse(self, clean: np.ndarray, batch: Batch[np.ndarray], now: MicroBatch) -> None:
        """Run the passes of a step's first rows through a block, and leave no trace of it."""
        first = self._rows[0]
        last = first + now.rows
        part = batch if last - first == len(clean) else batch.part(first, last, clean.shape[1])
        blocks = self.model.blocks
        if self._whole is None:
            # All blocks are one piece of code, and its passes take a whole step's time.
            self.model.blocks = blocks[:1]
        try:
            self._learn(self._send(clean[first:last]), part.map(self._send))
        finally:
            self.model.blocks = blocks
        self._drop()

    def _learn(self, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Add the gradient of these rows' share of the loss, and return the share."""
        if self.fused is not None:
            return self.fused(tokens, batch)
        half = products_in_bf16(self.config.training.precision, self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, half, False):
            loss = self.apply(
                lambda model: self._objective.loss(dropping(model, batch), tokens, batch)
            )
        loss.backward()
        return loss.detach()

    def apply(self, function: Callable[[DiffusionTransformer], Result]) -> Result:
        """Return what `function` makes of the model, whose parameters are whole meanwhile."""
        return function(self.model) if self._whole is None else self._whole(function)

    def _sum_over_ranks(self, loss: Tensor) -> None:
        """Make each rank's share of the loss and of its gradient the whole batch's."""
        if self._whole is not None:
            # The backward pass has summed gradients as it scattered them.
            self.world.sum([loss])
        elif self.world.size > 1:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self.world.sum([*gradients, loss])

    def close(self) -> None:
        """Take no more steps: end what prepares them."""
        self.feed.close()

    def diverged(self) -> str | None:
        """Return why the run has diverged, or None. Waits for the device."""
        smoothed = self.smoothed_loss.item()
        # A loss that is not finite stays in the mean for ever, and so does what a gradient that
        # is not finite makes of the parameters: no step needs a check of its own.
        if not math.isfinite(smoothed):
            return f"the training loss is not finite at {self.tokens} tokens"
        if smoothed > _DIVERGED * self._objective.blind:
            return (
                f"the training loss rose to {smoothed:.3f} at {self.tokens} tokens; "
                f"a model that knows nothing has {self._objective.blind:.3f}"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what, with the parameters, the rest of the run depends on."""
        return {
            "step": self.step,
            "smoothed_loss": self.smoothed_loss,
            "mode": self.compilation.mode if self.compilation.decided else None,
            "optimizers": self._optimizers.state_dict(),
        }

    def load_state_dict(self, parameters: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore parameters and what `state_dict` returned."""
        self.model.load_state_dict(parameters)
        self._optimizers.load_state_dict(state["optimizers"])
        self.smoothed_loss.copy_(state["smoothed_loss"])
        self.step = state["step"]
        self.compilation.resume(state.get("mode"))

    def _send(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _clip(self, limit: float) -> Tensor:
        gradients = [local(p.grad) for p in self._parameters if p.grad is not None]
        if self.fused is not None and self.fused.gradient is not None:
            gradients = [self.fused.gradient]
        norm = norm_of(gradients)
        if self._whole is not None:
            square = norm.square()
            self.world.sum([square])
            norm = square.sqrt()
        norm = norm.to(gradients[0].dtype)
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        # A CPU sees for nothing that there is nothing to clip; a GPU would have to be waited for.
        if not scale.is_cpu or scale.item() != 1:
            torch._foreach_mul_(gradients, scale)
        return norm
