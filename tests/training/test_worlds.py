"""One trajectory by several processes: the same as by one."""

import json
import math

import numpy as np
import pytest
from trajectories import trajectory
from worlds import alone, losses, losses_from, run, saved_at

from quokka_ray.diffusion.likelihood import validation_loss
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import DiffusionConfig, fit_to_kernel
from quokka_ray.training.run import train
from quokka_ray.training.trained import is_checkpoint, last_checkpoint, load_model
from quokka_ray.training.world import World

KINDS = {
    "mask": DiffusionConfig(),
    "uniform": DiffusionConfig(kernel="uniform"),
    "next_token": DiffusionConfig(kernel="none", objective="next_token"),
}


def configured(corpus, kind="mask", **options):
    """Return a trajectory trained under one kind of noise."""
    from trajectories import MODEL

    diffusion = KINDS[kind]
    config = trajectory(corpus, model=fit_to_kernel(MODEL, diffusion), **options)
    return config.model_copy(update={"diffusion": diffusion})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mask", {"optimizer": "muon"}),
        ("mask", {"optimizer": "adamw", "micro_batch_sequences": 3}),
        ("uniform", {"optimizer": "adamw"}),
        ("next_token", {"optimizer": "muon", "micro_batch_sequences": 1}),
    ],
)
def test_the_loss_does_not_depend_on_how_many_processes_train(corpus, pair, kind, options):
    config = configured(corpus, kind, steps=20, **options)
    expected = alone(losses, config, 20)
    assert expected[-1] < expected[0]
    for sharded in (False, True):
        for these in pair(losses, config, 20, sharded):
            assert these == pytest.approx(expected, rel=1e-9, abs=0)


def test_a_run_by_two_leaves_one_record_that_says_the_same(corpus, pair, tmp_path):
    config = trajectory(corpus, steps=40, report_seconds=0.02)
    expected, _ = alone(run, config, tmp_path / "one")
    (first, rows), (second, silent) = pair(run, config, tmp_path / "two")
    assert first == second
    assert silent == []
    assert rows == [
        json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()
    ]
    assert first.status == "finished"
    assert first.loss == pytest.approx(expected.loss, rel=2e-3)
    assert first.flops_spent == pytest.approx(expected.flops_spent, rel=1e-12)
    per_sequence = [np.load(tmp_path / run / f"evaluations/{config.tokens}.npy")
                    for run in ("one", "two")]  # fmt: skip
    assert per_sequence[1] == pytest.approx(per_sequence[0], rel=1e-2)
    assert per_sequence[1].mean() == pytest.approx(first.loss, rel=1e-12)


def test_one_checkpoint_gives_one_validation_loss_whatever_the_world(corpus, pair, tmp_path):
    # 33 sequences by two ranks: the second repeats a row that the first has.
    config = trajectory(corpus, steps=6)
    evaluation = config.evaluation.model_copy(update={"sequences": 33})
    config = config.model_copy(update={"evaluation": evaluation})
    alone(run, config, tmp_path, 5)
    lines = (tmp_path / "metrics.jsonl").read_text()
    results = []
    for by in (alone, pair):
        (tmp_path / "metrics.jsonl").write_text(lines)
        by(run, config, tmp_path)
        results.append(np.load(tmp_path / f"evaluations/{config.tokens}.npy"))
    assert len(results[0]) == 33
    assert results[1] == pytest.approx(results[0], rel=1e-6)


def with_sharding(config, sharding):
    training = config.training.model_copy(update={"sharding": sharding})
    return config.model_copy(update={"training": training})


