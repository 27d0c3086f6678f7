"""One trajectory by several processes: the same as by one."""

import json
import math

import numpy as np
import pytest
from trajectories import trajectory
from worlds import alone, run, smoothed_losses

from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import DiffusionConfig, fit_to_kernel
from quokka_ray.training.run import train
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
    expected = alone(smoothed_losses, config, 20)
    assert expected[-1] < expected[0]
    for losses in pair(smoothed_losses, config, 20):
        assert losses == pytest.approx(expected, rel=1e-9, abs=0)


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


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2), (2, 1)])
def test_a_run_goes_on_in_a_world_of_another_size(corpus, pair, tmp_path, sizes):
    config = trajectory(corpus, steps=30)

    def go(size, folder, polls=None):
        if size == 1:
            return alone(run, config, folder, polls)[0]
        first, second = pair(run, config, folder, polls)
        assert repr(first[0]) == repr(second[0])
        return first[0]

    assert go(sizes[0], tmp_path / "resumed", 17).status == "interrupted"
    resumed = go(sizes[1], tmp_path / "resumed")
    if sizes[0] == sizes[1]:
        assert resumed == go(sizes[0], tmp_path / "straight"), "equal to the bit"
    else:
        straight = go(1, tmp_path / "straight")
        assert resumed.loss == pytest.approx(straight.loss, rel=2e-3)
        assert resumed.flops_spent == pytest.approx(straight.flops_spent, rel=1e-12)


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
