"""Where an attempt stands: what it and those before it have spent, and the rows that say so."""

import time

from quokka_ray.model.counts import evaluation_flops, training_flops
from quokka_ray.training.loop import Trainer
from quokka_ray.training.metrics import Metrics, Row
from quokka_ray.training.observing import finite
from quokka_ray.training.telemetry import Telemetry


class Standing:
    """The account of one attempt.

    Args:
        trainer: What it trains with.
        metrics: The trajectory's record, which knows what earlier attempts have spent.
        telemetry: Its clocks.
        begun: When it began, by `time.monotonic`.

    Attributes:
        attempt: Its number, from 1.
        steps: Optimiser steps that it has taken.
        evaluations: Evaluations that it has made.
        reported_at: When it last reported its progress, by `time.monotonic`.
    """

    def __init__(
        self, trainer: Trainer, metrics: Metrics, telemetry: Telemetry, begun: float
    ) -> None:
        self._trainer = trainer
        self._metrics = metrics
        self._telemetry = telemetry
        self._begun = begun
        self.attempt = metrics.attempts + 1
        self.steps = 0
        self.evaluations = 0
        self.reported_at = time.monotonic()
        self._reported_steps = 0

    @property
    def spent(self) -> float:
        """Exact FLOPs of all attempts: what earlier ones reported, and what this one did."""
        config = self._trainer.config
        args = (config.shape, config.model, config.vocab_size)
        done = training_flops(*args, self.steps * config.batch_tokens, config.diffusion)
        each = evaluation_flops(*args, config.evaluation, config.diffusion)
        return self._metrics.spent + done + self.evaluations * each

    def row(self, position: int) -> Row:
        """Return what every row says.

        Args:
            position: Steps of the whole path that lie behind.
        """
        trainer = self._trainer
        return {
            "attempt": self.attempt,
            "processed_tokens": position * trainer.config.batch_tokens,
            "flops_spent": self.spent,
            "device_seconds": self._seconds(),
            "data_seconds": trainer.feed.seconds,
            "mode": trainer.compilation.mode,
            **self._telemetry.standing(),
        }

    def report(self, position: int) -> None:
        """Write a row of progress; `position` as that of `row`."""
        trainer = self._trainer
        config = trainer.config
        speed = self._telemetry.speed(self.steps - self._reported_steps)
        self._metrics.append(
            {
                "kind": "progress",
                "trajectory": config.id,
                "tokens": trainer.tokens,
                "flops": 6.0 * config.params * trainer.tokens,
                "train_loss": finite(trainer.smoothed_loss.item()),
                "lr": config.lr * trainer.schedule(max(0, trainer.step - 1)),
                "grad_norm": finite(trainer.grad_norm.item()),
                **speed,
                **self.row(position),
            }
        )
        self.reported_at, self._reported_steps = time.monotonic(), self.steps
        self._telemetry.lap()

    def _seconds(self) -> float:
        """Seconds of all devices and all attempts."""
        elapsed = time.monotonic() - self._begun
        return self._metrics.device_seconds + self._trainer.world.size * elapsed
