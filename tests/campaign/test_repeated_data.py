"""A search over repeated data, its trials drawn from a known law of N, U and epochs."""

import json
import math

import numpy as np
import pytest
from support.repeated import LAW, TRUTH, menu_of, open_campaign, rows_of, run, study

from analysis.laws.base import Points
from analysis.ushape import curve_of, done_after
from quokka_ray.campaign.budget import projected_flops
from quokka_ray.campaign.campaign import Answer
from quokka_ray.campaign.data_menu import FEWEST_POINTS, DataMenu
from quokka_ray.campaign.menu import MIN_STEPS
from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import evaluation_flops, training_flops
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


@pytest.fixture
def folder(tmp_path):
    config = study().model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        yield folder


def turns(config: TrajectoryConfig, margin: float) -> bool:
    """Return whether the true curve lies `margin` above its minimum at two successive points,
    the last one not among them."""
    points = np.array(config.points[:-1], dtype=float)
    true = np.exp(LAW.log_loss(TRUTH, Points.of(config.params, points, config.unique_tokens)))
    past = true > np.minimum.accumulate(true) * (1 + margin)
    return bool((past[1:] & past[:-1]).any())


def test_the_menu_prices_a_trajectory_with_all_its_evaluations():
    config = study()
    menu = menu_of(config)
    assert menu.unique_levels == [4096, 8192, 16384]
    for row in menu.table.sample(12, random_state=0).itertuples():
        rung = menu.rungs[row.params]
        points = menu.points(row.tokens, row.unique_tokens)
        args = (rung.shape, config.model, 257)
        expected = training_flops(*args, row.tokens, config.diffusion)
        each = evaluation_flops(*args, config.evaluation, config.diffusion)
        assert row.cost == pytest.approx(expected + len(points) * each)
        assert len(points) >= FEWEST_POINTS
        assert points[-1] == row.tokens
        assert points[0] >= MIN_STEPS * rung.step_tokens
        assert row.epochs <= config.search.max_epochs
        epochs = np.array(points[:-1]) / row.unique_tokens
        powers = np.log(epochs) / math.log(config.search.observation_ratio)
        assert np.abs(powers - powers.round()).max() < 0.1


def test_cooldowns_at_each_point_cost_their_steps():
    branched = study(search={"lr_schedule": "wsd"}, training={"cooldown_fraction": 0.2})
    plain, cooled = menu_of(study()).table, menu_of(branched).table
    both = plain.merge(cooled, on=["params", "unique_tokens", "tokens"])
    assert len(both) == len(plain)
    menu = menu_of(branched)
    for row in both.sample(6, random_state=0).itertuples():
        rung = menu.rungs[row.params]
        points = np.array(menu.points(row.tokens, row.unique_tokens)) // rung.step_tokens
        branches = sum(round(0.2 * point) for point in points[:-1].tolist())
        assert row.cost_y - row.cost_x == pytest.approx(branches * rung.step_flops)


def test_too_small_a_corpus_and_an_empty_menu_are_refused():
    with pytest.raises(ConfigurationError, match="training tokens"):
        DataMenu(study(search={"unique_tokens": {"low": 4096, "high": "1M"}}), 257, 100_000)
    with pytest.raises(ConfigurationError, match="no trajectory lies within"):
        menu_of(study(search={"max_epochs": 2}))


@pytest.mark.slow
def test_a_search_finds_how_many_epochs_help(folder):
    campaign = open_campaign(study(), folder)
    trained = run(campaign)
    assert campaign.ask() is Answer.DONE
    account = campaign.account
    assert 0.8 * account.cap < account.spent <= account.cap
    start = {(t.params, t.unique_tokens) for t in trained[:6]}
    assert len(start) == 6
    assert {t.unique_tokens for t in trained[:6]} == {4096, 8192, 16384}
    runs = campaign.runs()
    last = runs.groupby("trajectory")["tokens"].max()
    ended_early = {t.id for t in trained if last[t.id] < t.tokens}
    # Judged by the truth without noise: who clearly turned before the last point ends early, and
    # nobody who did not turn by nearly the margin.
    assert ended_early
    # A curve may show only at the last point of its plan that it has turned.
    observations = [campaign.ledger.trajectories[t.id].observations for t in trained]
    assert sum(done_after(*curve_of(seen)) is not None for seen in observations) >= 6
    assert {t.id for t in trained if turns(t, 0.03)} <= ended_early
    assert ended_early <= {t.id for t in trained if turns(t, 0.01)}
    assert runs["flops_spent"].sum() == pytest.approx(account.spent)
    fit = campaign.fit
    assert fit is not None
    assert fit.law.name == "data_constrained"
    for params, unique in ((60e3, 8192), (150e3, 16384)):
        points = unique * 2.0 ** np.arange(3, 10)
        truth = np.exp(LAW.log_loss(TRUTH, Points.of(params, points, unique)))
        found = fit.predict(params, points, unique).value
        assert np.abs(np.log(found / truth)).max() < 0.03


