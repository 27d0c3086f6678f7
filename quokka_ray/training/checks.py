"""What is refused before a run touches its folder."""

from pathlib import Path
from typing import Any

import torch

from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.model.counts import count_params
from quokka_ray.study.config import fit_to_kernel
from quokka_ray.study.path import path_problem
from quokka_ray.study.trajectory import TrajectoryConfig


def check(config: TrajectoryConfig, device: str, workers: int = 1) -> None:
    """Raise if a configuration contradicts itself, or asks for a device that is not there or for
    a batch that its workers cannot share."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise MachineError(f"device {device!r} was asked for, but torch sees no GPU; use cpu")
    if config.training.batch_sequences % workers:
        raise ConfigurationError(
            f"trajectory {config.id}: a batch of {config.training.batch_sequences} sequences "
            f"cannot be shared by {workers} workers; make training.batch_sequences a multiple of "
            "resources.workers_per_trial"
        )
    if config.tokens % config.batch_tokens:
        raise ConfigurationError(
            f"trajectory {config.id}: {config.tokens} tokens are no whole number of steps of "
            f"{config.batch_tokens}; round them to a multiple"
        )
    _check_points(config)
    try:
        fitted = fit_to_kernel(config.model, config.diffusion)
    except ValueError as error:
        raise ConfigurationError(f"trajectory {config.id}: {error}") from None
    if fitted != config.model:
        raise ConfigurationError(
            f"trajectory {config.id}: the model is not decided for kernel "
            f"{config.diffusion.kernel!r}; make it with quokka_ray.study.config.fit_to_kernel"
        )
    counted = count_params(config.shape, config.model, config.vocab_size)
    if counted != config.params:
        raise ConfigurationError(
            f"trajectory {config.id} says {config.params} parameters, but its shape has "
            f"{counted}; count them with quokka_ray.model.counts"
        )


def _check_points(config: TrajectoryConfig) -> None:
    """Raise if a trajectory cannot be observed where it is to be."""
    batch = config.batch_tokens
    odd = [point for point in config.points if point % batch]
    if odd:
        problem: str | None = (
            f"it is observed at {odd[0]} tokens, no whole number of steps of {batch}; round that "
            "to a multiple"
        )
    else:
        steps = [point // batch for point in config.points]
        problem = path_problem(steps, config.lr_schedule, config.training)
    if problem is None and config.earlier_points and config.diffusion.curriculum != "none":
        problem = (
            "a curriculum follows the length of a run, and runs to several token counts share no "
            "trunk under it; leave diffusion.curriculum out, or observe once"
        )
    if problem is not None:
        raise ConfigurationError(f"trajectory {config.id}: {problem}")


def check_corpus(config: TrajectoryConfig, corpus: TokenCorpus) -> None:
    """Raise if a configuration was made for another corpus."""
    for what, wanted, found in (
        ("hash", config.corpus_hash, corpus.hash),
        ("tokenizer", config.tokenizer, corpus.tokenizer_id),
        ("vocabulary size", config.vocab_size, corpus.vocab_size),
    ):
        if wanted != found:
            raise ConfigurationError(
                f"trajectory {config.id} was planned for a corpus of {what} {wanted}, but "
                f"{config.corpus} has {found}; prepare that corpus again or start a new study"
            )


def write_config(config: TrajectoryConfig, path: Path) -> None:
    """Write `config.json`, or raise if the folder holds another run's."""
    text = config.model_dump_json(indent=2) + "\n"
    if path.exists():
        if _identity(TrajectoryConfig.model_validate_json(path.read_text("utf-8"))) != _identity(
            config
        ):
            raise ConfigurationError(
                f"{path} belongs to another run; give this one a folder of its own"
            )
        return
    draft = path.with_suffix(".draft")
    draft.write_text(text, "utf-8")
    draft.replace(path)


def _identity(config: TrajectoryConfig) -> dict[str, Any]:
    """Return what decides a run's result: not where its corpus or its parameters lie, nor how
    often it writes."""
    free = {"checkpoint_seconds", "report_seconds", "sharding"}
    hidden: Any = {"corpus": True, "corpus_store": True, "training": free}
    return config.model_dump(exclude=hidden)
