"""A trajectory over repeated data that ends past its minimum, on real text."""

import json

import numpy as np
import pytest
from trajectories import trajectory

from quokka_ray.study.config import EarlyEnd
from quokka_ray.training import attempt
from quokka_ray.training.attempt import PAST_MINIMUM
from quokka_ray.training.run import train

POINTS = (8, 16, 32, 64, 128)
STEPS = 256


def rows(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.fixture(scope="module")
def repeated(corpus):
    config = trajectory(corpus, steps=STEPS, earlier=POINTS)
    # Every later loss counts as risen, so that the rule decides and the text need not overfit.
    rule = EarlyEnd(margin=0.0, deviations=0.0, points=2)
    return config.model_copy(
        update={"unique_tokens": 512, "lr_schedule": "constant", "early_end": rule}
    )


@pytest.fixture
def risen(monkeypatch):
    """Make losses rise from the third observation on: 3.0, 2.5, 2.6, 2.7 ..."""
    evaluate = attempt.evaluate
    losses = {8: 3.0, 16: 2.5, 32: 2.6, 64: 2.7, 128: 2.8, 256: 2.9}

    def rising(trainer, corpus, folder, row):
        row = evaluate(trainer, corpus, folder, row)
        return row | {"loss": losses[row["tokens"] // trainer.config.batch_tokens]}

    monkeypatch.setattr(attempt, "evaluate", rising)


def test_it_finishes_with_fewer_observations_and_spends_less(repeated, risen, tmp_path):
    reported = []
    outcome = train(repeated, tmp_path, report=reported.append)
    seen = rows(tmp_path, "observation")
    batch = repeated.batch_tokens
    assert [row["tokens"] for row in seen] == [8 * batch, 16 * batch, 32 * batch, 64 * batch]
    (ended,) = rows(tmp_path, "ended")
    assert (ended["status"], ended["reason"]) == ("finished", PAST_MINIMUM)
    assert outcome.status == "finished"
    assert outcome.loss == 2.7
    assert outcome.flops_spent == ended["flops_spent"] < 0.4 * repeated.flops_exact
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    assert int(checkpoint.name) == 64 * batch
    # Asked again, it says the same and trains nothing.
    again = []
    assert train(repeated, tmp_path, report=again.append) == outcome
    assert [row["kind"] for row in again] == ["observation"] * 4 + ["ended"]


def test_errors_of_differences_are_paired(repeated, tmp_path):
    config = repeated.model_copy(update={"early_end": None})
    train(config, tmp_path, report=lambda row: None)
    seen = rows(tmp_path, "observation")
    assert len(seen) == 6
    assert seen[0]["loss_stderr_paired"] is None
    for number, row in enumerate(seen[1:], start=1):
        lowest = min(seen[:number], key=lambda other: other["loss"])
        here, there = (
            np.load(tmp_path / "evaluations" / f"{one['tokens']}.npy") for one in (row, lowest)
        )
        expected = np.std(here - there, ddof=1) / len(here) ** 0.5
        assert row["loss_stderr_paired"] == pytest.approx(expected)


def test_a_kill_before_the_end_is_written_changes_nothing(repeated, risen, tmp_path):
    train(repeated, tmp_path / "straight", report=lambda row: None)

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def die_at_the_last(row):
        if row["kind"] == "observation" and row["loss"] == 2.7:
            raise Killed

    with pytest.raises(Killed):
        train(repeated, tmp_path / "killed", report=die_at_the_last)
    assert not rows(tmp_path / "killed", "ended")
    outcome = train(repeated, tmp_path / "killed", report=lambda row: None)
    assert (outcome.status, outcome.loss) == ("finished", 2.7)
    kept = ("observation", "loss", "loss_stderr", "loss_stderr_paired", "flops_spent")
    for row, other in zip(
        rows(tmp_path / "straight", "observation"),
        rows(tmp_path / "killed", "observation"),
        strict=True,
    ):
        assert {k: row[k] for k in kept} == {k: other[k] for k in kept}
