"""What a search believes and says: predictions kept, surprises told, replicates named, endings."""

from pathlib import Path

import numpy as np
import pytest
from support import simulated
from support.simulated import ended, observe, open_campaign, run, study

from quokka_ray.campaign.beliefs import missing_points, surprise_of, trust_of
from quokka_ray.campaign.campaign import Answer, Campaign
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.study.folder import StudyFolder, open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory):
    """A search that has ended, its reported law fitted once."""
    config = study().model_copy(update={"storage": tmp_path_factory.mktemp("search")})
    with open_folder(config, resume=False, overwrite=False) as folder:
        campaign = open_campaign(config, folder, clock=Slow())
        run(campaign)
        campaign.close()
        yield campaign


class Slow:
    """A clock on which every reading is a day later: a refit is due once."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e5
        return self.now


@pytest.fixture
def folder(tmp_path: Path):
    config = study().model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        yield folder


def test_predictions_are_kept_with_their_forms_and_surprises_follow_from_the_ledger(
    search: Campaign,
) -> None:
    states = list(Ledger(search.folder.ledger, read_only=True).trajectories.values())
    steered = states[len(search.start_plan) :]
    z = np.array([surprise_of(state) for state in steered])
    assert np.isfinite(z).all()
    assert np.abs(z).mean() < 2.0
    assert any(state.planned["predicted"]["beyond"] for state in steered)
    trust = trust_of(states, search.runs())
    assert trust.raised == 0
    assert search.ending.surprises
    assert search.ending.trusted_flops is None


def test_sizes_are_repeated_seldom_and_only_to_learn_the_noise(search: Campaign) -> None:
    seen, replicates = set(), 0
    for state in search.ledger.trajectories.values():
        place = state.config.params, state.config.tokens
        if place in seen:
            replicates += 1
            assert state.planned["reason"].startswith("a replicate, to learn the noise")
        seen.add(place)
    assert replicates <= 0.15 * len(search.ledger.trajectories)


def test_a_spent_budget_says_what_the_law_knows_and_what_was_wanted(search: Campaign) -> None:
    assert search.ending.kind == "budget"
    assert search.ending.words.startswith("the budget is spent: the law knows N_opt to ")
    assert "(wanted: ±11 %)" in search.ending.words


def test_a_search_ends_before_its_budget_once_the_law_meets_the_tolerances(
    folder: StudyFolder,
) -> None:
    config = study(target={"tolerance_params": 0.9, "tolerance_loss": None})
    campaign = open_campaign(config, folder, clock=Slow())
    run(campaign)
    assert campaign.ending.kind == "reached"
    assert "N_opt" in campaign.ending.words
    assert "ln loss" not in campaign.ending.words
    assert campaign.fit.optimum(1e14).params.relative_width <= 0.9
    assert campaign.account.spent < 0.8 * campaign.account.cap
    # The driver comes again: it has arrived still, and buys nothing.
    assert open_campaign(config, folder).ask() is Answer.DONE


def test_a_search_that_stops_at_its_budget_alone_goes_on(folder: StudyFolder) -> None:
    config = study(
        target={"tolerance_params": 5.0, "tolerance_loss": 1.0, "stop": "budget"},
        budget={"trials": 14},
    )
    campaign = open_campaign(config, folder, clock=Slow())
    run(campaign)
    assert campaign.ending.kind == "trials"
    assert len(campaign.ledger.trajectories) == 14


def test_a_law_that_fails_drops_its_smallest_runs_then_claims_nothing_and_says_so(
    folder: StudyFolder,
) -> None:
    """Every run that is larger than all before comes out 50 % above what was predicted."""
    campaign = open_campaign(study(), folder, clock=Slow())
    lifted = {}
    while isinstance(config := campaign.ask(), TrajectoryConfig):
        row = observe(config)
        predicted = campaign.ledger.trajectories[config.id].planned["predicted"]
        if predicted and predicted["beyond"]:
            row["loss"] = lifted[config.id] = 1.5 * predicted["value"]
        campaign.tell(row)
        campaign.tell(ended(config))
        campaign.returned(config.id)
    assert lifted
    ending = campaign.ending
    assert ending.trusted_flops > 1e10
    assert all(z > 4 for z in ending.surprises), ending.surprises
    assert campaign.fit.warnings[0]
    told = " ".join(campaign.fit.warnings)
    assert "larger runs fell outside what was predicted of them" in told
    assert "are not trusted, and not fitted" in told
    work = 6 * campaign.fit.runs["params"] * campaign.fit.runs["tokens"]
    assert work.min() >= 0.99 * ending.trusted_flops


def test_what_is_missing_of_a_trial_is_what_it_was_not_observed_at(folder: StudyFolder) -> None:
    branched = {"observations": 3, "lr_schedule": ["wsd"]}
    campaign = open_campaign(study(search=branched), folder)
    config = campaign.ask()
    assert isinstance(config, TrajectoryConfig)
    state = campaign.ledger.trajectories[config.id]
    assert missing_points(state) == config.points
    campaign.tell(simulated.observe(config, config.points[0]))
    assert missing_points(state) == config.points[1:]
    campaign.tell(ended(config, "diverged"))
    assert missing_points(state) == ()
