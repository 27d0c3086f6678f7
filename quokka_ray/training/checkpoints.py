"""Checkpoints that exist whole or not at all.

    <folder>/<tokens>/model.safetensors    parameters
                      state.pt             optimisers and counters; tensors and numbers only; in
                                           a branch also the trunk's parameters and optimisers
                      COMPLETE             written last: without it the checkpoint does not exist

<tokens> counts all that was processed, branches to earlier observations included, and so it rises.
Of a model that is spread over ranks, `shards/` has each rank's rows of parameters and optimisers
(`shards.py`) in place of model.safetensors; a world of any size reads either. A checkpoint is
written beside its place, flushed to the disk, and renamed into it.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quokka_ray.training.world import ALONE, World, is_sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MARK, PARAMETERS, SHARDS = "COMPLETE", "model.safetensors", "shards"


def save_checkpoint(
    folder: Path,
    tokens: int,
    model: dict[str, Tensor],
    state: dict[str, Any],
    world: World = ALONE,
) -> Path:
    """Write a checkpoint and return its path; a complete one of the same `tokens` stands.

    Args:
        folder: Where a run's checkpoints are.
        tokens: Tokens processed.
        model: Parameters by name.
        state: Whatever else the run depends on: tensors, numbers, lists and dictionaries.
        world: The ranks that train together, all of which call this. Where they hold the same,
            rank 0 writes it; of what is sharded each writes its own. All return once the mark is.
    """
    target, draft = folder / str(tokens), folder / f".{tokens}.draft"
    if world.agree((target / MARK).exists):
        return target
    world.agree(lambda: _begin(draft))
    if any(map(is_sharded, model.values())):
        from quokka_ray.training.shards import take_out, write_shards

        whole, tensors = take_out({"model": model, "state": state})
        write_shards(draft / SHARDS, tensors, world)
        world.agree(lambda: _write(draft, None, whole))
    else:
        world.agree(lambda: _write(draft, model, state))
    world.agree(lambda: _publish(draft, target))
    return target


def _begin(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)


def _write(draft: Path, model: dict[str, Tensor] | None, state: dict[str, Any]) -> None:
    if model is not None:
        save_file({k: v.contiguous() for k, v in model.items()}, draft / PARAMETERS)
        _flush(draft / PARAMETERS)
    torch.save(state, draft / "state.pt")
    _flush(draft / "state.pt")


def _publish(draft: Path, target: Path) -> None:
    (draft / MARK).touch()
    _flush(draft / MARK)
    _flush(draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    _flush(target.parent)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint of most tokens, or None."""
    if not folder.is_dir():
        return None
    complete = [p for p in folder.iterdir() if p.name.isdigit() and (p / MARK).exists()]
    return max(complete, key=lambda p: int(p.name), default=None)


def load_checkpoint(
    path: Path, device: str, mesh: "DeviceMesh | None" = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (parameters, state) of a checkpoint. Nothing in it can run code.

    Args:
        path: The checkpoint, written by a world of any size.
        device: Where whole tensors go.
        mesh: The ranks of a sharded model: each then reads its part of what was sharded.
    """
    state = torch.load(path / "state.pt", map_location=device, weights_only=True)
    if not (path / SHARDS).is_dir():
        parameters = load_file(path / PARAMETERS, device=device)
        if mesh is None:
            return parameters, state
        from quokka_ray.training.shards import spread

        return spread(parameters, mesh), spread(state, mesh)
    from quokka_ray.training.shards import put_back, read_shards

    whole = put_back(state, read_shards(path / SHARDS, device, mesh))
    return whole["model"], whole["state"]


def load_parameters(path: Path) -> dict[str, Tensor]:
    """Return the parameters of a checkpoint, whole, on the CPU."""
    if not (path / SHARDS).is_dir():
        return load_file(path / PARAMETERS)
    from quokka_ray.training.shards import read_shards

    tensors = read_shards(path / SHARDS, "cpu", prefix="model.")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def keep_only(folder: Path, kept: Path) -> None:
    """Delete every other checkpoint and every draft in `folder`."""
    for path in folder.iterdir():
        if path != kept and path.is_dir() and (path.name.isdigit() or path.suffix == ".draft"):
            # Unmarked first, so that a kill in mid-deletion leaves no checkpoint with holes.
            (path / MARK).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
