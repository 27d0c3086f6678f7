"""The trunk's state set aside while a branch cools down.

It is one copy of the parameters and of the optimisers' state: 12 bytes a parameter with AdamW in
float32, 8 with Muon, and there is never more than one. On a GPU it stays on the device while that
leaves as much again free, and goes to the host otherwise. Coming back, the values are written
into the tensors that are there: whoever holds these (a captured graph, a fused optimiser) goes on
with them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quokka_ray.training.loop import Trainer
from quokka_ray.training.world import is_sharded, local


@dataclass(frozen=True)
class Aside:
    """What a trunk goes on from.

    Attributes:
        parameters: As of the model's `state_dict`.
        state: As of `Trainer.state_dict`.
    """

    parameters: dict[str, Tensor]
    state: dict[str, Any]


def set_aside(trainer: Trainer) -> Aside:
    """Return a copy of all that the rest of a run depends on."""
    here = {"parameters": trainer.model.state_dict(), "state": trainer.state_dict()}
    place = _place(torch.device(trainer.device), here)

    def copied(tensor: Tensor) -> Tensor:
        # What is spread over ranks stays where its mesh is.
        there = tensor.device if is_sharded(tensor) else place
        return tensor.detach().to(there, copy=True)

    return Aside(**_map(copied, here))


@torch.no_grad()
def take_up(trainer: Trainer, aside: Aside) -> None:
    """Bring a trainer back, to the bit, to where `set_aside` saw it, or an earlier attempt did."""
    _overwrite(trainer.model.state_dict(), aside.parameters)
    _overwrite(trainer.state_dict(), aside.state)
    trainer.step = aside.state["step"]


def _place(device: torch.device, tree: Any) -> torch.device:
    if device.type != "cuda":
        return device
    size = 0

    def add(tensor: Tensor) -> Tensor:
        nonlocal size
        size += local(tensor).numel() * tensor.element_size()
        return tensor

    _map(add, tree)
    free, _ = torch.cuda.mem_get_info(device)
    # What torch keeps for itself and does not use can be had too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return device if free > 2 * size else torch.device("cpu")


def _map(function: Any, tree: Any) -> Any:
    """Return `tree` with `function` applied to its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(function, value) for value in tree)
    return tree


def _overwrite(into: Any, source: Any) -> None:
    """Copy every tensor of `source` into the one at its place in `into`."""
    if isinstance(into, Tensor):
        into.copy_(source)
    elif isinstance(into, dict):
        for key, value in into.items():
            _overwrite(value, source[key])
    elif isinstance(into, list | tuple):
        for mine, other in zip(into, source, strict=True):
            _overwrite(mine, other)
