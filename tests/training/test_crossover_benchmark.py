"""The benchmark of autoregression against diffusion, from a few lines of text to its page."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.errors import RunTableError
from analysis.runs import validate_runs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crossover.py"


@pytest.fixture
def runs(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("crossover_runs")


def test_a_run_is_observed_after_each_doubling_and_later_twice_as_often(runs):
    assert runs.observed_epochs(3) == [1, 2, 3]
    assert runs.observed_epochs(40) == [1, 2, 4, 8, 12, 16, 24, 32, 40]


def test_a_run_ends_once_its_loss_has_risen_enough_and_not_before(runs):
    assert not runs.is_past([2.0], 0.05)
    assert not runs.is_past([2.0, 1.9, 1.94], 0.05)
    assert runs.is_past([2.0, 1.9, 1.96], 0.05)


def test_arms_have_epochs_of_their_own_or_those_of_all(runs):
    epochs = [(None, 128.0), ("ar", 32.0)]
    asked = {arm: runs.epochs_of(arm, SimpleNamespace(epochs=epochs)) for arm in runs.ARMS}
    assert asked == {"ar": 32, "ar-regularised": 128, "mask": 128}
    assert runs.epochs_of("mask", SimpleNamespace(epochs=[])) == runs.EPOCHS


def test_a_run_of_fewer_epochs_goes_on_as_the_longer_one_to_the_bit(runs, corpus, tmp_path):
    recipe = runs.Recipe("mask", 3e3, 0.012)

    def losses(out: str, *lengths: float) -> list[float]:
        for epochs in lengths:
            options = SimpleNamespace(
                out=tmp_path / out, corpus=f"prepared:{corpus.path}", unique=4e3, batch=8,
                sequences=64, past=10.0, epochs=[(None, epochs)],
            )  # fmt: skip
            runs.go(recipe, options)
        return [row["loss"] for row in runs.observations(runs.folder_of(recipe, options))]

    whole = losses("whole", 4)
    assert len(whole) == 3
    assert losses("pieces", 1, 2, 4) == whole
    # A longer run holds the shorter one, which is not trained again.
    assert losses("whole", 2) == whole


def test_a_run_that_ended_before_the_longest_turned_has_no_lowest_loss(runs):
    page = importlib.import_module("crossover_page")
    rows = [(0, 8, 1.8), (0, 16, 1.7), (0, 32, 1.9), (1, 8, 1.8), (2, 8, 1.8), (2, 16, 1.6)]
    table = pd.DataFrame(rows, columns=["seed", "epochs", "loss"])
    assert page.lowest_rows(table)["loss"].to_dict() == {0: 1.7, 2: 1.6}


def test_every_arm_is_trained_once_and_reported_with_its_seeds(corpus, tmp_path):
    command = [
        sys.executable, str(SCRIPT), "--out", str(tmp_path), "--corpus", f"prepared:{corpus.path}",
        "--unique", "4k", "--params", "3k", "--epochs", "2", "--lr", "0.012", "--regularised",
        "0.3,0.1", "--seeds", "2", "--sequences", "64", "--batch", "8", "--processes", "1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = [
        subprocess.run(
            [*command, *also], capture_output=True, text=True, check=True, env=environment
        )
        for also in ([], ["--report"])
    ]
    assert done[0].stdout.endswith(done[1].stdout)
    assert "| 2 | " in done[1].stdout
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table.groupby("arm")["trajectory"].nunique().to_dict() == {
        "ar": 2,
        "ar-regularised": 2,
        "mask": 2,
    }
    assert set(table[table["arm"] == "ar-regularised"]["dropout"]) == {0.1}
    assert (tmp_path / "crossover.png").stat().st_size > 1000
    # No law holds for both families.
    with pytest.raises(RunTableError, match="mix"):
        validate_runs(table)
