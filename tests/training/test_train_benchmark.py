"""The benchmark of training runs without Ray, without a corpus and without an installation."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("benchmark_of_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_ends_with_the_least_share_of_an_aim(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--quick", "--only", "step"])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("CPU, 1 thread, fp32") for line in lines)
    assert lines[-1].startswith("ratio ")


def test_every_group_names_a_module_that_yields_rows(benchmark):
    for group in benchmark.GROUPS.values():
        assert callable(importlib.import_module(f"benchmarks.training.{group.module}").rows)
        assert group.device in ("cpu", "cuda", "any")
