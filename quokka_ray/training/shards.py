"""Tensors that are sharded over ranks, on disk: safetensors files of a rank's rows each.

Written and read through torch.distributed.checkpoint, whose plans let a world of any size, or a
process by itself, read what another one wrote. Its own file format keeps metadata as a pickle,
which could run code when a stranger's checkpoint is opened; the safetensors one does not.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor import empty as empty_dtensor

from quokka_ray.training.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_MARK = "shard:"
"""Stands, before a tensor's name, in the place of a tensor that lies in the shards."""


def take_out(tree: Any, path: str = "") -> tuple[Any, dict[str, DTensor]]:
    """Return a state with names in the places of its sharded tensors, and these by their names."""
    if isinstance(tree, DTensor):
        return _MARK + path, {path: tree}
    if not isinstance(tree, dict | list):
        return tree, {}
    taken: dict[str, DTensor] = {}
    left: list[tuple[Any, Any]] = []
    for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
        rest, tensors = take_out(child, f"{path}.{key}" if path else str(key))
        taken |= tensors
        left.append((key, rest))
    return (dict(left) if isinstance(tree, dict) else [rest for _, rest in left]), taken


def put_back(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a state with its sharded tensors back in their places."""
    if isinstance(tree, dict):
        return {key: put_back(child, tensors) for key, child in tree.items()}
    if isinstance(tree, list):
        return [put_back(child, tensors) for child in tree]
    if isinstance(tree, str) and tree.startswith(_MARK):
        return tensors[tree.removeprefix(_MARK)]
    return tree


def spread(tree: Any, mesh: "DeviceMesh") -> Any:
    """Return a state of one process spread over the ranks of `mesh`.

    Tensors with rows are parameters, or have a parameter's shape; other ones stay as they are.
    """
    if isinstance(tree, dict):
        return {key: spread(child, mesh) for key, child in tree.items()}
    if isinstance(tree, list):
        return [spread(child, mesh) for child in tree]
    if isinstance(tree, Tensor) and tree.ndim:
        # Every rank has the whole tensor and takes its rows: nothing is sent.
        return distribute_tensor(tree, mesh, [Shard(0)], src_data_rank=None)
    return tree


def write_shards(folder: Path, tensors: dict[str, DTensor], world: World) -> None:
    """Write sharded tensors, every rank its rows, flushed to the disk. All ranks call this."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dcp.save(dict(tensors), storage_writer=writer, process_group=world.host)


def read_shards(
    folder: Path,
    device: str,
    mesh: "DeviceMesh | None" = None,
    prefix: str = "",
) -> dict[str, Tensor]:
    """Read tensors that any world wrote.

    Args:
        folder: Where they are.
        device: Where whole tensors go.
        mesh: The ranks that each read their rows; None: whole tensors.
        prefix: What the names of those to read begin with.
    """
    reader = HuggingFaceStorageReader(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, meta in reader.read_metadata().state_dict_metadata.items():
        if not name.startswith(prefix):
            continue
        size, dtype = meta.size, meta.properties.dtype  # type: ignore[union-attr]
        if mesh is None:
            tensors[name] = torch.empty(size, dtype=dtype, device=device)
        else:
            tensors[name] = empty_dtensor(
                size, dtype=dtype, device_mesh=mesh, placements=[Shard(0)]
            )
    # Each process plans for itself and reads what it needs.
    try:
        with warnings.catch_warnings():
            # It wonders at being called by a process that has no peers.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(dict(tensors), storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise RuntimeError(f"the shards in {folder} cannot be read: {error}") from error
    return tensors
