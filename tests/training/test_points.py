"""Several observations of one trajectory, on real text."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trajectories import trajectory

from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import flops_per_token
from quokka_ray.study.config import DiffusionConfig
from quokka_ray.training import attempt
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train

POINTS = (10, 20)
STEPS = 40
"""Legs: trunk to 6, branch to 10, trunk to 12, branch to 20, trunk to 40: 52 steps."""


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the run may catch it."""


def observed(folder):
    """Return the observations by token count."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [row for row in rows if row["kind"] == "observation"]
    assert len({row["observation"] for row in found}) == len(found)
    return {row["tokens"]: row for row in found}


def losses(folder):
    """Return what of the observations must not depend on how the run was interrupted."""
    kept = ("observation", "tokens", "loss", "loss_stderr", "train_loss", "evaluator", "cooled")
    return [{name: row[name] for name in kept} for row in observed(folder).values()]


def run(config, folder, **options):
    return train(config, folder, report=options.pop("report", lambda row: None), **options)


def parameters(folder):
    (checkpoint,) = (folder / "checkpoints").iterdir()
    return load_file(checkpoint / "model.safetensors")


def impatient(config, checkpoints=1e6):
    """Return `config` with a report at every step, and checkpoints so often."""
    recipe = {"report_seconds": 1e-9, "checkpoint_seconds": checkpoints}
    return config.model_copy(update={"training": config.training.model_copy(update=recipe)})


@pytest.fixture(scope="module")
def branched(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("branched")
    config = trajectory(corpus, steps=STEPS, earlier=POINTS, warmup_fraction=0.1)
    return config, folder, run(config, folder)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_branches_equal_separate_runs_and_the_trunk_does_not_notice_them(
    corpus, tmp_path, optimizer
):
    recipe = {"optimizer": optimizer, "warmup_fraction": 1 / POINTS[0]}
    config = trajectory(corpus, steps=STEPS, earlier=POINTS, **recipe)
    outcome = run(config, tmp_path / "all")
    together = observed(tmp_path / "all")
    assert list(together) == list(config.points)
    for steps in (*POINTS, STEPS):
        # The same data, noise, rate and warmup of one step.
        alone = trajectory(corpus, steps=steps, **recipe | {"warmup_fraction": 1 / steps})
        assert alone.warmup_steps == config.warmup_steps == 1
        folder = tmp_path / str(steps)
        expected = run(alone, folder)
        row = together[alone.tokens]
        assert row["loss"] == expected.loss
        assert row["train_loss"] == observed(folder)[alone.tokens]["train_loss"]
        name = f"evaluations/{alone.tokens}.npy"
        assert np.array_equal(np.load(tmp_path / "all" / name), np.load(folder / name))
    assert outcome.loss == together[config.tokens]["loss"]
    ours, straight = parameters(tmp_path / "all"), parameters(tmp_path / str(STEPS))
    assert all(torch.equal(ours[name], straight[name]) for name in straight)


def test_rows_say_what_was_processed_and_what_all_of_it_has_cost(branched):
    config, folder, outcome = branched
    rows = list(observed(folder).values())
    batch = config.batch_tokens
    assert [row["processed_tokens"] for row in rows] == [10 * batch, 24 * batch, 52 * batch]
    assert config.path_tokens == 52 * batch
    assert [row["flops"] for row in rows] == [6.0 * config.params * p for p in config.points]
    assert [row["parent"] for row in rows] == ["t0", "t0", None]
    assert all(row["cooled"] and row["observation"].endswith("+cooldown") for row in rows)
    step = flops_per_token(config.shape, config.model, config.vocab_size) * batch
    each = config.flops_evaluation
    spent = [10 * step + each, 24 * step + 2 * each, 52 * step + 3 * each]
    assert [row["flops_spent"] for row in rows] == pytest.approx(spent, rel=1e-12)
    assert outcome.flops_spent == pytest.approx(config.flops_exact, rel=1e-12)


def test_a_constant_rate_is_observed_as_it_passes(corpus, tmp_path):
    config = trajectory(corpus, steps=40, earlier=(10, 20), lr_schedule="constant")
    run(config, tmp_path / "all")
    rows = observed(tmp_path / "all")
    assert [row["cooled"] for row in rows.values()] == [False] * 3
    assert [row["observation"] for row in rows.values()] == [f"t0@{p}" for p in config.points]
    alone = trajectory(corpus, steps=20, lr_schedule="constant", warmup_fraction=0.0)
    assert config.warmup_steps == 0
    assert run(alone, tmp_path / "alone").loss == rows[alone.tokens]["loss"]
    assert list(rows.values())[-1]["processed_tokens"] == config.tokens


# Steps of the whole path: at a branch's start, in it, in the trunk after it, in the last cooldown;
# and several stops of one run.
@pytest.mark.parametrize("stops", [[6], [9], [11], [45], [3, 5, 2, 4, 15]])
def test_a_stopped_trajectory_goes_on_to_the_same_bits(branched, tmp_path, stops):
    config, straight, expected = branched
    for polls in stops:
        count = iter(range(polls))

        def stop(count=count):
            return next(count, None) is None

        assert run(config, tmp_path, should_stop=stop).status == "interrupted"
    outcome = run(config, tmp_path)
    assert losses(tmp_path) == losses(straight)
    assert outcome.flops_spent == pytest.approx(expected.flops_spent, rel=1e-12)
    assert all(
        torch.equal(tensor, parameters(straight)[name])
        for name, tensor in parameters(tmp_path).items()
    )


# Numbers of rows: in the trunk, at the first observation, in the trunk after it, at the second and
# the last observation; with a checkpoint at every step, in both branches and between them.
@pytest.mark.parametrize(
    ("moment", "checkpoints"),
    [(5, 1e6), (12, 1e6), (14, 1e6), (24, 1e6), (46, 1e6), (8, 1e-9), (14, 1e-9), (20, 1e-9)],
)
def test_a_killed_trajectory_repeats_no_observation_and_pays_for_what_it_lost(
    branched, tmp_path, moment, checkpoints
):
    config, straight, expected = branched
    heard = []

    def kill(row):
        heard.append(row)
        if len(heard) == moment:
            raise Killed

    hasty = impatient(config, checkpoints)
    with pytest.raises(Killed):
        run(hasty, tmp_path, report=kill)
    done = heard[-1]
    places = [int(p.parent.name) for p in tmp_path.glob("checkpoints/*/COMPLETE")]
    kept = max(places, default=0)
    again = []
    outcome = run(hasty, tmp_path, report=again.append)
    assert losses(tmp_path) == losses(straight)
    names = [row["observation"] for row in heard + again if row["kind"] == "observation"]
    assert set(names) == {row["observation"] for row in observed(straight).values()}
    # Lost is what lay between the checkpoint and the kill, but for branches that were observed.
    per_token = flops_per_token(config.shape, config.model, config.vocab_size)
    known = {row["tokens"] for row in heard if row["kind"] == "observation"}
    batch = config.batch_tokens
    lost, at = 0, 0
    for leg in config.legs:
        begin, end = at * batch, (at + leg.steps) * batch
        at += leg.steps
        if not (leg.branch and leg.last * batch in known):
            lost += max(0, min(end, done["processed_tokens"]) - max(begin, kept))
    assert outcome.flops_spent == pytest.approx(expected.flops_spent + lost * per_token, rel=1e-12)
    assert again[-1]["kind"] == "ended"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_trajectory_killed_in_an_evaluation_goes_on_to_the_same_bits(
    branched, tmp_path, monkeypatch, number
):
    config, straight, _ = branched
    evaluate, calls = attempt.evaluate, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return evaluate(*arguments)

    monkeypatch.setattr(attempt, "evaluate", killed)
    with pytest.raises(Killed):
        run(config, tmp_path)
    assert len(observed(tmp_path)) == number - 1
    run(config, tmp_path)
    assert losses(tmp_path) == losses(straight)
    assert len(calls) == 4


def test_an_ended_trajectory_reports_all_its_observations_again(branched):
    config, folder, expected = branched
    again = []
    assert run(config, folder, report=again.append) == expected
    assert [row["kind"] for row in again] == ["observation"] * 3 + ["ended"]


def diverging(monkeypatch, when):
    """Make a run take itself for diverged where `when(trainer)` holds."""
    diverged = Trainer.diverged
    monkeypatch.setattr(
        Trainer, "diverged", lambda self: "it blew up" if when(self) else diverged(self)
    )


def test_a_branch_that_diverges_loses_its_observation_and_the_trunk_goes_on(
    branched, tmp_path, monkeypatch
):
    config, _, expected = branched
    diverging(monkeypatch, lambda trainer: trainer.step == 10)
    outcome = run(config, tmp_path)
    first, *others = observed(tmp_path).values()
    assert (first["status"], first["loss"], first["reason"]) == ("diverged", None, "it blew up")
    assert others[-1]["loss"] == outcome.loss == expected.loss
    assert len(others) == 2
    again = []
    run(config, tmp_path, report=again.append)
    assert [row.get("status") for row in again] == ["diverged", None, None, "finished"]


def test_a_trunk_that_diverges_ends_the_trajectory_and_keeps_what_was_observed(
    branched, tmp_path, monkeypatch
):
    config, straight, _ = branched
    diverging(monkeypatch, lambda trainer: trainer.step == 32)
    assert run(config, tmp_path).status == "diverged"
    assert losses(tmp_path) == losses(straight)[:2]
    assert run(config, tmp_path).status == "diverged"


def test_points_that_cannot_be_are_refused_before_anything_is_written(corpus, tmp_path):
    good = trajectory(corpus, steps=STEPS, earlier=POINTS, warmup_fraction=0.1)
    curriculum = DiffusionConfig(curriculum="moving_gaussian", mask_sampler="stratified")
    for update, sentence in (
        ({"earlier_points": (good.batch_tokens + 1,)}, "no whole number of steps"),
        ({"earlier_points": (good.tokens,)}, "must ascend"),
        ({"lr_schedule": "cosine"}, "take lr_schedule wsd or constant"),
        ({"diffusion": curriculum}, "leave diffusion.curriculum out"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            run(good.model_copy(update=update), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
