"""A search that ends trials whose training loss leaves no hope, on a known truth."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from support import repeated
from support.simulated import NOISE, ended, observe, open_campaign, report, study, true_loss

from analysis.hopeless import FEWEST, SHARES
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.factors import scored_of
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.campaign.promises import promise_of
from quokka_ray.cli.main import main
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig

RULE = {"margin": 0.1, "deviations": 3}
REASON = "its training loss was too high"
WIDE = {"lr_factor": {"low": 0.1, "high": 10}, "lr_schedule": "wsd", "hopeless": RULE}


def off(config: TrajectoryConfig) -> float:
    """Return what a trial's learning rate costs of ln loss."""
    return 0.08 * math.log(config.lr / 1.3e-2) ** 2


def rows_of(config: TrajectoryConfig) -> list[dict]:
    """Return what a trial reports, ended where it passes a ceiling of its promise.

    On its way it lies above the law by a tenth, what its rate costs, and 1 % of luck.
    """
    rng = np.random.default_rng(config.seed)
    luck = NOISE * rng.normal()
    passed: list[float] = []
    for number, share in enumerate(SHARES):
        above = 0.1 + off(config) + luck + 0.01 * rng.normal()
        passed.append(true_loss(config.params, share * config.tokens) * math.exp(above))
        ceiling = None if config.promise is None else config.promise.ceilings[number]
        if ceiling is not None and passed[-1] > ceiling:
            spent = share * (config.flops_exact - config.flops_evaluation)
            excess = config.promise.margin + math.log(passed[-1] / ceiling)
            end = ended(config, "hopeless", spent)
            return [{**end, "passed": passed, "excess": excess, "reason": REASON}]
    loss = true_loss(config.params, config.tokens) * math.exp(off(config) + luck)
    return [{**observe(config), "loss": loss}, {**ended(config), "passed": passed}]


def run(campaign: Campaign, trials: int = 10**9) -> list[TrajectoryConfig]:
    """Run a campaign, one trial at a time; return what was trained."""
    return report(campaign, rows_of, trials)


def opened(root, seed=0, **search):
    config = study(search={**WIDE, **search}).model_copy(update={"storage": root, "seed": seed})
    return config, open_folder(config, resume=False, overwrite=False)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    config, folder = opened(tmp_path_factory.mktemp("searched"), seed=2)
    with folder:
        campaign = open_campaign(config, folder)
        trained = run(campaign)
        campaign.close()
        yield campaign, trained


def judged(config: TrajectoryConfig) -> bool:
    return any(ceiling is not None for ceiling in config.promise.ceilings)


def test_bad_rates_end_on_their_way_and_no_others(searched):
    campaign, _ = searched
    states = campaign.ledger.trajectories.values()
    hopeless = [state.config for state in states if state.hopeless_excess is not None]
    assert len(hopeless) >= 2
    assert all(off(config) > RULE["margin"] for config in hopeless)
    assert campaign.counts()["hopeless"] == len(hopeless)


def test_what_they_had_left_is_free_for_other_trials(searched):
    campaign, _ = searched
    account = campaign.account
    assert account.cap - campaign.menu.smallest_cost < account.spent <= account.cap
    assert account.committed == account.spent
    reserved = sum(
        state.planned["reserved_flops"] for state in campaign.ledger.trajectories.values()
    )
    assert reserved > 1.05 * account.cap


def test_they_stand_in_the_run_table_without_a_loss_and_the_law_does_not_see_them(searched):
    campaign, trained = searched
    runs = campaign.runs()
    ended = runs[runs["status"] == "hopeless"]
    assert len(ended) == campaign.counts()["hopeless"]
    assert ended["loss"].isna().all()
    assert (ended["flops_spent"] > 0).all()
    assert len(campaign.guide.runs) == len(trained) - len(ended)
    assert campaign.fit.rejected == {"hopeless": len(ended)}


def test_runs_that_test_the_law_and_those_before_enough_have_finished_are_not_judged(searched):
    campaign, trained = searched
    assert not any(judged(config) for config in trained[:FEWEST])
    beyond = [
        state.config
        for state in campaign.ledger.trajectories.values()
        if (state.planned["predicted"] or {}).get("beyond")
    ]
    assert beyond
    assert not any(judged(config) for config in beyond)
    again = [config for config, ended in with_hopeless_before(campaign, trained) if ended]
    others = [c for c in trained[FEWEST:] if c not in beyond and c not in again]
    assert len(others) > FEWEST
    assert all(judged(config) for config in others)


