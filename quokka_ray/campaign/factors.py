"""The dimensions beside size and data, placed by Optuna in coordinates relative to the law.

They are the learning rate, its schedule, and the weights of a mixture where a study searches them.
A learning rate that suits a small model is wrong for a large one; as a factor of the current
learning-rate law it means the same at every size. What a trial scores is its excess: how far its
log loss lies above the law of size and data. Both the coordinates and the scores change with
every refit, so the observations are told to a fresh in-memory study at every ask.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Self

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from analysis.fitting.fit import Fit
from quokka_ray.campaign.ledger import TrajectoryState
from quokka_ray.study.config import Range, SearchConfig

MAX_TOLD = 250
"""Observations told at an ask, the latest ones: telling costs time in proportion, and from 250 on
the estimator counts 25 as good however many there are."""

NO_WEIGHTS: Mapping[str, Range] = MappingProxyType({})
"""Of a study whose corpus is no mixture, or has weights that stay."""

DIVERGED_EXCESS = 1.0
"""What a diverged trial scores: far worse than any that trained."""

STARTUP = 8
"""Trials drawn at random before the tree-structured Parzen estimator has enough to go by."""


@dataclass(frozen=True)
class Scored:
    """One observation (or, without a score, one trial in flight) in relative coordinates."""

    lr_factor: float
    lr_schedule: str
    excess: float | None
    """ln loss minus ln law(N, D); None while the trial runs."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of the mixture that are searched, by part."""


def scored_of(
    states: Sequence[TrajectoryState], guide: Fit | None, lr_factors: Sequence[float]
) -> list[Scored]:
    """Return what Optuna learns from: not from trajectories that failed or were stopped.

    Args:
        states: Every trajectory planned so far.
        guide: The law whose excess they score; without one the losses of different sizes do not
            compare, and all score alike.
        lr_factors: Their learning rates over that law's.
    """
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
        elif state.observations:
            score = excess.get(config.id, 0.0)
        elif status is None:
            score = None
        else:
            continue
        scored.append(Scored(factor, config.lr_schedule, score, config.mixture or {}))
    return scored


class _Told(FrozenTrial):
    """A trial made for one ask alone: a storage may have it as it is.

    Copying is three quarters of what telling costs otherwise.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def weight_dimension(part: str) -> str:
    """Return what the dimension of a part's weight is called."""
    return f"weight_{part}"


def factor_space(
    search: SearchConfig, weights: Mapping[str, Range] = NO_WEIGHTS
) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the relative dimensions.

    Args:
        search: Ranges of the learning rate's factor and of schedules.
        weights: Ranges of the weights that are searched, by part of the mixture.
    """
    return {
        "lr_factor": FloatDistribution(search.lr_factor.low, search.lr_factor.high, log=True),
        "lr_schedule": CategoricalDistribution(search.lr_schedule),
        **{
            weight_dimension(part): FloatDistribution(one.low, one.high, log=True)
            for part, one in weights.items()
        },
    }


def weights_of(params: Mapping[str, Any], weights: Iterable[str]) -> dict[str, float]:
    """Return the weights among values of `factor_space`, by part."""
    return {part: float(params[weight_dimension(part)]) for part in weights}


def suggest_factors(
    search: SearchConfig,
    told: Sequence[Scored],
    seed: int,
    weights: Mapping[str, Range] = NO_WEIGHTS,
) -> dict[str, Any]:
    """Return the next place in `factor_space`, given what was observed and what runs.

    The same arguments give the same answer, whatever was asked before.
    """
    space = factor_space(search, weights)
    low, high = search.lr_factor.low, search.lr_factor.high
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed
    )
    study = optuna.create_study(sampler=sampler, storage=optuna.storages.InMemoryStorage())
    usable = [row for row in told if row.lr_schedule in search.lr_schedule]
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
                params={
                    "lr_factor": min(max(row.lr_factor, low), high),
                    "lr_schedule": row.lr_schedule,
                    **{
                        weight_dimension(part): min(max(row.weights[part], one.low), one.high)
                        for part, one in weights.items()
                    },
                },
                distributions=space,
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
            for row in usable[-MAX_TOLD:]
        ]
    )
    return study.ask(space).params
