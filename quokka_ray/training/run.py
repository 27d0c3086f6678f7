"""One trajectory from its configuration to its observation, through stops and kills.

The order of writes makes every kill harmless: a progress row precedes each checkpoint, the last
checkpoint precedes the observation, the observation precedes `ended`. Whatever is missing on
resume is done again, and whatever is there is not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.corpus.tokenizers import text_bytes
from quokka_ray.diffusion.likelihood import evaluator_id, validation_loss
from quokka_ray.model.counts import evaluation_flops, training_flops
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.allocator import keep_freed_memory
from quokka_ray.training.checkpoints import (
    keep_only,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from quokka_ray.training.checks import check, check_corpus, write_config
from quokka_ray.training.loop import Trainer
from quokka_ray.training.lr_schedules import is_cooled
from quokka_ray.training.metrics import Metrics, Row
from quokka_ray.training.trained import keep_tokenizer
from quokka_ray.training.world import ALONE, World

_CHECK_EVERY = 32
"""Steps between checks for divergence; fixed, so that a repeated run ends at the same step."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
        status: `interrupted` is resumable; the others are final.
        loss: Validation loss in nats per token: the NELBO, for an autoregressive model the exact
            loss; NaN unless finished.
        loss_stderr: Its standard error.
        flops_spent: Exact FLOPs of all attempts so far.
        tokens: Tokens processed.
    """

    status: Literal["finished", "diverged", "interrupted"]
    loss: float
    loss_stderr: float
    flops_spent: float
    tokens: int


def train(
    config: TrajectoryConfig,
    folder: Path,
    *,
    report: Callable[[Row], None],
    should_stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
    threads: int = 1,
    world: World = ALONE,
) -> Outcome:
    """Train and evaluate one trajectory, or go on with what `folder` holds of it.

    Args:
        config: The trajectory.
        folder: Where `config.json`, `metrics.jsonl` and `checkpoints/` live.
        report: Called with every row after it is in `metrics.jsonl`. What it raises ends the call
            like a kill does: the next call resumes from the last checkpoint.
        should_stop: Polled before every step; true: checkpoint and return `interrupted`.
        device: `cpu`, `cuda`, `cuda:1`.
        threads: Torch threads.
        world: The ranks that train it together, all of which call this with equal arguments.
            Rank 0 polls `should_stop`, writes the record and reports.

    Raises:
        ConfigurationError: The configuration contradicts itself, the corpus or the folder.
        MachineError: There is no such device.
    """
    check(config, device, world.size)
    corpus = TokenCorpus.open(config.corpus)
    check_corpus(config, corpus)
    torch.set_num_threads(threads)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    world.agree(lambda: _take(folder, config))
    metrics = Metrics(folder / "metrics.jsonl", report, world)
    try:
        ended = metrics.of_kind("ended")
        if ended:
            return _repeat(metrics, ended[-1])
        return _Run(config, folder, metrics, corpus, device, world).go(should_stop)
    finally:
        metrics.close()


def _take(folder: Path, config: TrajectoryConfig) -> None:
    """Make `folder` this run's, or raise if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder / "config.json")
    keep_tokenizer(config.corpus, folder)


