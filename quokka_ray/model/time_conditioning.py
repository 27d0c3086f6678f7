"""How a model is told the noise level, where the tokens do not tell it.

Under mask noise p(clean | noisy) does not depend on t, and the paper's model is not told it. A
uniformly noised token looks like any other, so there the amount of noise matters. Of the two
usual forms, a vector added to the embeddings and a scale and shift in every block, this is the
first: 2 products a sequence instead of 2 a block, and no more parameters than one attention
projection.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from quokka_ray.model.counts import TIME_FEATURES

_FASTEST = 1000.0
"""Angular frequencies run from 1 to this: t in [0, 1] is told apart to about a thousandth."""


def time_features(time: Tensor) -> Tensor:
    """Map times [B] in [0, 1], of any floating type, to float32 [B, TIME_FEATURES] in [-1, 1]."""
    steps = torch.arange(TIME_FEATURES // 2, device=time.device, dtype=torch.float32)
    angles = time.float()[:, None] * _FASTEST ** (steps / (TIME_FEATURES // 2 - 1))
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimeConditioning(nn.Module):
    """Two layers on sinusoids of t: a vector that is added to every position's embedding.

    The second starts at zero, so an untrained model does not depend on t.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.enter = nn.Linear(TIME_FEATURES, d_model, bias=False)
        self.leave = nn.Linear(d_model, d_model, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        """Map times [B] to [B, 1, d], on the device of `time`."""
        features = time_features(time).to(self.enter.weight.dtype)
        return self.leave(functional.silu(self.enter(features)))[:, None]