def with_hopeless_before(campaign, trained):
    """Return each trial, and whether one of its size and tokens was hopeless before it."""
    ended, result = set(), []
    for config in trained:
        place = (config.params, config.tokens)
        result.append((config, place in ended))
        if campaign.ledger.trajectories[config.id].hopeless_excess is not None:
            ended.add(place)
    return result


def test_a_second_trial_in_a_place_goes_to_its_end_whatever_the_law_says_there(searched):
    campaign, trained = searched
    again = [config for config, ended in with_hopeless_before(campaign, trained) if ended]
    assert again
    assert not any(judged(config) for config in again)
    states = campaign.ledger.trajectories
    assert all(states[config.id].ended["status"] == "finished" for config in again)


def test_optuna_is_told_what_they_would_have_ended_with_at_least(searched):
    campaign, _ = searched
    states = list(campaign.ledger.trajectories.values())
    scored = scored_of(Dimensions(campaign.study), states, campaign.guide, [1.0] * len(states))
    assert len(scored) == len(states)
    for state, row in zip(states, scored, strict=True):
        if state.hopeless_excess is not None:
            assert row.excess == state.hopeless_excess > RULE["margin"]


def test_status_says_why_each_of_them_ended(searched, capsys):
    campaign, _ = searched
    root = str(campaign.folder.root)
    assert main(["status", root, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trajectories"]
    hopeless = [row for row in rows if row["status"] == "hopeless"]
    assert len(hopeless) == campaign.counts()["hopeless"]
    assert all(row["loss"] is None and row["ended_because"] == REASON for row in hopeless)
    assert main(["status", root]) == 0
    assert capsys.readouterr().out.count(REASON) == len(hopeless)


def test_a_place_that_only_a_hopeless_trial_was_at_may_be_bought_again(searched):
    campaign, _ = searched
    places: dict[tuple[int, int], list[bool]] = {}
    for state in campaign.ledger.trajectories.values():
        place = (state.config.params, state.config.tokens)
        places.setdefault(place, []).append(state.hopeless_excess is not None)
    assert any(ends[0] and len(ends) > 1 for ends in places.values())


def test_a_resumed_search_holds_the_next_trial_to_the_same(tmp_path):
    config, folder = opened(tmp_path)
    with folder:
        first = open_campaign(config, folder)
        run(first, trials=FEWEST + 1)
        expected = first.ask()
        assert judged(expected)
        second = Ledger(folder.ledger, read_only=True)
        assert second.trajectories[expected.id].config == expected
        first.ledger.close()
        assert open_campaign(config, folder).ask() == expected


def test_a_search_without_the_rule_holds_its_trials_to_nothing(tmp_path):
    config, folder = opened(tmp_path, hopeless=None)
    with folder:
        assert open_campaign(config, folder).ask().promise is None


def test_searches_of_repeated_data_have_their_own_early_end(tmp_path):
    config = repeated.study(search={"hopeless": RULE}).model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        assert repeated.open_campaign(config, folder).ask().promise is None


def test_what_a_larger_batch_passes_its_shares_with_is_not_held_against_it(searched):
    campaign, _ = searched
    rule = campaign.study.search.hopeless
    finished = [s for s in campaign.ledger.trajectories.values() if s.hopeless_excess is None]

    def with_batch(config: TrajectoryConfig, sequences: int) -> TrajectoryConfig:
        training = config.training.model_copy(update={"batch_sequences": sequences})
        return config.model_copy(update={"training": training})

    states = []
    for number, state in enumerate(finished):
        large, end = number % 2 == 1, dict(state.ended)
        end["passed"] = [loss * (1.15 if large else 1.0) for loss in end["passed"]]
        states.append(
            replace(state, config=with_batch(state.config, 32 if large else 8), ended=end)
        )
    here = finished[-1].config
    ceilings = {
        batch: promise_of(rule, with_batch(here, batch), states, campaign.guide, 0.0).ceilings
        for batch in (8, 32)
    }
    for small, large in zip(ceilings[8], ceilings[32], strict=True):
        assert large > 1.05 * small
