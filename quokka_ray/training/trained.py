"""A trained model and its tokenizer, rebuilt from what a run leaves in its folder.

    <run>/config.json          the run's configuration
          tokenizer.json       its tokenizer, unless that is bytes
          checkpoints/<tokens>/     <tokens>: all that was processed, branches included

A checkpoint that was copied elsewhere is read too, with `config.json` (and `tokenizer.json`)
beside its own files.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError

from quokka_ray.corpus.tokenizers import JsonTokenizer, Tokenizer, known_by_identity
from quokka_ray.errors import ConfigurationError
from quokka_ray.model.transformer import DiffusionTransformer, build_model
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.checkpoints import (
    MARK,
    PARAMETERS,
    SHARDS,
    latest_checkpoint,
    load_parameters,
)

_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"


class Trained(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        model: float32, on the device asked for, in evaluation mode.
        tokenizer: The one that it was trained with.
        config: The run that it is from.
    """

    model: DiffusionTransformer
    tokenizer: Tokenizer
    config: TrajectoryConfig


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder is a checkpoint, whole or not."""
    held = (path / PARAMETERS).is_file() or (path / SHARDS).is_dir()
    return held or path.parent.name == "checkpoints"


def last_checkpoint(run: Path) -> Path:
    """Return the last whole checkpoint of a run's folder.

    Raises:
        ConfigurationError: There is none.
    """
    checkpoint = latest_checkpoint(run / "checkpoints")
    if checkpoint is None:
        raise ConfigurationError(
            f"{run} has no complete checkpoint; a run writes one every "
            "training.checkpoint_seconds and at its end"
        )
    return checkpoint


def load_model(checkpoint: Path, device: str = "cpu") -> Trained:
    """Load a checkpoint.

    Args:
        checkpoint: Its folder.
        device: Where the model goes.

    Raises:
        ConfigurationError: The folder is no whole checkpoint; the run's configuration or its
            tokenizer is missing or another one; the parameters are not this model's.
    """
    if not (checkpoint / MARK).is_file():
        raise ConfigurationError(
            f"{checkpoint} is no complete checkpoint: {MARK}, which is written last, is missing; "
            "take another checkpoint, or go on with the run that was writing it"
        )
    places = [checkpoint, *list(checkpoint.absolute().parents)[:2]]
    config = _config(checkpoint, places)
    tokenizer = _tokenizer(config, [*places, config.corpus])
    model = build_model(config)
    try:
        model.load_state_dict(load_parameters(checkpoint))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{checkpoint} does not hold the model of {config.id}: {reason}"
        ) from None
    return Trained(model.to(device).eval(), tokenizer, config)


def keep_tokenizer(corpus: Path, run: Path) -> None:
    """Copy a corpus's tokenizer into a run's folder, once, so that the run outlives the corpus."""
    source, target = corpus / _TOKENIZER, run / _TOKENIZER
    if source.exists() and not target.exists():
        draft = target.with_suffix(".draft")
        draft.write_bytes(source.read_bytes())
        draft.replace(target)


def _config(checkpoint: Path, places: list[Path]) -> TrajectoryConfig:
    path = next((place / _CONFIG for place in places if (place / _CONFIG).is_file()), None)
    if path is None:
        raise ConfigurationError(
            f"{checkpoint} has no {_CONFIG}, neither beside it nor in its run's folder; "
            "copy the run's there"
        )
    try:
        return TrajectoryConfig.model_validate_json(path.read_text("utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigurationError(
            f"{path} is no run's configuration: {where}: {first['msg']}"
        ) from None


def _tokenizer(config: TrajectoryConfig, places: list[Path]) -> Tokenizer:
    known = known_by_identity(config.tokenizer)
    if known is not None:
        return known
    found = [place / _TOKENIZER for place in places if (place / _TOKENIZER).is_file()]
    for path in found:
        tokenizer = JsonTokenizer(path)
        if tokenizer.id == config.tokenizer:
            return tokenizer
    others = f"; {', '.join(map(str, found))} is another one" if found else ""
    raise ConfigurationError(
        f"the tokenizer {config.tokenizer} of {config.id} is not to be found{others}: put the "
        f"{_TOKENIZER} that the corpus was prepared with beside the run's {_CONFIG}"
    )
