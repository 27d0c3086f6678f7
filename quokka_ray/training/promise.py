"""What a run's training loss was at shares of its tokens, and whether that leaves any hope.

The ceilings are written into a run's configuration when it is planned, and the losses are means
of what it computes anyway, over fixed steps. So whether it ends depends on nothing but itself:
a run that was killed and resumed, or is trained by several ranks, ends where a straight one does.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from quokka_ray.study.trajectory import TrajectoryConfig

WINDOW = 0.1
"""Share of a run's steps that a loss is the mean over: some dozens of steps of the shortest runs,
whose losses scatter by several per cent a step."""


@dataclass(frozen=True)
class Hopeless:
    """Why a run ends.

    Attributes:
        reason: In words.
        excess: Of ln loss over the law's, that it would end with at least.
    """

    reason: str
    excess: float


class Passing:
    """The losses that one run has passed its shares with.

    Branches that cool down on the way are not part of it: steps of the trunk alone are told.

    Args:
        config: The trajectory; without a promise nothing is noted.
        device: Where its losses are.

    Attributes:
        losses: Mean training loss at each share that lies behind, nats.
    """

    def __init__(self, config: TrajectoryConfig, device: str) -> None:
        self._promise = config.promise
        shares = () if config.promise is None else config.promise.shares
        self._marks = [round(share * config.steps) for share in shares]
        width = round(WINDOW * config.steps)
        self._widths = [
            max(1, min(width, mark - before)) for before, mark in pairwise((0, *self._marks))
        ]
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self.losses: list[float] = []

    def after(self, step: int, loss: Tensor) -> bool:
        """Take the loss of a run's `step`-th step; return whether a share is passed with it.

        Nothing waits for the device but the steps that pass a share.
        """
        if len(self.losses) == len(self._marks):
            return False
        mark, width = self._marks[len(self.losses)], self._widths[len(self.losses)]
        if step > mark - width:
            self._sum += loss
        if step < mark:
            return False
        self.losses.append(self._sum.item() / width)
        self._sum.zero_()
        return True

    def hopeless(self) -> Hopeless | None:
        """Return why the run ends at the share that was passed last; None: it goes on."""
        promise = self._promise
        if promise is None or not self.losses:
            return None
        number = len(self.losses) - 1
        loss, ceiling = self.losses[number], promise.ceilings[number]
        if ceiling is None or not loss > ceiling:
            return None
        return Hopeless(
            f"at {promise.shares[number]:.0%} of its tokens its training loss was {loss:.3f}; "
            f"runs that end within {promise.margin:.0%} of the law are under {ceiling:.3f} there",
            promise.margin + math.log(loss / ceiling),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what the rest of the run depends on."""
        return {"sum": self._sum, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._sum.copy_(state["sum"])
        self.losses = list(state["losses"])