class _Run:
    """One attempt."""

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
        self.attempt = metrics.attempts + 1
        self.begun = time.monotonic()
        windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
        self.trainer = Trainer(config, windows, device, world)
        latest = world.agree(lambda: latest_checkpoint(self.checkpoints))
        if latest is not None:
            self.trainer.load_state_dict(*load_checkpoint(latest, device))
        self.first_step = self.trainer.step
        self.evaluated = 0.0

    @property
    def spent(self) -> float:
        """Exact FLOPs of all attempts: what earlier ones reported, and this one's steps."""
        config = self.config
        tokens = (self.trainer.step - self.first_step) * config.batch_tokens
        done = training_flops(
            config.shape, config.model, config.vocab_size, tokens, config.diffusion
        )
        return self.metrics.spent + done + self.evaluated

    def go(self, should_stop: Callable[[], bool]) -> Outcome:
        """Train to the end, a stop or a divergence."""
        trainer, training, world = self.trainer, self.config.training, self.world
        reported_at = saved_at = time.monotonic()
        reported_tokens = trainer.tokens
        while trainer.step < self.config.steps:
            (stop,) = world.flags([world.first and should_stop()])
            if stop:
                self._progress(reported_at, reported_tokens)
                if trainer.step:
                    self._save()
                return self._outcome("interrupted")
            trainer.advance()
            if trainer.step % _CHECK_EVERY == 0 or trainer.step == self.config.steps:
                reason = world.agree(trainer.diverged)
                if reason is not None:
                    return self._end("diverged", reason)
            now = time.monotonic()
            save = now - saved_at >= training.checkpoint_seconds
            report = save or now - reported_at >= training.report_seconds
            save, report = world.flags([save, report])
            if report:
                self._progress(reported_at, reported_tokens)
                reported_at, reported_tokens = now, trainer.tokens
            if save:
                self._save_alone()
                saved_at = now
        self._progress(reported_at, reported_tokens)
        self._save_alone()
        return self._observe()

    def _observe(self) -> Outcome:
        known = [
            row
            for row in self.metrics.of_kind("observation")
            if row["tokens"] == self.config.tokens
        ]
        if known:
            row = known[-1]
            self.metrics.repeat(row)
        else:
            row = self._evaluate()
            if not math.isfinite(row["loss"]):
                return self._end("diverged", "the validation loss is not finite")
            self.metrics.append(row, durable=True)
        return self._end("finished", "", row["loss"], row["loss_stderr"])

    def _evaluate(self) -> Row:
        config, evaluation, model = self.config, self.config.evaluation, self.config.model
        windows = self.corpus.validation_windows(
            model.seq_len, evaluation.sequences, evaluation.seed
        )
        result = self.trainer.apply(
            lambda denoiser: validation_loss(
                denoiser,
                windows,
                evaluation,
                config.vocab_size,
                self.device,
                config.diffusion,
                self.world if self.world.size > 1 else None,
            )
        )
        self.evaluated = evaluation_flops(
            config.shape, model, config.vocab_size, evaluation, config.diffusion
        )
        cooled = is_cooled(config.lr_schedule, config.training)
        name = f"{config.id}@{config.tokens}" + ("+cooldown" if cooled else "")
        self.world.agree(lambda: self._keep(result.per_sequence))
        return {
            "kind": "observation",
            "trajectory": config.id,
            "attempt": self.attempt,
            "observation": name,
            "cooled": cooled,
            "tokens": config.tokens,
            "loss": result.loss,
            "loss_stderr": result.stderr,
            "evaluator": evaluator_id(
                self.corpus.validation_hash,
                config.tokenizer,
                model.seq_len,
                evaluation,
                config.diffusion,
            ),
            "train_loss": _finite(self.trainer.smoothed_loss.item()),
            "perplexity": _finite(result.perplexity),
            "bits_per_byte": result.bits_per_byte(
                windows.size, text_bytes(self.corpus.tokenizer(), windows)
            ),
            "flops": config.flops,
            "flops_spent": self.spent,
            "device_seconds": self._seconds(),
            "device": self.device,
        }

    def _keep(self, per_sequence: np.ndarray) -> None:
        """Write each sequence's loss, for comparisons with runs that share the sequences."""
        paired = self.folder / "evaluations" / f"{self.config.tokens}.npy"
        paired.parent.mkdir(exist_ok=True)
        np.save(paired, per_sequence)

    def _progress(self, since: float, since_tokens: int) -> None:
        config, trainer = self.config, self.trainer
        rate = config.lr * trainer.schedule(max(0, trainer.step - 1))
        elapsed = max(1e-9, time.monotonic() - since)
        self.metrics.append(
            {
                "kind": "progress",
                "trajectory": config.id,
                "attempt": self.attempt,
                "tokens": trainer.tokens,
                "flops": 6.0 * config.params * trainer.tokens,
                "flops_spent": self.spent,
                "train_loss": _finite(trainer.smoothed_loss.item()),
                "lr": rate,
                "grad_norm": _finite(trainer.grad_norm.item()),
                "tokens_per_second": (trainer.tokens - since_tokens) / elapsed,
                "device_seconds": self._seconds(),
            }
        )

    def _save(self) -> Path:
        parameters = self.trainer.model.state_dict()
        state = self.trainer.state_dict()
        return save_checkpoint(
            self.checkpoints, self.trainer.tokens, parameters, state, self.world
        )

    def _save_alone(self) -> None:
        """Save, and delete what was saved before."""
        saved = self._save()
        self.world.agree(lambda: keep_only(self.checkpoints, saved))

    def _seconds(self) -> float:
        """Seconds of all devices and all attempts."""
        elapsed = time.monotonic() - self.begun
        return self.metrics.device_seconds + self.world.size * elapsed

    def _end(
        self,
        status: Literal["finished", "diverged"],
        reason: str,
        loss: float = math.nan,
        loss_stderr: float = math.nan,
    ) -> Outcome:
        row = {
            "kind": "ended",
            "trajectory": self.config.id,
            "attempt": self.attempt,
            "status": status,
            "tokens": self.trainer.tokens,
            "flops_spent": self.spent,
            "device_seconds": self._seconds(),
            "reason": reason,
        }
        self.metrics.append(row, durable=True)
        return self._outcome(status, loss, loss_stderr)

    def _outcome(
        self,
        status: Literal["finished", "diverged", "interrupted"],
        loss: float = math.nan,
        loss_stderr: float = math.nan,
    ) -> Outcome:
        return Outcome(status, loss, loss_stderr, self.spent, self.trainer.tokens)


def _repeat(metrics: Metrics, ended: Row) -> Outcome:
    """Report again what a trajectory that has ended left in its record."""
    observations = metrics.of_kind("observation")
    for row in [*observations, ended]:
        metrics.repeat(row)
    finished = ended["status"] == "finished" and observations
    last = observations[-1] if finished else {"loss": math.nan, "loss_stderr": math.nan}
    return Outcome(
        ended["status"], last["loss"], last["loss_stderr"], ended["flops_spent"], ended["tokens"]
    )


def _finite(value: float) -> float | None:
    """Return None for what JSON has no number for."""
    return value if math.isfinite(value) else None
