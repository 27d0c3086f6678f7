"""One trajectory from its configuration to its observations, through stops and kills."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from quokka_ray.corpus.remote import open_corpus
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.allocator import keep_freed_memory
from quokka_ray.training.attempt import Attempt, Outcome
from quokka_ray.training.checks import check, check_corpus, write_config
from quokka_ray.training.metrics import Metrics, Row
from quokka_ray.training.precision import fix_float32_products
from quokka_ray.training.trained import keep_tokenizer
from quokka_ray.training.world import ALONE, World


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
    """Train one trajectory and evaluate it at its points, or go on with what `folder` holds of it.

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
    corpus = open_corpus(config.corpus, config.corpus_store)
    check_corpus(config, corpus)
    if config.mixture is not None:
        corpus = corpus.reweighted(tuple(config.mixture.values()))
    torch.set_num_threads(threads)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    fix_float32_products()
    world.agree(lambda: _take(folder, config))
    metrics = Metrics(folder / "metrics.jsonl", report, world)
    try:
        ended = metrics.of_kind("ended")
        if ended:
            return _repeat(metrics, ended[-1])
        attempt = Attempt(config, folder, metrics, corpus, device, world)
        try:
            return attempt.go(should_stop)
        finally:
            attempt.trainer.close()
    finally:
        metrics.close()


def _take(folder: Path, config: TrajectoryConfig) -> None:
    """Make `folder` this run's, or raise if it is another's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder / "config.json")
    keep_tokenizer(config.corpus, folder)


def _repeat(metrics: Metrics, ended: Row) -> Outcome:
    """Report again what a trajectory that has ended left in its record."""
    observations = metrics.of_kind("observation")
    for row in [*observations, ended]:
        metrics.repeat(row)
    finished = ended["status"] == "finished"
    last = observations[-1] if finished else {"loss": math.nan, "loss_stderr": math.nan}
    return Outcome(
        ended["status"], last["loss"], last["loss_stderr"], ended["flops_spent"], ended["tokens"]
    )
