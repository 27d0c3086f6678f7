"""One model spread over the ranks of a world: FSDP2, each block and the rest by rows.

Parameters, gradients and optimiser state are then DTensors of which a rank holds its rows. A
block's parameters are gathered for its pass and dropped again; gradients are summed in float32 as
they are scattered, after every micro-batch, since holding them whole in between would take the
memory that sharding is for.

Parameters travel in float32 and are cast where they are used, as in one process: with weights
gathered in bfloat16 the residual stream and the norms would be rounded too, and a loss would
depend on how many devices it was trained on.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.training.sharded_muon import ShardedMuon
from quokka_ray.training.world import World

Result = TypeVar("Result")


class ShardedModel(nn.Module):
    """A model whose parameters are gathered while a function of it runs.

    Whatever uses parameters outside the blocks, such as the head, must run inside `forward`: that
    is where the embedding and the last norm are whole.
    """

    def __init__(self, model: DiffusionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[DiffusionTransformer], Result]) -> Result:
        """Return what `function` makes of the model; called by every rank alike."""
        return function(self.model)


def shard(model: DiffusionTransformer, world: World, device: str) -> ShardedModel:
    """Make the parameters of `model` DTensors over the ranks, and return what gathers them."""
    mesh = world.mesh(device)
    whole = ShardedModel(model)
    for unit in (*model.blocks, whole):
        fully_shard(unit, mesh=mesh)
        assert isinstance(unit, FSDPModule)
        # Losses are shares of one batch's loss: their gradients add up.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    return whole


def sharded_muon(world: World) -> Callable[..., ShardedMuon]:
    """Return what makes Muon for the parameters of a sharded model."""
    return partial(ShardedMuon, world=world)