@pytest.mark.parametrize(
    ("before", "after", "optimizer"),
    [
        ((2, "none"), (2, "none"), "adamw"),
        ((2, "full"), (2, "full"), "muon"),
        ((1, "none"), (2, "full"), "muon"),
        ((2, "full"), (1, "none"), "adamw"),
    ],
)
def test_a_run_goes_on_in_another_world(corpus, pair, tmp_path, before, after, optimizer):
    config = trajectory(corpus, steps=30, optimizer=optimizer)

    def go(world, folder, polls=None):
        size, sharding = world
        if size == 1:
            return alone(run, config, folder, polls)[0]
        first, second = pair(run, with_sharding(config, sharding), folder, polls)
        assert repr(first[0]) == repr(second[0])
        return first[0]

    assert go(before, tmp_path / "resumed", 17).status == "interrupted"
    (checkpoint,) = (tmp_path / "resumed/checkpoints").iterdir()
    assert (checkpoint / "shards").is_dir() == (before[1] == "full")
    assert (checkpoint / "model.safetensors").exists() == (before[1] == "none")
    resumed = go(after, tmp_path / "resumed")
    straight = go(after, tmp_path / "straight")
    if before == after:
        assert resumed == straight, "equal to the bit"
    assert resumed.loss == pytest.approx(straight.loss, rel=2e-3)
    assert resumed.flops_spent == pytest.approx(straight.flops_spent, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_rest_of_a_run_is_the_same_in_a_world_of_another_size(
    corpus, pair, tmp_path, optimizer
):
    config = trajectory(corpus, steps=20, optimizer=optimizer)
    straight = alone(losses, config, 20)
    alone(saved_at, config, tmp_path / "one", 10)
    pair(saved_at, config, tmp_path / "two", 10, True)
    for folder in ("one", "two"):
        rest = alone(losses_from, config, tmp_path / folder, 20)
        assert rest == pytest.approx(straight[10:], rel=1e-9, abs=0)
        for sharded in (False, True):
            for rest in pair(losses_from, config, tmp_path / folder, 20, sharded):
                assert rest == pytest.approx(straight[10:], rel=1e-9, abs=0)


@pytest.mark.parametrize("spread", ["before", "after"])
def test_a_trajectory_stopped_in_a_branch_goes_on_in_another_world(corpus, pair, tmp_path, spread):
    config = trajectory(corpus, steps=30, earlier=(15,), warmup_fraction=0.1)
    full = with_sharding(config, "full")
    alone(run, config, tmp_path / "straight")
    # The branch to 15 cools down over its last six steps.
    if spread == "before":
        pair(run, full, tmp_path / "resumed", 12)
        alone(run, config, tmp_path / "resumed")
    else:
        alone(run, config, tmp_path / "resumed", 12)
        pair(run, full, tmp_path / "resumed")
    observed = [
        {row["observation"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}
        for lines in ((tmp_path / name / "metrics.jsonl").read_text().splitlines()
                      for name in ("straight", "resumed"))
    ]  # fmt: skip
    assert len(observed[0]) == 2
    assert observed[1] == pytest.approx(observed[0], rel=2e-3)


def test_a_spread_checkpoint_is_a_trained_model_like_any_other(corpus, pair, tmp_path):
    config = with_sharding(trajectory(corpus, steps=4), "full")
    (outcome, _), _ = pair(run, config, tmp_path)
    checkpoint = last_checkpoint(tmp_path)
    assert is_checkpoint(checkpoint)
    model = load_model(checkpoint).model
    windows = corpus.validation_windows(32, 32, config.evaluation.seed)
    result = validation_loss(model, windows, config.evaluation, config.vocab_size)
    assert result.loss == pytest.approx(outcome.loss, rel=1e-6)
    # What a rank wrote is missing: that is said, and not taken for a smaller model.
    next((checkpoint / "shards").glob("*.safetensors")).unlink()
    with pytest.raises(ConfigurationError, match="does not hold the model"):
        load_model(checkpoint)


def failing(world, folder, config):
    """Return the words of the error that a rank ends with."""
    try:
        train(config, folder, report=lambda row: None, world=world)
    except ConfigurationError as error:
        return str(error)
    return ""


def test_what_rank_0_finds_wrong_every_rank_hears(corpus, pair, tmp_path):
    alone(run, trajectory(corpus, steps=2), tmp_path)
    for words in pair(failing, tmp_path, trajectory(corpus, steps=4)):
        assert "belongs to another run" in words


def test_a_batch_that_workers_cannot_share_is_refused(corpus, tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be shared by 3 workers"):
        train(trajectory(corpus), tmp_path / "x", report=lambda row: None, world=World(0, 3, None))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("count", "size"), [(32, 1), (32, 2), (33, 2), (5, 4), (3, 4), (1, 3)])
def test_every_row_is_evaluated_once_in_shares_of_one_size(count, size):
    seen = np.zeros(count)
    for rank in range(size):
        rows, others = World(rank, size).rows(count)
        assert rows.stop - rows.start == math.ceil(count / size)
        seen[rows.start + others : rows.stop] += 1
    assert (seen == 1).all()


@pytest.mark.slow
def test_two_hundred_steps_in_float32_end_together(corpus, pair, tmp_path):
    config = trajectory(corpus, steps=200, optimizer="adamw")
    expected, _ = alone(run, config, tmp_path / "one")
    outcome = pair(run, config, tmp_path / "two")[0][0]
    assert outcome.loss == pytest.approx(expected.loss, abs=2e-3)
