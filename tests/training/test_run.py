import json
import math

import numpy as np
import pytest
from trajectories import trajectory

from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.model.counts import flops_per_token
from quokka_ray.study.config import DiffusionConfig
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.run import train


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the run may catch it."""


def rows_of(folder, kind=None):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


def run(config, folder, **options):
    reported = []
    outcome = train(config, folder, report=reported.append, **options)
    return outcome, reported


def stop_after(polls):
    count = iter(range(polls))
    return lambda: next(count, None) is None


@pytest.fixture(scope="module")
def straight(corpus, tmp_path_factory):
    config = trajectory(corpus)
    outcome, _ = run(config, tmp_path_factory.mktemp("straight"))
    return config, outcome


def test_a_run_learns_and_leaves_its_whole_record(corpus, tmp_path):
    config = trajectory(corpus, steps=300, report_seconds=0.05)
    outcome, reported = run(config, tmp_path)
    assert outcome.status == "finished"
    assert outcome.loss < 0.6 * math.log(corpus.vocab_size)
    assert 0 < outcome.loss_stderr < 0.2
    assert rows_of(tmp_path) == reported
    assert len(rows_of(tmp_path, "progress")) > 3
    (observation,) = rows_of(tmp_path, "observation")
    assert observation["observation"] == f"t0@{config.tokens}+cooldown"
    assert observation["loss"] == outcome.loss
    assert observation["perplexity"] == pytest.approx(math.exp(outcome.loss))
    # Bytes as tokens, but for the ends of documents, which have no text.
    assert 1 <= observation["bits_per_byte"] / (outcome.loss / math.log(2)) < 1.01
    assert observation["tokens"] == config.tokens
    assert observation["flops"] == config.flops
    (ended,) = rows_of(tmp_path, "ended")
    assert ended["status"] == "finished"
    assert ended["flops_spent"] == outcome.flops_spent == pytest.approx(config.flops_exact)
    saved = TrajectoryConfig.model_validate_json((tmp_path / "config.json").read_text())
    assert saved == config
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(config.tokens)]
    per_sequence = np.load(tmp_path / "evaluations" / f"{config.tokens}.npy")
    assert per_sequence.mean() == outcome.loss


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stops", [[1], [59], [17, 2, 30]])
def test_a_stopped_and_resumed_run_equals_a_straight_one_to_the_bit(
    corpus, tmp_path, optimizer, stops
):
    config = trajectory(corpus, optimizer=optimizer)
    expected, _ = run(config, tmp_path / "straight")
    for polls in stops:
        outcome, reported = run(config, tmp_path / "resumed", should_stop=stop_after(polls))
        assert outcome.status == "interrupted"
        assert not any(row["kind"] == "ended" for row in reported)
    outcome, _ = run(config, tmp_path / "resumed")
    assert outcome == expected
    assert (
        rows_of(tmp_path / "resumed", "observation")[0]["train_loss"]
        == (rows_of(tmp_path / "straight", "observation")[0]["train_loss"])
    )
    assert rows_of(tmp_path / "resumed")[-1]["attempt"] == len(stops) + 1


def test_a_killed_run_resumes_from_its_checkpoint_and_pays_for_the_lost_work(
    corpus, tmp_path, straight
):
    config, expected = straight
    per_step = flops_per_token(config.shape, config.model, config.vocab_size) * config.batch_tokens
    # Forty steps to a checkpoint, then a report at every step until the kill nine steps on.
    train(config, tmp_path, report=lambda row: None, should_stop=stop_after(40))
    impatient = config.model_copy(
        update={"training": config.training.model_copy(update={"report_seconds": 1e-9})}
    )

    def kill(row):
        if row["tokens"] == 49 * config.batch_tokens:
            raise Killed

    with pytest.raises(Killed):
        train(impatient, tmp_path, report=kill)
    outcome, _ = run(config, tmp_path)
    assert outcome.loss == expected.loss
    assert outcome.flops_spent == pytest.approx(expected.flops_spent + 9 * per_step, rel=1e-12)


def test_a_run_killed_before_any_checkpoint_starts_again_and_pays_twice(
    corpus, tmp_path, straight
):
    config, expected = straight

    def kill(row):
        if row["kind"] == "observation":
            raise AssertionError("came too far")
        raise Killed

    hasty = config.model_copy(
        update={"training": config.training.model_copy(update={"report_seconds": 1e-9})}
    )
    with pytest.raises(Killed):
        train(hasty, tmp_path, report=kill)
    outcome, _ = run(hasty, tmp_path)
    one_step = flops_per_token(config.shape, config.model, config.vocab_size) * config.batch_tokens
    assert outcome.loss == expected.loss
    assert outcome.flops_spent == pytest.approx(expected.flops_spent + one_step, rel=1e-12)


@pytest.mark.parametrize("kind", ["observation", "ended"])
def test_a_run_killed_at_its_end_reports_its_observation_without_training_again(
    corpus, tmp_path, straight, kind
):
    config, expected = straight

    def kill(row):
        if row["kind"] == kind:
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path, report=kill)
    outcome, reported = run(config, tmp_path)
    assert outcome == expected
    assert [row["kind"] for row in reported if row["kind"] != "progress"] == [
        "observation",
        "ended",
    ]
    assert len(rows_of(tmp_path, "observation")) == 1
    assert len(rows_of(tmp_path, "ended")) == 1


def test_an_ended_run_reports_itself_again_and_spends_nothing(corpus, tmp_path):
    config = trajectory(corpus, steps=4)
    first, before = run(config, tmp_path)
    again, after = run(config, tmp_path)
    assert again == first
    assert after == [row for row in before if row["kind"] in ("observation", "ended")]
    assert rows_of(tmp_path) == before


def test_a_line_cut_short_by_a_kill_is_dropped(corpus, tmp_path, straight):
    config, expected = straight
    train(config, tmp_path, report=lambda row: None, should_stop=stop_after(5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "progress", "tok')
    outcome, _ = run(config, tmp_path)
    assert outcome == expected
    assert len(rows_of(tmp_path, "ended")) == 1


def test_a_checkpoint_without_its_mark_does_not_exist(corpus, tmp_path, straight):
    config, expected = straight
    train(config, tmp_path, report=lambda row: None, should_stop=stop_after(5))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    (checkpoint / "COMPLETE").unlink()
    (checkpoint / "state.pt").write_bytes(b"half")
    outcome, _ = run(config, tmp_path)
    assert outcome.loss == expected.loss
    assert outcome.flops_spent > expected.flops_spent


def test_a_run_that_blows_up_ends_as_diverged_and_says_why(corpus, tmp_path):
    config = trajectory(corpus, steps=400, optimizer="adamw", lr=1e4, grad_clip=1e9)
    outcome, _ = run(config, tmp_path)
    assert outcome.status == "diverged"
    assert math.isnan(outcome.loss)
    (ended,) = rows_of(tmp_path, "ended")
    assert ended["status"] == "diverged"
    assert "training loss" in ended["reason"]
    assert 0 < ended["flops_spent"] <= config.flops_exact
    assert rows_of(tmp_path, "observation") == []
    again, _ = run(config, tmp_path)
    assert again.status == "diverged"


def test_a_loss_that_is_not_finite_ends_as_diverged(corpus, tmp_path):
    config = trajectory(corpus, optimizer="adamw", lr=1e38)
    outcome, _ = run(config, tmp_path)
    assert outcome.status == "diverged"
    # The record stays plain JSON.
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_runs_in_one_process_do_not_touch_each_other(corpus, tmp_path, straight):
    config, expected = straight
    run(trajectory(corpus, steps=7, seed=5), tmp_path / "between")
    again, _ = run(config, tmp_path / "again")
    assert again == expected


def test_another_seed_is_another_run(corpus, tmp_path, straight):
    other, _ = run(trajectory(corpus, seed=1), tmp_path)
    assert other.loss != straight[1].loss


def test_a_constant_rate_gives_an_observation_that_is_not_cooled(corpus, tmp_path):
    run(trajectory(corpus, steps=4, lr_schedule="constant"), tmp_path)
    (observation,) = rows_of(tmp_path, "observation")
    assert observation["cooled"] is False
    assert not observation["observation"].endswith("+cooldown")


def test_half_precision_trains_to_nearly_the_same_loss(corpus, tmp_path, straight):
    outcome, _ = run(trajectory(corpus, precision="bf16"), tmp_path)
    assert outcome.status == "finished"
    assert outcome.loss == pytest.approx(straight[1].loss, rel=0.02)


def test_contradictions_are_refused_before_anything_is_written(corpus, tmp_path):
    good = trajectory(corpus)
    for update, sentence in (
        ({"tokens": good.tokens + 1}, "no whole number of steps"),
        ({"params": 1}, "its shape has"),
        ({"corpus_hash": "another"}, "of hash another"),
        ({"tokenizer": "another"}, "of tokenizer another"),
        ({"diffusion": DiffusionConfig(kernel="uniform")}, "not decided for kernel 'uniform'"),
    ):
        folder = tmp_path / "refused"
        with pytest.raises(ConfigurationError, match=sentence):
            run(good.model_copy(update=update), folder)
        assert not folder.exists()
    run(trajectory(corpus, steps=2), tmp_path / "taken")
    with pytest.raises(ConfigurationError, match="belongs to another run"):
        run(good, tmp_path / "taken")


def test_a_device_that_is_not_there_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MachineError, match="no GPU"):
        run(trajectory(corpus), tmp_path, device="cuda")
