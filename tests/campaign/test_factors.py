"""The learning rate and schedule that Optuna places about the law."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from support.simulated import study

from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.factors import MAX_TOLD, STARTUP, Scored, suggest_factors

SPACE = Dimensions(study()).space


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def told(count: int, seed: int = 0) -> list[Scored]:
    """Return rows that are best at a factor of 1.2 on wsd, the last two still running."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        factor = float(np.exp(rng.uniform(-0.9, 0.9)))
        schedule = ("wsd", "cosine")[index % 2]
        excess = float(np.log(factor / 1.2) ** 2) + 0.05 * (schedule == "cosine")
        values = {"lr_factor": factor, "lr_schedule": schedule}
        rows.append(Scored(values, excess if index < count - 2 else None))
    return rows


def plainly(rows: list[Scored], seed: int) -> dict:
    """Return what Optuna says when it is told in its own words."""
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=STARTUP, multivariate=True, constant_liar=True, seed=seed
    )
    asked = optuna.create_study(sampler=sampler)
    for row in rows:
        factor = min(max(row.values["lr_factor"], 0.5), 2)
        asked.add_trial(
            create_trial(
                state=TrialState.RUNNING if row.excess is None else TrialState.COMPLETE,
                value=row.excess,
                params={**row.values, "lr_factor": factor},
                distributions=SPACE,
            )
        )
    return asked.ask(SPACE).params


@pytest.mark.parametrize("count", [0, 5, 40, MAX_TOLD])
def test_the_answer_is_optunas_own(count: int) -> None:
    rows = told(count)
    for seed in range(3):
        assert suggest_factors(SPACE, rows, seed) == plainly(rows, seed)


def test_asking_changes_nothing_that_was_told() -> None:
    rows = told(40)
    first = suggest_factors(SPACE, rows, 1)
    assert rows == told(40)
    assert suggest_factors(SPACE, rows, 1) == first


def test_only_the_latest_are_told() -> None:
    misleading = [Scored({"lr_factor": 0.5, "lr_schedule": "cosine"}, -1.0)] * 40
    rows = [*misleading, *told(MAX_TOLD)]
    assert suggest_factors(SPACE, rows, 2) == plainly(rows[-MAX_TOLD:], 2)


def test_suggestions_gather_where_the_excess_is_low() -> None:
    rows = told(200)
    factors = [suggest_factors(SPACE, rows, seed)["lr_factor"] for seed in range(20)]
    assert np.median(np.abs(np.log(np.array(factors) / 1.2))) < 0.2
