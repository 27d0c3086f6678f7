"""Trajectories of several workers on a real local Ray cluster."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.tiny import (
    await_,
    kill_group,
    observed_on_disk,
    records,
    start,
    workers_of,
    write_study,
)

from quokka_ray.cluster.machines import Room
from quokka_ray.cluster.workers import _Appended
from quokka_ray.cluster.worlds import Worlds
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.model.shapes import make_shape
from quokka_ray.study.config import DiffusionConfig, ModelConfig, ResourcesConfig, TrainingConfig
from quokka_ray.study.loader import load_study

PAIRS = ["--set", "resources.workers_per_trial=2"]
# Seven processes start, each for seconds of a core that others may be using.
START_SECONDS = 400
# Long enough to be met in mid-run, and few.
TWO_RUNS = ["--set", "budget.trials=2", "--set", "search.run_flops.low=4e9"]


def check_books(folder: Path, trials: int) -> None:
    """Hold a finished study against its promises: nothing lost, nothing doubled."""
    ledger = records(folder)
    observations = [r["observation"] for r in ledger if r["kind"] == "observation"]
    assert len(observations) == trials
    assert len(set(observations)) == trials
    assert set(observations) == observed_on_disk(folder)
    ended = [r for r in ledger if r["kind"] == "ended"]
    assert len(ended) == trials
    assert all(r["status"] == "finished" for r in ended)


def losses(folder: Path) -> dict[str, float]:
    return {r["observation"]: r["loss"] for r in records(folder) if r["kind"] == "observation"}


def progressing(folder: Path) -> bool:
    """Return whether a trajectory has written a checkpoint and not yet ended."""
    return any(
        not any('"ended"' in line for line in (path / "metrics.jsonl").read_text().splitlines())
        for path in folder.glob("trajectories/*")
        if list(path.glob("checkpoints/*/COMPLETE"))
    )


@pytest.mark.slow
def test_pairs_of_workers_find_what_single_ones_do(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folders = []
    for name, extra in (("pairs", PAIRS), ("single", [])):
        process = start(
            "search", str(study), "--set", f"name={name}", "--set", "budget.trials=2", *extra
        )
        _, err = process.communicate(timeout=400)
        # Two runs are too few for a law: that is said, and they are all there.
        assert process.returncode == 5, err
        folders.append(tmp_path / "runs" / name)
        check_books(folders[-1], 2)
    assert losses(folders[0]) == pytest.approx(losses(folders[1]), rel=2e-3)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_attempt_and_the_next_one_resumes(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    process = start("search", str(study), *PAIRS, *TWO_RUNS)
    try:
        await_(lambda: progressing(folder), "checkpoint", process, START_SECONDS)
        workers_of(process, "RayTrainWorker")[-1].kill()
        _, err = process.communicate(timeout=500)
    finally:
        kill_group(process)
    assert process.returncode == 5, err
    check_books(folder, 2)
    assert any(r["kind"] == "started" and r["attempt"] == 2 for r in records(folder))
    rows = [
        json.loads(line)
        for path in folder.glob("trajectories/*/metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    again = [row for row in rows if row["kind"] == "progress" and row["attempt"] == 2]
    assert again, "the second attempt trained"
    smallest = min(row["tokens"] for row in rows if row["kind"] == "progress")
    assert again[0]["tokens"] > smallest, "it did not begin at the beginning"


@pytest.mark.slow
def test_ctrl_c_stops_workers_together_and_a_resume_goes_on(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    process = start("search", str(study), *PAIRS, *TWO_RUNS)
    try:
        await_(lambda: progressing(folder), "checkpoint", process, START_SECONDS)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        kill_group(process)
    assert process.returncode == 130, err
    before = records(folder)
    # By one worker: a world of another size, and what it had spent is not spent again.
    process = start("resume", str(folder), "--set", "resources.workers_per_trial=1")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 5, err
    assert records(folder)[: len(before)] == before, "the ledger only grows"
    check_books(folder, 2)


@pytest.mark.slow
def test_one_given_run_trains_on_workers_without_a_search(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    process = start(
        "train", str(study), *PAIRS, "--params", "4k", "--tokens", "40k", "--json",
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    answer = json.loads(out)
    assert answer["status"] == "finished"
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["kind"] == "ended"
    assert answer["loss"] == next(r["loss"] for r in rows if r["kind"] == "observation")


@pytest.mark.slow
def test_more_workers_than_the_cluster_has_are_refused_at_the_start(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    process = start("search", str(study), *PAIRS, "--set", "resources.cpus_per_trial=64")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "no room for one trial of 2 workers: each asks for 64 CPUs" in err


def test_trials_at_once_are_counted_in_workers() -> None:
    room = Room(cpus=1, gpus=1, workers=8, has="8 CPUs and 8 GPUs")
    assert [room.trials(workers) for workers in (1, 2, 3, 8)] == [8, 4, 2, 1]
    with pytest.raises(MachineError, match="no room for one trial of 9 workers"):
        room.trials(9)


def test_auto_takes_more_workers_where_a_model_does_not_fit_one() -> None:
    resources = ResourcesConfig(workers_per_trial="auto")
    room = Room(cpus=1, gpus=1, workers=16, has="16 GPUs")
    worlds = Worlds(resources, room, lambda: 80e9)
    model, training = ModelConfig(), TrainingConfig(precision="bf16")
    counts = [
        worlds.of_size(
            make_shape(width, layers, model), model, 50_000, training, DiffusionConfig()
        )
        for width, layers in ((1024, 12), (4096, 32))
    ]
    assert counts[0] == 1 < counts[1]
    assert all(training.batch_sequences % count == 0 for count in counts)
    with pytest.raises(MachineError, match="does not fit 16 GPU"):
        worlds.of_size(make_shape(8192, 40, model), model, 50_000, training, DiffusionConfig())
    whole = training.model_copy(update={"sharding": "none"})
    with pytest.raises(MachineError, match="does not fit 1 GPU"):
        worlds.of_size(make_shape(4096, 32, model), model, 50_000, whole, DiffusionConfig())


def test_without_gpus_auto_is_one_worker() -> None:
    def never() -> float:
        raise AssertionError("nobody should look for a GPU")

    worlds = Worlds(ResourcesConfig(workers_per_trial="auto"), Room(1, 0, 2, "2 CPUs"), never)
    model = ModelConfig()
    assert (
        worlds.of_size(
            make_shape(8192, 40, model), model, 50_000, TrainingConfig(), DiffusionConfig()
        )
        == 1
    )


def test_a_batch_that_workers_cannot_share_is_refused_with_the_study(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be shared by"):
        load_study([str(study)], ["resources.workers_per_trial=3"])


def test_rows_are_read_as_they_come_and_a_cut_line_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(_Appended(path).rows()) == []
    path.write_text('{"a": 0}\n{"a": ')
    appended = _Appended(path)
    # A new attempt cuts the unfinished line off before it writes.
    path.write_text('{"a": 0}\n')
    assert list(appended.rows()) == []
    with path.open("a") as file:
        file.write('{"a": 1}\n{"a": 2')
        file.flush()
        assert list(appended.rows()) == [{"a": 1}]
        file.write("}\n")
        file.flush()
        assert list(appended.rows()) == [{"a": 2}]
    assert list(appended.rows()) == []
