"""What a larger corpus would buy."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.answers import Source, estimates
from analysis.epochs import DataAllocation, DataSearch, allocate_data, of_repeated_data
from analysis.laws.base import FloatArray
from analysis.uncertainty import Estimate


@dataclass(frozen=True)
class MoreData:
    """What k times as many unique tokens would buy.

    Attributes:
        factor: k.
        allocation: the optimum with k U unique tokens.
        gain: by what factor the loss falls against k = 1, at most 1 where more data helps.
    """

    factor: float
    allocation: DataAllocation
    gain: Estimate

    @cached_property
    def saved(self) -> float:
        """Nats by which the loss falls."""
        return self.allocation.loss.value * (1.0 / self.gain.value - 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "factor": self.factor,
            "loss_ratio": self.gain.as_dict(),
            "nats_saved": self.saved,
            **self.allocation.as_dict(),
        }


def value_of_data(
    law: Source,
    unique_tokens: float,
    flops: float | None = None,
    factors: Sequence[float] = (1.0, 2.0, 4.0, 10.0),
) -> list[MoreData]:
    """Return what larger corpora would buy, each at its own best N and epochs.

    Losses of one resample are compared with each other, so that the gain is known better than
    either loss.

    Args:
        law: a law of repeated data.
        unique_tokens: U.
        flops: the compute budget; unset: unlimited.
        factors: by how much to multiply U.

    Raises:
        AllocationError: as `allocate_data`.
    """
    state = of_repeated_data(law, "the value of more data")
    now = DataSearch(state, float(np.log(unique_tokens)), flops)
    rows = []
    for factor in factors:
        then = DataSearch(state, float(np.log(factor * unique_tokens)), flops)

        def logs(theta: FloatArray, then: DataSearch = then) -> FloatArray:
            return (then.logs(theta) - now.logs(theta))[:, 4:]

        allocation = allocate_data(law, factor * unique_tokens, flops)
        rows.append(MoreData(float(factor), allocation, estimates(state, logs)[0]))
    return rows
