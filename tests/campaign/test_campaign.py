from pathlib import Path

import numpy as np
import pytest
from support import simulated
from support.simulated import (
    ended,
    finish,
    observe,
    open_campaign,
    progress,
    run,
    study,
    write_rows,
)

from quokka_ray.campaign.campaign import Answer
from quokka_ray.campaign.flights import MAX_ATTEMPTS
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.study.folder import StudyFolder, open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


@pytest.fixture
def folder(tmp_path: Path):
    with open_folder(
        study().model_copy(update={"storage": tmp_path}), resume=False, overwrite=False
    ) as folder:
        yield folder


def given(answer: object) -> TrajectoryConfig:
    assert isinstance(answer, TrajectoryConfig), answer
    return answer


def test_a_search_spends_its_budget_to_within_one_smallest_run_and_never_more(
    folder: StudyFolder,
) -> None:
    campaign = open_campaign(study(), folder)
    run(campaign)
    account = campaign.account
    assert account.cap - campaign.menu.smallest_cost < account.spent <= account.cap
    assert account.committed == account.spent
    assert set(campaign.counts()) == {"finished"}


def test_the_committed_budget_is_within_the_cap_at_every_moment(folder: StudyFolder) -> None:
    highest = []

    class Watch:
        def planned(self, campaign, trajectory):
            highest.append(campaign.account.committed)

        def told(self, campaign, row):
            highest.append(campaign.account.committed)

        def refitted(self, campaign, fit):
            pass

    campaign = open_campaign(study(), folder, [Watch()])
    run(campaign, at_once=4)
    assert len(highest) > 40
    assert max(highest) <= campaign.account.cap


def test_the_start_shows_both_arms_of_two_isoflop_curves_before_the_law_steers(
    folder: StudyFolder,
) -> None:
    campaign = open_campaign(study(), folder)
    start = campaign.start_plan
    assert start["cost"].sum() <= 0.31 * campaign.study.budget.flops
    levels = 0
    for _, level in start.groupby("flops"):
        losses = [
            simulated.true_loss(r.params, r.tokens)
            for r in level.sort_values("params").itertuples()
        ]
        best = int(np.argmin(losses))
        levels += 0 < best < len(losses) - 1
    assert levels >= 2


def test_a_steered_search_finds_the_optimum_and_its_interval_holds_it(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder)
    run(campaign)
    optimum = campaign.fit.optimum(1e14)
    truth = simulated.true_optimum(1e14)
    assert abs(np.log(optimum.params.value / truth)) < 0.4
    assert optimum.params.low < truth < optimum.params.high
    assert optimum.loss.low < simulated.true_loss(truth, 1e14 / 6 / truth) < optimum.loss.high
    assert campaign.fit.response.best_schedule == "wsd"


def test_every_trial_after_the_start_was_predicted_before_it_ran(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder)
    run(campaign)
    steered = list(campaign.ledger.trajectories.values())[len(campaign.start_plan) :]
    assert steered
    for state in steered:
        assert state.planned["predicted"]["low"] < state.planned["predicted"]["high"]
    assert "tests the law" in steered[0].planned["reason"]
    assert all("cuts the variance" in state.planned["reason"] for state in steered[1:])


def test_the_first_run_after_the_start_is_the_largest_and_lies_near_the_optimum(
    folder: StudyFolder,
) -> None:
    campaign = open_campaign(study(), folder)
    run(campaign)
    states = list(campaign.ledger.trajectories.values())
    reach = states[len(campaign.start_plan)].config
    flops = [6.0 * state.config.params * state.config.tokens for state in states]
    # Sizes on one level differ by rounding to whole batches.
    assert flops[len(campaign.start_plan)] > 0.99 * max(flops)
    assert abs(np.log(reach.params / simulated.true_optimum(max(flops)))) < 0.7


def test_learning_rates_are_placed_relative_to_the_fitted_law(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder)
    run(campaign)
    state = list(campaign.ledger.trajectories.values())[-1]
    search = campaign.study.search.lr_factor
    assert search.low <= state.planned["lr_factor"] <= search.high
    center = state.config.lr / state.planned["lr_factor"]
    assert center == pytest.approx(1.3e-2, rel=0.35), "the truth's best learning rate"


