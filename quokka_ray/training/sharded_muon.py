"""Muon for parameters that are sharded by rows: the update needs whole matrices.

Momentum and the parameters stay where they are. Updates are gathered some parameters at a time,
each rank orthogonalises its share of these matrices, and takes its own rows of all of them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from quokka_ray.training.optimizers import Muon, lying, orthogonalise
from quokka_ray.training.world import World, local

_NUMBERS_AT_ONCE = 1 << 26
"""Numbers of the whole updates that are held at once; one parameter may have more."""


class ShardedMuon(Muon):
    """`Muon`, with parameters that are DTensors on the ranks of `world`."""

    def __init__(self, *arguments: Any, world: World, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._world = world

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters from their gradients; called by every rank."""
        for group in self.param_groups:
            parameters, lr = group["params"], group["lr"]
            for p in parameters:
                if p not in self.state:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [local(self.state[p]["momentum"]) for p in parameters]
            gradients = [local(p.grad) for p in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = list(torch._foreach_lerp(gradients, momenta, group["momentum"]))
            if group["weight_decay"]:
                mine = [local(p) for p in parameters]
                torch._foreach_mul_(mine, 1 - lr * group["weight_decay"])
            for chunk in _chunks(parameters):
                self._add(parameters[chunk], updates[chunk], group["parts"][chunk], lr)

    def _add(
        self, parameters: list[DTensor], updates: list[Tensor], parts: list[int], lr: float
    ) -> None:
        """Move parameters by their orthogonalised updates, of which rows are given."""
        whole = [_gathered(u, p) for u, p in zip(updates, parameters, strict=True)]
        stack = torch.cat([lying(u, n) for u, n in zip(whole, parts, strict=True)])
        flat = self._together(stack)
        first = 0
        for parameter, n in zip(parameters, parts, strict=True):
            rows, columns = parameter.shape[0] // n, parameter.shape[1]
            update = flat[first : first + n]
            update = update.mT if rows > columns else update
            scale = max(1.0, rows / columns) ** 0.5
            mine = local(parameter)
            # Rows are shared in chunks of one size, the last ones shorter or empty.
            begin = self._world.rank * -(-parameter.shape[0] // self._world.size)
            taken = update.reshape(n * rows, columns)[begin : begin + mine.shape[0]]
            mine.add_(taken, alpha=-lr * scale)
            first += n

    def _together(self, stack: Tensor) -> Tensor:
        """Return a stack orthogonalised, each rank having done its share of the matrices."""
        size, rank = self._world.size, self._world.rank
        each = -(-len(stack) // size)
        share = stack.new_zeros(each, *stack.shape[1:])
        own = stack[rank * each : (rank + 1) * each]
        share[: len(own)] = own
        return self._world.gather(orthogonalise(share)).flatten(0, 1)[: len(stack)]


def _gathered(rows: Tensor, like: nn.Parameter | DTensor) -> Tensor:
    """Return the whole of what is sharded as a parameter is, from this rank's rows."""
    assert isinstance(like, DTensor)
    whole = DTensor.from_local(
        rows,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return whole.redistribute(placements=[Replicate()]).to_local()


def _chunks(parameters: list[Any]) -> Iterator[slice]:
    """Yield neighbours that together have no more numbers than may be held at once."""
    begin, numbers = 0, 0
    for index, parameter in enumerate(parameters):
        if index > begin and numbers + parameter.numel() > _NUMBERS_AT_ONCE:
            yield slice(begin, index)
            begin, numbers = index, 0
        numbers += parameter.numel()
    yield slice(begin, len(parameters))
