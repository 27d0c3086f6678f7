"""The dimensions beside size and data: what Optuna calls them, and what a trial's values mean.

What small trials learn moves with scale. A learning rate is a factor of its current law; other
numbers are told as what they would be at the next run's place, by how the law of their best value
moves; and where a choice's offset moves with size, so does what a trial scores
(`analysis.laws.response`). Without a law of theirs they are told as they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from analysis.laws.response import Response
from quokka_ray.study.config import DiffusionConfig, StudyConfig, TrainingConfig
from quokka_ray.study.recipe import Noise, Recipe, noises
from quokka_ray.study.search import RECIPE_NAMES, RECIPE_NUMBERS
from quokka_ray.study.trajectory import TrajectoryConfig

NOISE = "noise"
"""The dimension of a search over kernels, objectives and noise schedules: one name for each
combination that can be trained, since not all can."""

_COLUMNS = {"batch_sequences": "batch_tokens"}
"""Columns of the run table of dimensions that it calls otherwise."""


def weight_dimension(part: str) -> str:
    """Return what the dimension of a part's weight is called."""
    return f"weight_{part}"


@dataclass(frozen=True)
class Place:
    """Where a run lies: N and D, which laws of best values move with."""

    params: int
    tokens: int

    @staticmethod
    def of(config: TrajectoryConfig) -> "Place":
        """Return where a trajectory lies."""
        return Place(config.params, config.tokens)


class Dimensions:
    """The dimensions of one study.

    Args:
        study: The study.
    """

    def __init__(self, study: StudyConfig) -> None:
        self._study = study
        self._weights = study.corpus.searched_weights
        names = [name for name in RECIPE_NAMES if getattr(study.search, name)]
        self._names: Sequence[str] = names
        self._numbers = [name for name in RECIPE_NUMBERS if getattr(study.search, name)]
        self._noises = {self._label(n): n for n in noises(study.search, study.diffusion)}

    @cached_property
    def space(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions."""
        search = self._study.search
        ranges = {name: getattr(search, name) for name in self._numbers}
        weights = {weight_dimension(part): one for part, one in self._weights.items()}
        return {
            "lr_factor": FloatDistribution(search.lr_factor.low, search.lr_factor.high, log=True),
            "lr_schedule": CategoricalDistribution(search.lr_schedule),
            **{
                name: FloatDistribution(one.low, one.high, log=True)
                for name, one in (weights | ranges).items()
            },
            **({NOISE: CategoricalDistribution(list(self._noises))} if self._names else {}),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the run table that say what differs, but for shares of a mixture."""
        return (*(_COLUMNS.get(name, name) for name in self._numbers), *self._names)

    def values(
        self,
        lr_factor: float,
        lr_schedule: str,
        weights: Mapping[str, float],
        training: TrainingConfig,
        diffusion: DiffusionConfig,
    ) -> dict[str, Any]:
        """Return a trial's values in `space`.

        Args:
            lr_factor: Its learning rate over the law's.
            lr_schedule: Its schedule.
            weights: Those of its mixture, by part.
            training, diffusion: Its own sections.
        """
        return {
            "lr_factor": lr_factor,
            "lr_schedule": lr_schedule,
            **{weight_dimension(part): weights[part] for part in self._weights},
            **{name: float(getattr(training, name)) for name in self._numbers},
            **({NOISE: self._label(Noise.of(diffusion))} if self._names else {}),
        }

    def told(
        self,
        config: TrajectoryConfig,
        lr_factor: float,
        response: Response | None = None,
        there: Place | None = None,
    ) -> dict[str, Any]:
        """Return a trajectory's values as they would be at another place.

        Args:
            config: The trajectory.
            lr_factor: Its learning rate over the law's.
            response: How best values move; None: they do not.
            there: The place; None: its own.
        """
        values = self.values(
            lr_factor, config.lr_schedule, config.mixture or {}, config.training, config.diffusion
        )
        if response is None or there is None:
            return values
        for name in self._numbers:
            bowl = response.bowls.get(_COLUMNS.get(name, name))
            if bowl is not None:
                here = bowl.best(config.params, config.tokens)
                values[name] *= float(bowl.best(there.params, there.tokens) / here)
        return values

    def moved_score(
        self, config: TrajectoryConfig, response: Response | None, there: Place
    ) -> float:
        """Return what a trajectory's choices would cost more at another place, in ln L."""
        moved = 0.0
        for name in self._names:
            choice = None if response is None else response.choices.get(name)
            if choice is not None:
                own = [getattr(config.diffusion, name)]
                moved += float(choice.penalty([there.params], [there.tokens], own)[0])
                moved -= float(choice.penalty([config.params], [config.tokens], own)[0])
        return moved

    def weights_of(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Return the weights among values of `space`, by part."""
        return {part: float(values[weight_dimension(part)]) for part in self._weights}

    def recipe_of(self, values: Mapping[str, Any], batches: Sequence[int]) -> Recipe:
        """Return the recipe of values of `space`.

        Args:
            values: The values.
            batches: What a batch may be, in sequences: the nearest one is taken.
        """
        numbers = {name: float(values[name]) for name in self._numbers}
        batch = numbers.pop("batch_sequences", None)
        nearest = None
        if batch is not None:
            nearest = min(batches, key=lambda one: abs(np.log(one / batch)))
        noise = self._noises[values[NOISE]] if self._names else None
        return Recipe(nearest, **numbers, noise=noise)

    def told_columns(self, study: StudyConfig, batch_tokens: int) -> dict[str, list[Any]]:
        """Return what differs in a trial as columns of a run table of one row.

        Args:
            study: The study as the trial has it.
            batch_tokens: Tokens of one of its steps.
        """
        row = {**study.training.model_dump(), **study.diffusion.model_dump()}
        row["batch_tokens"] = batch_tokens
        return {name: [row[name]] for name in self.columns}

    def _label(self, noise: Noise) -> str:
        return " ".join(getattr(noise, name) for name in self._names)
