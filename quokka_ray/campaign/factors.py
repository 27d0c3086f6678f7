"""The dimensions beside size and data, placed by Optuna in coordinates relative to the law.

A learning rate that suits a small model is wrong for a large one; as a factor of the current
learning-rate law it means the same at every size, and so do the others (`dimensions.py`). What a
trial scores is its excess: how far its log loss lies above the law of size and data. Both the
coordinates and the scores change with every refit, so the observations are told to a fresh
in-memory study at every ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from analysis.fitting.fit import Fit
from quokka_ray.campaign.dimensions import Dimensions, Place
from quokka_ray.campaign.trajectory_state import TrajectoryState

MAX_TOLD = 250
"""Observations told at an ask, the latest ones: telling costs time in proportion, and from 250 on
the estimator counts 25 as good however many there are."""

DIVERGED_EXCESS = 1.0
"""What a diverged trial scores: far worse than any that trained."""

STARTUP = 8
"""Trials drawn at random before the tree-structured Parzen estimator has enough to go by."""


@dataclass(frozen=True)
class Scored:
    """One observation (or, without a score, one trial in flight) in relative coordinates."""

    values: Mapping[str, Any]
    """By dimension."""
    excess: float | None
    """ln loss minus ln law(N, D); None while the trial runs."""


def scored_of(
    dimensions: Dimensions,
    states: Sequence[TrajectoryState],
    guide: Fit | None,
    lr_factors: Sequence[float],
    place: Place | None = None,
) -> list[Scored]:
    """Return what Optuna learns from: not from trajectories that failed or were stopped.

    Args:
        dimensions: The study's.
        states: Every trajectory planned so far.
        guide: The law whose excess they score; without one the losses of different sizes do not
            compare, and all score alike.
        lr_factors: Their learning rates over that law's.
        place: Where the next run lies, which values and scores are moved to; None: they stay.
    """
    response = None if guide is None else guide.response
    excess: dict[str, float] = {}
    if guide is not None:
        # Observations of one trial share its rate and schedule, and score together.
        by_trial = pd.Series(guide.excess).groupby(guide.runs["trajectory"].to_numpy())
        excess = by_trial.mean().to_dict()
    scored = []
    for state, factor in zip(states, lr_factors, strict=True):
        config = state.config
        status = state.ended["status"] if state.ended else None
        if status == "diverged":
            score: float | None = DIVERGED_EXCESS
        elif state.hopeless_excess is not None:
            score = state.hopeless_excess
        elif state.observations:
            score = excess.get(config.id, 0.0)
        elif status is None:
            score = None
        else:
            continue
        if score is not None and place is not None:
            score += dimensions.moved_score(config, response, place)
        scored.append(Scored(dimensions.told(config, factor, response, place), score))
    return scored


class _Told(FrozenTrial):
    """A trial made for one ask alone: a storage may have it as it is.

    Copying is three quarters of what telling costs otherwise.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def suggest_factors(
    space: Mapping[str, BaseDistribution], told: Sequence[Scored], seed: int
) -> dict[str, Any]:
    """Return the next values, given what was observed and what runs.

    The same arguments give the same answer, whatever was asked before.

    Args:
        space: Optuna's distributions, `Dimensions.space`. A value beyond the range of its
            distribution counts as its end; a trial with a name that is not among its choices
            tells nothing.
        told: The trials, oldest first.
        seed: Of the estimator's draws.
    """
    space = dict(space)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed
    )
    study = optuna.create_study(sampler=sampler, storage=optuna.storages.InMemoryStorage())
    usable = [row for row in told if _known(row, space)]
    now = datetime.now()
    study.add_trials(
        [
            _Told(
                number=-1,
                trial_id=-1,
                state=TrialState.RUNNING if row.excess is None else TrialState.COMPLETE,
                value=row.excess,
                datetime_start=now,
                datetime_complete=None if row.excess is None else now,
                params={name: _within(row.values[name], one) for name, one in space.items()},
                distributions=space,
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
            for row in usable[-MAX_TOLD:]
        ]
    )
    return study.ask(space).params


def _known(row: Scored, space: Mapping[str, BaseDistribution]) -> bool:
    """Return whether all names of a trial are still to be chosen from."""
    return all(
        row.values[name] in one.choices
        for name, one in space.items()
        if isinstance(one, CategoricalDistribution)
    )


def _within(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return min(max(value, distribution.low), distribution.high)
    return value
