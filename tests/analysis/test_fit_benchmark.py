"""The benchmark of fits runs without other people's tables or packages."""

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fit.py"


def test_the_benchmark_takes_simulated_rows_and_ends_with_the_ratio(monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location("benchmark_of_fits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "EPOCH", tmp_path / "absent.csv")
    monkeypatch.setattr(benchmark.SciPy.from_many_starts, "__defaults__", (4,))
    monkeypatch.setattr(sys, "argv", ["fit.py", "--quick", "--peer", str(tmp_path / "absent")])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    assert "simulated rows" in lines[0]
    assert any(line.startswith("chinchilla (PyPI)  skipped") for line in lines)
    assert lines[-1].startswith("ratio: fit ")
