"""One attempt at a trajectory: leg after leg to the end, a stop or a divergence.

The order of writes makes every kill harmless: a progress row precedes each checkpoint and each
observation, the last checkpoint precedes the last observation, that precedes `ended`. Whatever is
missing on resume is done again, and whatever is there is not: a branch whose observation is known
is passed by. A checkpoint in the middle of a branch holds the trunk's state beside the branch's.

A branch that diverges leaves its observation recorded as diverged, and the trunk goes on: its rate
may still have been bearable. A trajectory over repeated data may end once its minimum is past, by
its own observations alone, and any trajectory where its trunk passes a share of its tokens with a
training loss that leaves no hope (`promise.py`). A trunk that diverges ends the trajectory; what
was observed before stands.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.ushape import curve_of, past_minimum
from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.study.path import Leg
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.aside import Aside, set_aside, take_up
from quokka_ray.training.checkpoints import (
    keep_only,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from quokka_ray.training.compiled import study_cache
from quokka_ray.training.device_memory import NOTES_FILE, MicroBatch, Notes
from quokka_ray.training.loop import Trainer
from quokka_ray.training.lr_schedules import leg_schedule
from quokka_ray.training.metrics import Metrics, Row
from quokka_ray.training.micro_batches import MicroBatches, recorded
from quokka_ray.training.observing import evaluate, finite, observed_row, paired_error
from quokka_ray.training.promise import Hopeless, Passing
from quokka_ray.training.spreading import is_spread
from quokka_ray.training.standing import Standing
from quokka_ray.training.telemetry import Telemetry
from quokka_ray.training.world import World

PAST_MINIMUM = "past the minimum of its epochs"
"""Why a trajectory over repeated data finished before its last point."""

_CHECK_EVERY = 32
"""Steps between checks for divergence; fixed, so that a repeated run ends at the same step."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        status: `interrupted` is resumable; the others are final.
        loss: Last validation loss in nats per token: the NELBO, for an autoregressive model the
            exact loss; NaN unless finished.
        loss_stderr: Its standard error.
        flops_spent: Exact FLOPs of all attempts so far.
        tokens: Tokens processed along the path of the last model.
    """

    status: Literal["finished", "diverged", "hopeless", "interrupted"]
    loss: float
    loss_stderr: float
    flops_spent: float
    tokens: int


class _StopAsked(Exception):  # noqa: N818 - no error
    """A stop was asked for in the middle of a leg."""


class Attempt:
    """One attempt.

    Args:
        config: The trajectory.
        folder: Its own; what checkpoints earlier attempts left there is gone on with.
        metrics: Its record.
        corpus: The corpus that it reads.
        device, world: What it trains on.
    """

    def __init__(
        self,
        config: TrajectoryConfig,
        folder: Path,
        metrics: Metrics,
        corpus: TokenCorpus,
        device: str,
        world: World,
    ) -> None:
        self.config = config
        self.folder = folder
        self.metrics = metrics
        self.corpus = corpus
        self.device = device
        self.world = world
        self.checkpoints = folder / "checkpoints"
        begun = time.monotonic()
        windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
        sharded = world.agree(lambda: is_spread(config, device, world.size))
        self.mesh = world.mesh(device) if sharded else None
        micro_batches = self._micro_batches(world.size if sharded else 1)
        self.trainer = Trainer(config, windows, device, world, sharded, micro_batches)
        self.trainer.compilation.cache = study_cache(folder)
        self.legs = config.legs
        self.leg = 0
        self.passing = Passing(config, device)
        self.hopeless: Hopeless | None = None
        self.observed = metrics.of_kind("observation")
        self.aside: Aside | None = None
        latest = world.agree(lambda: latest_checkpoint(self.checkpoints))
        if latest is not None:
            self._load(latest)
        self.telemetry = Telemetry(config, device, world.size)
        self.standing = Standing(self.trainer, metrics, self.telemetry, begun)
        self.saved_at = time.monotonic()

    @property
    def position(self) -> int:
        """Steps of the whole path that lie behind: of the legs before this one, whether this
        attempt trained them or not, and of this leg."""
        before = sum(leg.steps for leg in self.legs[: self.leg])
        return before + self.trainer.step - self.legs[self.leg].first

    def _micro_batches(self, shards: int) -> MicroBatches:
        """Return how the batch is cut: as at the end of an earlier attempt, if there was one."""
        earlier, attempt = None, self.metrics.attempts + 1
        if attempt > 1:
            rows = self.metrics.of_kind("micro_batch")
            whole = MicroBatch(self.config.training.batch_sequences // self.world.size)
            earlier = recorded(rows[-1]) if rows else whole
        label = {"trajectory": self.config.id, "attempt": attempt}
        return MicroBatches(
            self.config,
            self.device,
            self.world,
            shards=shards,
            notes=Notes(self.folder.parent / NOTES_FILE),
            earlier=earlier,
            report=lambda row: self.metrics.append({**row, **label}),
        )

    def go(self, should_stop: Callable[[], bool]) -> Outcome:
        """Train leg after leg to the end, a stop or a divergence."""
        row: Row | None = None
        if self._past_minimum():
            return self._end_early()
        for number in range(self.leg, len(self.legs)):
            self.leg = number
            leg = self.legs[number]
            row = self._known(leg)
            if leg.branch and row is not None:
                self.metrics.repeat(row)
            else:
                if leg.branch and self.aside is None:
                    self.aside = set_aside(self.trainer)
                try:
                    reason = self._train(leg, should_stop)
                except _StopAsked:
                    return self._outcome("interrupted")
                if self.hopeless is not None:
                    return self._end("hopeless", self.hopeless.reason)
                if reason is None and leg.observed:
                    row, reason = self._observe(leg, row)
                if reason is not None and not leg.branch:
                    return self._end("diverged", reason)
                if reason is not None:
                    self._lose(leg, reason)
            if self.aside is not None:
                take_up(self.trainer, self.aside)
                self.aside = None
            if leg.observed and leg is not self.legs[-1] and self._past_minimum():
                self._save_alone()
                return self._end_early()
        assert row is not None, "the last leg is observed"
        return self._end("finished", "", row["loss"], row["loss_stderr"])

    def _train(self, leg: Leg, should_stop: Callable[[], bool]) -> str | None:
        """Train to the end of a leg, or until it is hopeless; return why it diverged, or None."""
        trainer, training, world = self.trainer, self.config.training, self.world
        trainer.schedule = leg_schedule(self.config, leg)
        while trainer.step < leg.last:
            (stop,) = world.flags([world.first and should_stop()])
            if stop:
                self.standing.report(self.position)
                if self.position:
                    self._save()
                raise _StopAsked
            trainer.advance()
            self.standing.steps += 1
            if trainer.step % _CHECK_EVERY == 0 or trainer.step == leg.last:
                reason = world.agree(trainer.diverged)
                if reason is not None:
                    return reason
            if not leg.branch and self.passing.after(trainer.step, trainer.loss):
                self.hopeless = world.agree(self.passing.hopeless)
                if self.hopeless is not None:
                    self.standing.report(self.position)
                    return None
            now = time.monotonic()
            save = now - self.saved_at >= training.checkpoint_seconds
            report = save or now - self.standing.reported_at >= training.report_seconds
            save, report = world.flags([save, report])
            if report:
                self.standing.report(self.position)
            if save:
                self._save_alone()
        if leg.observed:
            self.standing.report(self.position)
        if leg is self.legs[-1]:
            self._save_alone()
        return None

    def _observe(self, leg: Leg, known: Row | None) -> tuple[Row | None, str | None]:
        """Measure the loss at a leg's end; return the observation, or why there is none."""
        if known is not None:
            self.metrics.repeat(known)
            return known, None
        row = observed_row(self.config, leg)
        with self.telemetry.timed("evaluation"):
            row = evaluate(self.trainer, self.corpus, self.folder, row)
        self.standing.evaluations += 1
        if not math.isfinite(row["loss"]):
            return None, "the validation loss is not finite"
        row["train_loss"] = finite(self.trainer.smoothed_loss.item())
        if self.config.tokens > self.config.unique_tokens:
            row |= self.world.agree(lambda: paired_error(self.folder, row, self.observed))
        row |= self.standing.row(self.position) | {"device": self.device}
        self.metrics.append(row, durable=True)
        self.observed.append(row)
        return row, None

    def _lose(self, leg: Leg, reason: str) -> None:
        """Record that a branch diverged: this observation has no loss, and the trunk goes on."""
        row = observed_row(self.config, leg) | {"status": "diverged", "reason": reason}
        self.metrics.append(row | {"loss": None} | self.standing.row(self.position), durable=True)

    def _past_minimum(self) -> bool:
        """Return whether its own observations say that it may end; the same on every resume."""
        rule = self.config.early_end
        return rule is not None and past_minimum(
            *curve_of(self.observed),
            margin=rule.margin,
            deviations=rule.deviations,
            points=rule.points,
        )

    def _end_early(self) -> Outcome:
        last = self.observed[-1]
        return self._end("finished", PAST_MINIMUM, last["loss"], last["loss_stderr"])

    def _known(self, leg: Leg) -> Row | None:
        """Return what an earlier attempt observed at the end of `leg`, if it did."""
        if not leg.observed:
            return None
        name = observed_row(self.config, leg)["observation"]
        rows = self.metrics.of_kind("observation")
        return next((row for row in rows if row["observation"] == name), None)

    def _save(self) -> Path:
        state = self.trainer.state_dict() | {"leg": self.leg}
        if self.config.promise is not None:
            state["passing"] = self.passing.state_dict()
        if self.aside is not None:
            state["trunk"] = {"parameters": self.aside.parameters, "state": self.aside.state}
        self.saved_at = time.monotonic()
        processed = self.position * self.config.batch_tokens
        parameters = self.trainer.model.state_dict()
        return save_checkpoint(self.checkpoints, processed, parameters, state, self.world)

    def _save_alone(self) -> None:
        """Save, and delete what was saved before."""
        with self.telemetry.timed("checkpoint"):
            saved = self._save()
        self.world.agree(lambda: keep_only(self.checkpoints, saved))

    def _load(self, checkpoint: Path) -> None:
        parameters, state = load_checkpoint(checkpoint, self.device, self.mesh)
        self.leg = state.pop("leg", 0)
        trunk = state.pop("trunk", None)
        self.aside = None if trunk is None else Aside(**trunk)
        if self.config.promise is not None:
            self.passing.load_state_dict(state.pop("passing"))
        self.trainer.load_state_dict(parameters, state)

    def _end(
        self,
        status: Literal["finished", "diverged", "hopeless"],
        reason: str,
        loss: float = math.nan,
        loss_stderr: float = math.nan,
    ) -> Outcome:
        row = {
            "kind": "ended",
            "trajectory": self.config.id,
            "status": status,
            "tokens": self.trainer.tokens,
            "reason": reason,
            **self.standing.row(self.position),
        }
        if self.config.promise is not None:
            row["passed"] = [finite(loss) for loss in self.passing.losses]
        if self.hopeless is not None:
            row["excess"] = self.hopeless.excess
        self.metrics.append(row, durable=True)
        return self._outcome(status, loss, loss_stderr)

    def _outcome(
        self,
        status: Literal["finished", "diverged", "hopeless", "interrupted"],
        loss: float = math.nan,
        loss_stderr: float = math.nan,
    ) -> Outcome:
        return Outcome(status, loss, loss_stderr, self.standing.spent, self.trainer.tokens)
