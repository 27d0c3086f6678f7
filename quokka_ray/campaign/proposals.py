"""What a campaign asks of whatever chooses its runs, and the answer: a proposal.

`Steering` places sizes and tokens, `DataSteering` unique tokens and epochs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray
from analysis.steering.stopping import Trust
from quokka_ray.campaign.beliefs import Predicted
from quokka_ray.campaign.devices import Devices, Fits, anything
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.factors import Scored, suggest_factors
from quokka_ray.campaign.speed import fit_speed, prices
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import LRScheduleName, StudyConfig
from quokka_ray.study.recipe import STUDYS_OWN, Recipe
from quokka_ray.study.trajectory import TrajectoryConfig

AT_RANDOM = "at random: no law yet"


@dataclass(frozen=True)
class Proposal:
    """A run worth buying, and why."""

    params: int
    tokens: int
    unique_tokens: int
    cost: float
    lr: float
    lr_factor: float
    lr_schedule: LRScheduleName
    reason: str
    predicted: Predicted | None
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of the mixture that are searched, by part."""
    recipe: Recipe = STUDYS_OWN
    """What differs in its recipe besides. N and D are as the menu has them: the run's own follow
    with its recipe (`Menu.run`)."""


class Proposer(ABC):
    """Chooses runs for one study. Of itself it ends with the budget and promises nothing.

    Args:
        study: The study.

    Attributes:
        start: The runs of the space-filling start: params, tokens, cost, and flops or epochs.
        devices: The cluster; until an executor says more, one where any run fits.
    """

    start: pd.DataFrame

    def __init__(self, study: StudyConfig) -> None:
        self._study = study
        self._dimensions = Dimensions(study)
        self.devices = Devices()

    @abstractmethod
    def propose(
        self,
        states: Sequence[TrajectoryState],
        guide: Fit | None,
        available: float,
        fits: Fits = anything,
    ) -> Proposal | None:
        """Return the next run; None where none fits. The same arguments give the same answer.

        Args:
            states: Every trajectory planned so far.
            guide: The law of all runs, which the steering takes as true; its response says what
                rates and schedules cost.
            available: Exact FLOPs that the run may cost; at least the menu's cheapest run.
            fits: Which runs the cluster has room for now.
        """

    @abstractmethod
    def can_buy(self, states: Sequence[TrajectoryState], available: float) -> bool:
        """Return whether any run is worth its price; arguments as those of `propose`."""

    def trust(self, guide: Fit | None, states: Sequence[TrajectoryState]) -> Trust:
        """Return what became of predictions of runs larger than all before them."""
        return Trust()

    @property
    def arrived_with(self) -> int:
        """Observations with which the target was reached; 0: it was not."""
        return 0

    def arrived(
        self,
        guide: Fit | None,
        states: Sequence[TrajectoryState],
        reported: Callable[[], Fit | None],
    ) -> bool:
        """Return whether the target ends the search; arguments as those of `Arrival.reached`."""
        return False

    def promised(
        self,
        config: TrajectoryConfig,
        predicted: Predicted | None,
        guide: Fit | None,
        states: Sequence[TrajectoryState],
    ) -> TrajectoryConfig:
        """Return a planned run with what its training loss is held to on its way."""
        return config

    def _suggested(self, scored: Sequence[Scored], count: int) -> dict[str, Any]:
        """Return the other dimensions of the run that comes after `count` others."""
        seed = self._study.seed * 1_000_003 + count
        return suggest_factors(self._dimensions.space, scored, seed=seed)

    def _any_of(self, candidates: pd.DataFrame, count: int) -> "pd.Series[float]":
        """Return one of some candidates, as good as any, for the run after `count` others."""
        rng = np.random.default_rng([self._study.seed, count])
        return candidates.iloc[int(rng.integers(len(candidates)))]

    def _seconds(
        self, states: Sequence[TrajectoryState], params: FloatArray, flops: FloatArray
    ) -> FloatArray | None:
        """Return the device seconds of runs, [R]; None while, or where, FLOPs are the price.

        Args:
            states: Every trajectory planned so far.
            params, flops: N and exact FLOPs, both [R].
        """
        if self._study.search.price == "flops":
            return None
        speed = fit_speed(states, self.devices.of)
        return None if speed is None else prices(speed, params, flops, self.devices.of)


def room_for(table: pd.DataFrame, fits: Fits) -> np.ndarray:
    """Return which runs of a table (columns params, cost) the cluster has room for now, [R]."""
    if fits is anything:
        return np.ones(len(table), dtype=bool)
    pairs = zip(table["params"], table["cost"], strict=True)
    return np.array([fits(params, cost) for params, cost in pairs], dtype=bool)


def fitting(table: pd.DataFrame, fits: Fits) -> pd.DataFrame:
    """Return the rows of `table` that the cluster has room for now, numbered anew."""
    return table if fits is anything else table[room_for(table, fits)].reset_index(drop=True)
