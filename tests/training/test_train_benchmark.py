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


def test_a_group_that_fails_is_named_and_the_next_one_is_measured(benchmark, monkeypatch, capsys):
    from benchmarks.training import step, tiny
    from benchmarks.training.table import Row

    def broken(setting):
        yield Row("first", 1.0)
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(step, "rows", broken)
    monkeypatch.setattr(tiny, "rows", lambda setting: iter([Row("second", 3.0, 2.0)]))
    monkeypatch.setattr(sys, "argv", ["train.py", "--only", "step", "tiny"])
    assert benchmark.main() == 1
    said = capsys.readouterr().out
    assert "step: failed, its other rows are missing: RuntimeError: the device is gone" in said
    assert "second" in said
    assert said.splitlines()[-1].startswith("ratio 1.5")


def test_what_has_not_begun_when_the_time_is_over_is_named(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "--minutes", "0", "--only", "step", "tiny"])
    assert benchmark.main() == 0
    said = capsys.readouterr().out
    assert "--only tiny measures it" in said