def test_a_driver_that_was_killed_goes_on_without_losing_or_repeating_anything(
    folder: StudyFolder,
) -> None:
    first = open_campaign(study(), folder)
    for _ in range(5):
        finish(first, given(first.ask()))
    half, whole = given(first.ask()), given(first.ask())
    # The driver dies. One trial had finished without being heard, one was in the middle.
    write_rows(folder, whole, [observe(whole), ended(whole)])
    write_rows(folder, half, [progress(half, 0.5)])
    checkpoint = folder.trajectory(half.id) / "checkpoints" / str(half.tokens // 4)
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()

    second = open_campaign(study(), folder)
    assert len(second.runs()) == 6
    assert given(second.ask()) == half, "what was left unfinished comes first"
    lost = half.flops_exact / 4
    assert second.account.committed >= second.account.spent + half.flops_exact / 2 + lost * 0.99
    second.tell(observe(half))
    second.tell(ended(half, spent=half.flops_exact + lost))
    second.returned(half.id)
    run(second)
    runs = second.runs()
    assert runs["observation"].is_unique
    assert (runs["status"] == "finished").all()
    assert not second.ledger.unfinished()
    account = second.account
    assert account.cap - second.menu.smallest_cost < account.spent <= account.cap


def test_lost_work_that_the_budget_cannot_hold_ends_as_stopped_not_as_an_overrun(
    folder: StudyFolder,
) -> None:
    first = open_campaign(study(), folder)
    while first.account.available > 2 * first.menu.smallest_cost:
        config = given(first.ask())
        if first.account.available > 2 * first.menu.smallest_cost:
            finish(first, config)
    write_rows(folder, config, [progress(config, 0.99)])  # and no checkpoint: all of it is lost

    second = open_campaign(study(), folder)
    run(second)
    assert second.ledger.trajectories[config.id].ended["status"] == "stopped"
    assert second.account.spent <= second.account.cap


def test_a_trial_whose_process_dies_is_run_again_and_then_given_up(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder)
    config = given(campaign.ask())
    for _ in range(MAX_ATTEMPTS - 1):
        campaign.lost(config.id, "the worker died")
        assert given(campaign.ask()) == config
    campaign.lost(config.id, "the worker died")
    assert campaign.ledger.trajectories[config.id].ended["status"] == "failed"
    assert given(campaign.ask()) != config


def test_a_diverged_trial_is_an_observation_of_its_status_and_frees_its_budget(
    folder: StudyFolder,
) -> None:
    campaign = open_campaign(study(), folder)
    config = given(campaign.ask())
    campaign.tell(ended(config, "diverged", spent=config.flops_exact / 10))
    campaign.returned(config.id)
    assert campaign.account.committed == pytest.approx(config.flops_exact / 10)
    runs = campaign.runs()
    assert list(runs["status"]) == ["diverged"]
    run(campaign)
    assert campaign.counts()["diverged"] == 1


def test_a_stopped_campaign_gives_out_nothing_and_keeps_what_is_unfinished(
    folder: StudyFolder,
) -> None:
    campaign = open_campaign(study(), folder)
    config = given(campaign.ask())
    campaign.stop()
    assert campaign.ask() is Answer.WAIT
    campaign.returned(config.id)
    assert campaign.ask() is Answer.DONE
    campaign.close()
    assert given(open_campaign(study(), folder).ask()) == config


def test_rows_that_come_twice_change_nothing(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder)
    config = given(campaign.ask())
    for _ in range(2):
        campaign.tell(observe(config))
        campaign.tell(ended(config))
    campaign.returned(config.id)
    assert len(campaign.runs()) == 1
    kinds = [
        line.split('"kind":"')[1].split('"')[0] for line in folder.ledger.read_text().splitlines()
    ]
    assert kinds == ["planned", "started", "observation", "ended"]


def test_the_same_study_makes_the_same_decisions(tmp_path: Path) -> None:
    decisions = []
    for name in ("a", "b"):
        config = study().model_copy(update={"storage": tmp_path / name})
        with open_folder(config, resume=False, overwrite=False) as folder:
            run(open_campaign(study(), folder))
            ledger = Ledger(folder.ledger, read_only=True)
        decisions.append([(s.config.id, s.config.lr) for s in ledger.trajectories.values()])
    assert decisions[0] == decisions[1]


def test_a_limit_on_trials_holds(folder: StudyFolder) -> None:
    campaign = open_campaign(study(budget={"trials": 3}), folder)
    run(campaign)
    assert campaign.counts() == {"finished": 3}
