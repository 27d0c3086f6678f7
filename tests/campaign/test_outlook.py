"""What a search is expected to reach, from its own play on simulated losses."""

import json
import math
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.simulated import (
    corpus,
    finish,
    observe,
    open_campaign,
    progress,
    study,
    true_loss,
    write_rows,
)

from analysis.laws.base import Points
from quokka_ray.campaign import outlook as module
from quokka_ray.campaign import playing
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.outlook import Outlook, outlook
from quokka_ray.campaign.playing import Player, TooSlowError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder, open_folder
from quokka_ray.study.search import LawConfig
from quokka_ray.study.trajectory import TrajectoryConfig

BUDGET, TARGET = 4e11, 1e12


def small(storage: Path, **sections: dict) -> StudyConfig:
    sections = {
        "search": {"run_flops": {"low": 1e10, "high": 1e11}},
        "budget": {"flops": BUDGET},
        "target": {"flops": TARGET},
    } | sections
    return study(**sections).model_copy(update={"storage": storage})


def look(config: StudyConfig, searches: int | None, **arguments: bool) -> Outlook:
    facts = corpus()
    menu = Menu(config, facts.vocab_size, facts.train_tokens)
    found = outlook(config, facts, menu, searches, **arguments)
    assert found is not None
    return found


def player_of(config: StudyConfig, **arguments: bool) -> Player:
    facts = corpus()
    return Player(config, facts, Menu(config, facts.vocab_size, facts.train_tokens), **arguments)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Outlook:
    return look(small(tmp_path_factory.mktemp("fresh")), 2)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StudyFolder]:
    with open_folder(small(tmp_path), resume=False, overwrite=False) as folder:
        yield folder


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at searches in the middle and at the end of their budget only."""
    monkeypatch.setattr(playing, "SHARES", (0.5, 1.0))


def begun(folder: StudyFolder, config: StudyConfig, trials: int) -> list[TrajectoryConfig]:
    """Run the first trials of a study; return them."""
    campaign, done = open_campaign(config, folder), []
    for _ in range(trials):
        answer = campaign.ask()
        assert isinstance(answer, TrajectoryConfig)
        finish(campaign, answer)
        done.append(answer)
    campaign.close()
    return done


def test_the_answer_is_expected_to_tighten_as_the_budget_is_spent(fresh: Outlook) -> None:
    assert [row.share for row in fresh.rows] == [0.25, 0.5, 0.75, 1.0, 1.5, 2.0]
    known = [row for row in fresh.rows if row.params and row.loss]
    assert len(known) >= 4
    for name in ("params", "loss"):
        widths = [getattr(row, name).value for row in known]
        assert widths[-1] < widths[0]
        assert all(later < 1.15 * earlier for earlier, later in pairwise(widths))


def test_more_money_never_means_fewer_trials(
    fresh: Outlook, tmp_path: Path, briefly: None
) -> None:
    for end in ("value", "low", "high"):
        trials = [getattr(row.trials, end) for row in fresh.rows]
        assert trials == sorted(trials)
    double = look(small(tmp_path, budget={"flops": 2 * BUDGET}), 1)
    assert double.end.trials.low >= fresh.end.trials.low


def test_a_budget_that_is_too_small_is_called_so(fresh: Outlook) -> None:
    assert fresh.end.met == 0
    assert fresh.expected_flops is None
    assert "The budget is too small: none of 2 simulated searches" in fresh.verdict
    assert "(wanted: ±11 %)" in fresh.verdict


def test_a_budget_that_does_is_called_so_with_what_most_searches_needed(tmp_path: Path) -> None:
    target = {"flops": TARGET, "tolerance_params": 1.5, "tolerance_loss": 0.3}
    found = look(small(tmp_path, target=target), 2)
    assert found.expected_flops is not None
    assert found.expected_flops < BUDGET
    assert "The budget should do: with" in found.verdict
    assert "2 of 2 simulated searches had arrived" in found.verdict
    # What has arrived has stopped.
    assert found.rows[-1].trials == found.end.trials


def test_the_outlook_is_complete_as_json(fresh: Outlook) -> None:
    said = json.loads(json.dumps(fresh.as_dict()))
    assert said["searches"] == said["asked"] == 2
    assert said["begins_with"] == 0
    assert "prior" in said["drawn_from"]
    assert said["verdict"] == fresh.verdict
    assert said["expected_flops"] is None
    assert all(0 <= held <= 2 for held in said["held"])
    for row in said["rows"]:
        assert row["trials"]["low"] <= row["trials"]["value"] <= row["trials"]["high"]
        assert row["flops"] == pytest.approx(row["share"] * BUDGET)
        assert row["device_seconds"] is None


def test_further_searches_leave_the_first_ones_as_they_were(
    fresh: Outlook, tmp_path: Path
) -> None:
    again = look(small(tmp_path), 1)
    for one, row in zip(again.rows, fresh.rows, strict=True):
        assert row.trials.low <= one.trials.value <= row.trials.high
        if one.params is not None and row.params is not None:
            assert row.params.low <= one.params.value <= row.params.high


def test_a_study_under_way_is_played_on_from_its_own_runs(
    folder: StudyFolder, briefly: None
) -> None:
    config = small(folder.root.parent)
    begun(folder, config, 6)
    before = folder.ledger.read_bytes()
    found = look(config, 1)
    assert found.begins_with == 6
    now = found.rows[0]
    assert now.trials.low == now.trials.high == 6
    campaign = open_campaign(config, folder)
    campaign.settle()
    assert campaign.fit is not None
    assert now.flops == pytest.approx(campaign.account.spent)
    assert now.params is not None
    width = campaign.fit.optimum(TARGET).params.relative_width
    assert now.params.value == pytest.approx(width, rel=1e-6)
    campaign.ledger.close()
    assert all(row.flops > now.flops for row in found.rows[1:])
    assert "fitted to the runs so far" in found.drawn_from
    assert folder.ledger.read_bytes() == before, "the ledger is the driver's alone"
    assert player_of(config, anew=True).begins_with == 0


def test_what_a_killed_driver_left_unfinished_is_finished_first(
    folder: StudyFolder, briefly: None
) -> None:
    config = small(folder.root.parent)
    begun(folder, config, 4)
    campaign = open_campaign(config, folder)
    half = campaign.ask()
    assert isinstance(half, TrajectoryConfig)
    campaign.ledger.close()
    write_rows(folder, half, [progress(half, 0.5)])
    player = player_of(config)
    assert player.begins_with == 5
    played = player.play(player.truths(1)[0])
    assert played.states[0].trials == 5
    assert played.states[-1].trials > 5


def test_times_are_those_of_trials_there_or_of_a_study_that_trained_alike(
    folder: StudyFolder, briefly: None
) -> None:
    config = small(folder.root.parent)
    campaign = open_campaign(config, folder)
    for _ in range(6):
        answer = campaign.ask()
        assert isinstance(answer, TrajectoryConfig)
        row = observe(answer) | {"device_seconds": answer.flops_exact * 1e-9}
        campaign.tell(row)
        finish(campaign, answer)
    campaign.close()
    found = look(config, 1)
    assert found.timed_by == "its own trials"
    another = look(config.model_copy(update={"name": "another"}), 1)
    assert another.begins_with == 0
    assert another.timed_by == f"trials of {folder.root}"
    for row in (*found.rows, *another.rows):
        assert row.device_seconds is not None
        # A mark is looked at before the trial that passes it.
        assert 0.3e-9 * row.flops < row.device_seconds < 1.01e-9 * row.flops
    training = config.training.model_copy(update={"optimizer": "adamw", "warmup_fraction": 0.2})
    other = config.model_copy(update={"name": "other", "training": training})
    assert player_of(other).timed_by is None


def test_a_limit_on_trials_is_named_where_it_is_what_ends_a_search(
    tmp_path: Path, briefly: None
) -> None:
    found = look(small(tmp_path, budget={"flops": BUDGET, "trials": 4}), 1)
    assert found.end.trials.high == 4
    assert "budget.trials is too low: it ended 1 of 1" in found.verdict


def test_a_law_that_is_fitted_as_published_ones_has_an_outlook(
    folder: StudyFolder, briefly: None
) -> None:
    config = small(folder.root.parent, law={"huber_delta": 1e-3})
    begun(folder, config, 6)
    found = look(config, 1)
    assert found.begins_with == 6
    assert found.end.params is not None


def test_a_slow_machine_plays_fewer_searches_to_the_budget_alone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "FEWEST", 1)
    found = look(small(tmp_path), None)
    assert (found.searches, found.asked) == (1, module.SEARCHES)
    assert found.rows[-1] is found.end
    assert found.end.share == 1.0
    assert "with twice as much" not in found.verdict


def test_searches_that_take_too_long_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    config, facts = small(tmp_path), corpus()
    assert outlook(config, facts, Menu(config, facts.vocab_size, facts.train_tokens)) is None


def test_a_search_that_is_too_slow_beyond_its_budget_tells_what_it_knew_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = player_of(small(tmp_path))
    truth = player.truths(1)[0]
    whole = player.play(truth)
    # The clock is looked at once a trial, and once where the budget is spent.
    ticks = count(1)
    monkeypatch.setattr(playing, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    found = player.play(truth, deadline=whole.states[3].trials + 1)
    assert found.states == whole.states[:4]
    assert [mark / BUDGET for mark in player.marks] == [0.25, 0.5, 0.75, 1.0]
    with pytest.raises(TooSlowError):
        player.play(truth, deadline=0)


def test_a_study_that_fits_a_bounded_law_is_played_on_bounded_truths(tmp_path: Path) -> None:
    """Of a model that has learnt nothing a bounded truth tells a finite loss."""
    nothing = Points.of([1e-200], [1e-200])
    for name, finite in (("bounded", True), ("auto", False)):
        config = small(tmp_path).model_copy(update={"law": LawConfig(name=name)})
        surface = player_of(config).truths(1)[0].surface
        assert (surface.law.log_loss(surface.theta, nothing)[0] < 3.0) == finite


def test_truths_of_a_study_under_way_pass_through_its_runs(folder: StudyFolder) -> None:
    config = small(folder.root.parent)
    done = begun(folder, config, 7)
    player = player_of(config)
    truths = player.truths(16)
    seen = np.log([observe(run)["loss"] for run in done])
    off = np.array([np.log([t.losses(run)[-1] for run in done]) - seen for t in truths])
    # Their own noise and the runs' are some half a per cent each.
    assert np.abs(off.mean(axis=0)).max() < 0.03
    assert off.std() < 0.03
    flops = [TARGET, 1e3 * TARGET]
    spread = [np.std([truth.surface.optimum(one)[1] for truth in truths]) for one in flops]
    assert spread[0] < spread[1], "what lies farther is known less"


def test_truths_of_a_study_with_few_runs_have_their_level(folder: StudyFolder) -> None:
    config = small(folder.root.parent)
    done = begun(folder, config, 2)
    player = player_of(config)
    for truth in player.truths(3):
        off = [math.log(truth.losses(run)[0] / true_loss(run.params, run.tokens)) for run in done]
        assert abs(sum(off)) < 0.1
    assert "prior" in player.drawn_from
