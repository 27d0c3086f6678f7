"""The dimensions beside size and data, placed by Optuna in coordinates relative to the law.

A learning rate that suits a small model is wrong for a large one; as a factor of the current
learning-rate law it means the same at every size. What a trial scores is its excess: how far its
log loss lies above the law of size and data. Both the coordinates and the scores change with
every refit, so the observations are told to a fresh in-memory study at every ask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from quokka_ray.study.config import SearchConfig

MAX_TOLD = 1000
"""Observations told at an ask, the latest ones; telling costs time in proportion."""

STARTUP = 8
"""Trials drawn at random before the tree-structured Parzen estimator has enough to go by."""


@dataclass(frozen=True)
class Scored:
    """One observation (or, without a score, one trial in flight) in relative coordinates."""

    lr_factor: float
    lr_schedule: str
    excess: float | None
    """ln loss minus ln law(N, D); None while the trial runs."""


class _Told(FrozenTrial):
    """A trial made for one ask alone: a storage may have it as it is.

    Copying is three quarters of what telling costs otherwise.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def factor_space(search: SearchConfig) -> dict[str, BaseDistribution]:
    """Return Optuna's distributions of the relative dimensions."""
    return {
        "lr_factor": FloatDistribution(search.lr_factor.low, search.lr_factor.high, log=True),
        "lr_schedule": CategoricalDistribution(search.lr_schedule),
    }


def suggest_factors(search: SearchConfig, told: Sequence[Scored], seed: int) -> dict[str, Any]:
    """Return the next `lr_factor` and `lr_schedule`, given what was observed and what runs.

    The same arguments give the same answer, whatever was asked before.
    """
    space = factor_space(search)
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