@pytest.mark.parametrize("seed", [1, 2])
def test_most_trajectories_turn_and_two_at_once_never_overrun_the_budget(seed, folder):
    config = study(search={"observation_ratio": 1.414}).model_copy(update={"seed": seed})
    campaign = open_campaign(config, folder)
    # No law is needed for it: without one the rest is bought at random.
    campaign._laws.refit_guide = lambda runs: None
    flying, turned, trained = [], 0, 0
    while True:
        answer = campaign.ask() if len(flying) < 2 else None
        if isinstance(answer, TrajectoryConfig):
            flying.append(answer)
            assert campaign.account.committed <= campaign.account.cap
        elif flying:
            config = flying.pop(0)
            for row in rows_of(config):
                campaign.tell(row)
            campaign.returned(config.id)
            seen = campaign.ledger.trajectories[config.id].observations
            trained, turned = trained + 1, turned + (done_after(*curve_of(seen)) is not None)
        else:
            break
    assert campaign.account.spent <= campaign.account.cap
    assert trained >= 7
    assert turned >= 0.8 * trained
    left = campaign.account.available
    spent = "the budget is spent" if left < campaign.menu.smallest_cost else "that would turn"
    assert spent in campaign.ending.words


def test_the_rest_of_a_budget_that_holds_no_curve_that_turns_is_left(folder):
    steering = open_campaign(study(), folder)._steering
    assert len(steering.start) == 6
    assert (steering.start["usual"].diff().dropna() >= 0).all()
    whole = steering.candidates([], 1.2e13)
    assert not whole.duplicated(["params", "unique_tokens"]).any()
    assert (whole["usual"] <= whole["cost"]).all()
    assert (whole["expected"] <= whole["cost"]).all()
    poor = steering.candidates([], 1.2e12)
    # What is left is only offered where it is long enough, or all that the study allows.
    both = poor.merge(whole, on=["params", "unique_tokens"], suffixes=("", "_whole"))
    short = both[both["epochs"] < both["epochs_whole"]]
    assert (short["chance"] >= 0.5).all()
    assert len(poor) < len(whole)


def test_a_budget_too_small_for_any_curve_to_turn_still_gets_its_start(folder):
    config = study(budget={"flops": 4e11})
    campaign = open_campaign(config, folder)
    trained = run(campaign)
    assert 1 <= len(trained) <= 6
    assert campaign.account.spent <= 4e11


def test_what_an_early_end_leaves_comes_back_and_a_resume_knows_it(folder):
    campaign = open_campaign(study(), folder)
    run(campaign, 3)
    states = campaign.ledger.trajectories
    early = [s for s in states.values() if len(s.observations) < len(s.config.points)]
    assert len(early) == 3
    state, config = early[0], early[0].config
    assert projected_flops(state) == state.flops_spent < config.flops_exact
    assert campaign.account.committed == sum(each.flops_spent for each in states.values())
    assert state.last_observation is state.observations[-1]
    assert (campaign.runs()["status"] == "finished").all()
    before = campaign.account
    campaign.close()
    again = open_campaign(study(), folder)
    assert again.account == before
    assert again.counts() == {"finished": 3}
    assert run(again, 1)[0].id.startswith("0003")


def test_the_same_ledger_gives_the_same_next_trajectory(folder, tmp_path):
    rich = study(budget={"flops": 4e13})
    campaign = open_campaign(rich, folder)
    run(campaign, 5)
    assert campaign.propose().reason.startswith("start")
    run(campaign, 1)
    first = campaign.propose()
    campaign.close()
    again = open_campaign(rich, folder)
    second = again.propose()
    assert (first.params, first.unique_tokens, first.tokens) == (
        second.params,
        second.unique_tokens,
        second.tokens,
    )
    assert "answers for 3.28e+04 unique tokens" in second.reason
    assert json.loads(folder.ledger.read_text().splitlines()[0])["reason"].startswith("start")
