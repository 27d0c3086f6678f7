"""The benchmark of autoregression against diffusion, from a few lines of text to its page."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.errors import RunTableError
from analysis.runs import validate_runs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crossover.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("crossover", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_run_is_observed_after_each_doubling_and_later_twice_as_often(benchmark):
    assert benchmark.observed_epochs(3) == [1, 2, 3]
    assert benchmark.observed_epochs(40) == [1, 2, 4, 8, 12, 16, 24, 32, 40]


def test_a_run_ends_once_its_loss_has_risen_enough_and_not_before(benchmark):
    assert not benchmark.is_past([2.0], 0.05)
    assert not benchmark.is_past([2.0, 1.9, 1.94], 0.05)
    assert benchmark.is_past([2.0, 1.9, 1.96], 0.05)


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
