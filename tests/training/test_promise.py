"""A trajectory that ends on its way because its training loss leaves no hope, on real text."""

import json
import math

import numpy as np
import pytest
from trajectories import trajectory
from worlds import alone, run

from quokka_ray.study.trajectory import Promise
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train

STEPS = 80
SHARES = (0.2, 0.35, 0.5, 0.7)
MARKS = (16, 28, 40, 56)
WIDTH = 8


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the run may catch it."""


def held(config, *ceilings):
    promise = Promise(margin=0.1, shares=SHARES, ceilings=ceilings or (None,) * 4)
    return config.model_copy(update={"promise": promise})


def rows(folder, kind=None):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if kind in (None, row["kind"])]


def ended(folder):
    (row,) = rows(folder, "ended")
    return row


def silent(row):
    """Hear a row."""


def stop_after(polls):
    count = iter(range(polls))
    return lambda: next(count, None) is None


@pytest.fixture(scope="module")
def noted(corpus, tmp_path_factory):
    """A run that is judged nowhere."""
    folder = tmp_path_factory.mktemp("noted")
    config = held(trajectory(corpus, steps=STEPS))
    return config, train(config, folder, report=silent), ended(folder)["passed"]


@pytest.fixture(scope="module")
def broken(noted, tmp_path_factory):
    """The same run with a ceiling that it breaks at its second share."""
    config, _, passed = noted
    folder = tmp_path_factory.mktemp("broken")
    config = held(config, passed[0] * 1.1, passed[1] * 0.9, None, None)
    return config, train(config, folder, report=silent), folder


def test_what_is_noted_is_the_mean_over_the_steps_before_each_share(noted, corpus):
    config, _, passed = noted
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    trainer = Trainer(config, windows, "cpu")
    losses = []
    while trainer.step < STEPS:
        trainer.advance()
        losses.append(trainer.loss.item())
    trainer.close()
    expected = [np.mean(losses[mark - WIDTH : mark]) for mark in MARKS]
    assert passed == pytest.approx(expected, rel=1e-12)


def test_a_run_within_its_ceilings_is_the_run_without_them(noted, tmp_path):
    config, outcome, passed = noted
    within = held(config, *(loss + 1e-9 for loss in passed))
    assert train(within, tmp_path / "within", report=silent) == outcome
    plain = config.model_copy(update={"promise": None})
    assert train(plain, tmp_path / "plain", report=silent) == outcome
    assert "passed" not in ended(tmp_path / "plain")


def test_it_ends_where_it_passes_a_ceiling_and_says_why(noted, broken):
    config, outcome, folder = broken
    _, whole, passed = noted
    assert outcome.status == "hopeless"
    assert math.isnan(outcome.loss)
    row = ended(folder)
    assert row["tokens"] == outcome.tokens == MARKS[1] * config.batch_tokens
    assert row["flops_spent"] == outcome.flops_spent < 0.36 * whole.flops_spent
    assert row["passed"] == passed[:2]
    assert row["excess"] == pytest.approx(0.1 + math.log(1 / 0.9))
    assert row["reason"] == (
        f"at 35% of its tokens its training loss was {passed[1]:.3f}; runs that end within 10% "
        f"of the law are under {0.9 * passed[1]:.3f} there"
    )
    assert not rows(folder, "observation")
    # Whoever watches sees the last of it.
    assert rows(folder)[-2]["kind"] == "progress"
    assert rows(folder)[-2]["tokens"] == row["tokens"]


def test_asked_again_it_says_the_same_and_trains_nothing(broken):
    config, outcome, folder = broken
    reported = []
    again = train(config, folder, report=reported.append)
    assert (again.status, again.flops_spent) == ("hopeless", outcome.flops_spent)
    assert [row["kind"] for row in reported] == ["ended"]


@pytest.mark.parametrize("stops", [[12], [14, 9]])
def test_stopped_in_the_middle_of_a_window_it_ends_as_the_straight_run_does(
    broken, tmp_path, stops
):
    config, outcome, straight = broken
    for polls in stops:
        stopped = train(config, tmp_path, report=silent, should_stop=stop_after(polls))
        assert stopped.status == "interrupted"
    again = train(config, tmp_path, report=silent)
    assert (again.status, again.flops_spent) == (outcome.status, outcome.flops_spent)
    for name in ("reason", "excess", "passed", "tokens"):
        assert ended(tmp_path)[name] == ended(straight)[name]


def test_killed_before_its_end_is_written_it_ends_at_the_same_place(broken, tmp_path):
    config, outcome, straight = broken
    train(config, tmp_path, report=silent, should_stop=stop_after(20))

    def die(row):
        if row["tokens"] == outcome.tokens:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path, report=die)
    assert not rows(tmp_path, "ended")
    assert train(config, tmp_path, report=silent).status == "hopeless"
    for name in ("reason", "excess", "passed", "tokens"):
        assert ended(tmp_path)[name] == ended(straight)[name]
    lost = (MARKS[1] - 20) / MARKS[1]
    assert ended(tmp_path)["flops_spent"] == pytest.approx((1 + lost) * outcome.flops_spent)


def test_branches_that_cool_down_are_not_judged_and_keep_their_observations(corpus, tmp_path):
    # Legs: trunk to 24, branch to 40, trunk to 80, which passes its shares after 16, 28, 40, 56.
    config = held(trajectory(corpus, steps=STEPS, earlier=(40,)))
    train(config, tmp_path / "whole", report=silent)
    passed = ended(tmp_path / "whole")["passed"]
    ceilings = (None, None, passed[2] * 0.99, None)
    outcome = train(held(config, *ceilings), tmp_path / "ends", report=silent)
    assert outcome.status == "hopeless"
    assert ended(tmp_path / "ends")["passed"] == passed[:3]
    (seen,) = rows(tmp_path / "ends", "observation")
    assert seen["tokens"] == 40 * config.batch_tokens
    # The trunk is the straight run's: what a branch trained is in none of its losses.
    straight = held(trajectory(corpus, steps=STEPS, warmup_fraction=0.025))
    train(straight, tmp_path / "straight", report=silent)
    assert ended(tmp_path / "straight")["passed"] == passed


def test_two_ranks_end_it_where_one_does(broken, pair, tmp_path):
    config, outcome, straight = broken
    (first, _), (second, _) = pair(run, config, tmp_path)
    assert first.status == second.status == "hopeless"
    assert first.tokens == outcome.tokens
    assert ended(tmp_path)["passed"] == pytest.approx(ended(straight)["passed"], rel=1e-2)
    assert alone(run, config, tmp_path)[0].tokens == outcome.tokens
