"""One observation of a model: its validation loss, and the row that says so."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.corpus.tokenizers import text_bytes
from quokka_ray.diffusion.likelihood import evaluator_id, paired_stderr, validation_loss
from quokka_ray.study.path import Leg
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.fused_step import FusedDenoiser
from quokka_ray.training.loop import Trainer
from quokka_ray.training.lr_schedules import is_cooled
from quokka_ray.training.metrics import Row


def observed_row(config: TrajectoryConfig, leg: Leg) -> Row:
    """Return what a row says of the observation at a leg's end before its loss is known."""
    cooled = is_cooled(config.lr_schedule, config.training)
    tokens = leg.last * config.batch_tokens
    return {
        "kind": "observation",
        "trajectory": config.id,
        "observation": f"{config.id}@{tokens}" + ("+cooldown" if cooled else ""),
        "cooled": cooled,
        "parent": config.id if leg.branch else None,
        "tokens": tokens,
        "flops": 6.0 * config.params * tokens,
    }


def evaluate(trainer: Trainer, corpus: TokenCorpus, folder: Path, row: Row) -> Row:
    """Return `row` with the validation loss of a trainer's model; every rank calls this.

    Each sequence's loss goes to `folder`/evaluations/<tokens>.npy, for comparisons with runs that
    share the sequences.
    """
    config, world = trainer.config, trainer.world
    evaluation, seq_len = config.evaluation, config.model.seq_len
    windows = corpus.validation_windows(seq_len, evaluation.sequences, evaluation.seed)
    with trainer.compilation.paused():
        result = trainer.apply(
            lambda model: validation_loss(
                model if trainer.fused is None else FusedDenoiser(model, trainer.fused),
                windows,
                evaluation,
                config.vocab_size,
                trainer.device,
                config.diffusion,
                world if world.size > 1 else None,
            )
        )

    def keep() -> None:
        paired = folder / "evaluations" / f"{row['tokens']}.npy"
        paired.parent.mkdir(exist_ok=True)
        np.save(paired, result.per_sequence)

    world.agree(keep)
    return {
        **row,
        "loss": result.loss,
        "loss_stderr": result.stderr,
        "evaluator": evaluator_id(
            corpus.validation_hash, config.tokenizer, seq_len, evaluation, config.diffusion
        ),
        "perplexity": finite(result.perplexity),
        "bits_per_byte": finite(
            result.bits_per_byte(windows.size, text_bytes(corpus.tokenizer(), windows))
        ),
    }


def paired_error(folder: Path, row: Row, earlier: Sequence[Row]) -> Row:
    """Return the standard error of a loss less the trajectory's lowest before it, as a cell.

    Both were evaluated on the same sequences under the same noise, which `evaluate` left in
    `folder`; the error is None for a first observation, and where an earlier one lacks its file.
    """
    known = [other for other in earlier if other["loss"] is not None]
    if not known:
        return {"loss_stderr_paired": None}
    lowest = min(known, key=lambda other: float(other["loss"]))
    paths = [folder / "evaluations" / f"{one['tokens']}.npy" for one in (row, lowest)]
    if not all(path.exists() for path in paths):
        return {"loss_stderr_paired": None}
    return {"loss_stderr_paired": finite(paired_stderr(*(np.load(path) for path in paths)))}


def finite(value: float) -> float | None:
    """Return None for what JSON has no number for."""
    return value if math.isfinite(value) else None
