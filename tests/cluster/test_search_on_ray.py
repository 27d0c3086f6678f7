"""Searches on a real local Ray cluster: to the end, through Ctrl-C, and through kill -9."""

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

from analysis.lawfile import load_law

pytestmark = pytest.mark.slow


def check_books(folder: Path, budget: float) -> None:
    """Hold a finished study against its promises: nothing lost, nothing doubled, cap kept."""
    ledger = records(folder)
    observations = [r["observation"] for r in ledger if r["kind"] == "observation"]
    assert len(observations) == len(set(observations))
    assert set(observations) == observed_on_disk(folder)
    planned = {r["trajectory"] for r in ledger if r["kind"] == "planned"}
    ended = [r["trajectory"] for r in ledger if r["kind"] == "ended"]
    assert sorted(ended) == sorted(planned), "every started trajectory has ended, once"
    spent = sum(r["flops_spent"] for r in ledger if r["kind"] == "ended")
    smallest = min(r["reserved_flops"] for r in ledger if r["kind"] == "planned")
    assert budget - 1.1 * smallest < spent <= budget


def test_a_search_ends_with_a_law_and_a_recommendation(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    process = start("search", str(study), "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder = tmp_path / "runs" / "tiny"
    check_books(folder, 1.5e10)
    answer = json.loads(out)
    assert answer["params"]["low"] < answer["params"]["value"] < answer["params"]["high"]
    law = load_law(next(folder.glob("laws/*/law.json")))
    assert law.predict(10_000, 1_000_000).value > 0
    assert (folder / "optuna.journal").exists()
    assert list(folder.glob("tensorboard/**/events.out.tfevents.*"))


def test_ctrl_c_stops_within_seconds_keeps_everything_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    study = write_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    process = start("search", str(study))
    try:
        await_(
            lambda: sum(r["kind"] == "observation" for r in records(folder)) >= 2,
            "second observation",
            process,
        )
        # As a terminal does: the signal goes to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        kill_group(process)
    assert process.returncode == 130, err
    assert f"quokka-ray resume {folder}" in err
    before = records(folder)

    process = start("resume", str(folder))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert records(folder)[: len(before)] == before, "the ledger only grows"
    check_books(folder, 1.5e10)


def test_a_driver_killed_twice_loses_and_repeats_nothing(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    command = ["search", str(study)]
    for kills in (2, 5):
        process = start(*command)
        try:
            await_(
                lambda enough=kills: len(observed_on_disk(folder)) >= enough,
                f"observation {kills}",
                process,
            )
            os.kill(process.pid, signal.SIGKILL)
        finally:
            kill_group(process)
        command = ["resume", str(folder)]
    process = start(*command)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    check_books(folder, 1.5e10)


def in_flight(folder: Path) -> set[str]:
    """Return the trajectories that have been started and have not ended."""
    ledger = records(folder)
    return {r["trajectory"] for r in ledger if r["kind"] == "started"} - {
        r["trajectory"] for r in ledger if r["kind"] == "ended"
    }


def started_again(folder: Path) -> bool:
    return any(r["kind"] == "started" and r["attempt"] == 2 for r in records(folder))


def test_a_worker_that_dies_is_replaced_and_its_trajectory_run_again(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    process = start("search", str(study))
    try:
        await_(lambda: len(observed_on_disk(folder)) >= 1, "an observation", process)
        # A worker may be killed between two trajectories, and then nothing is lost with it: once
        # all that were in flight have ended it is known that this one was, and another is killed.
        while not started_again(folder):
            await_(lambda: bool(workers_of(process, "ImplicitFunc")), "a worker", process)
            before = in_flight(folder)
            for worker in workers_of(process, "ImplicitFunc")[:1]:
                worker.kill()
            await_(
                lambda before=before: started_again(folder) or not before & in_flight(folder),
                "an answer to a worker's death",
                process,
            )
        _, err = process.communicate(timeout=300)
    finally:
        kill_group(process)
    assert process.returncode == 0, err
    check_books(folder, 1.5e10)
