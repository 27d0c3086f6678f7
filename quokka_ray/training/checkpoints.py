"""Checkpoints that exist whole or not at all.

    <folder>/<tokens>/model.safetensors    parameters
                      state.pt             optimisers and counters; tensors and numbers only; in
                                           a branch also the trunk's parameters and optimisers
                      COMPLETE             written last: without it the checkpoint does not exist

<tokens> counts all that was processed, branches to earlier observations included, and so it rises.
A checkpoint is written beside its place, flushed to the disk, and renamed into it.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quokka_ray.training.world import ALONE, World

MARK = "COMPLETE"


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
        world: The ranks that hold the same; rank 0 writes, and all return once it has.
    """
    return world.agree(lambda: _write(folder, tokens, model, state))


def _write(folder: Path, tokens: int, model: dict[str, Tensor], state: dict[str, Any]) -> Path:
    target = folder / str(tokens)
    if (target / MARK).exists():
        return target
    draft = folder / f".{tokens}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.items()}, draft / "model.safetensors")
    torch.save(state, draft / "state.pt")
    for name in ("model.safetensors", "state.pt"):
        _flush(draft / name)
    (draft / MARK).touch()
    _flush(draft / MARK)
    _flush(draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    _flush(folder)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the complete checkpoint of most tokens, or None."""
    if not folder.is_dir():
        return None
    complete = [p for p in folder.iterdir() if p.name.isdigit() and (p / MARK).exists()]
    return max(complete, key=lambda p: int(p.name), default=None)


def load_checkpoint(path: Path, device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (parameters, state) of a checkpoint. Nothing in it can run code."""
    state = torch.load(path / "state.pt", map_location=device, weights_only=True)
    return load_file(path / "model.safetensors", device=device), state


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
