"""The pool of live trajectories: trained once, gone on with, and written as a run table."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.runs import validate_runs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("live_pool")
    monkeypatch.setattr(module, "GRID", {4e9: (8,)})
    monkeypatch.setattr(module, "BETWEEN", {})
    monkeypatch.setattr(module, "DEAREST", {})
    return module


def test_what_has_ended_is_not_trained_again_and_what_has_not_is_no_row(
    pool, corpus, tmp_path, monkeypatch
):
    options = SimpleNamespace(
        out=tmp_path, corpus=f"prepared:{corpus.path}", seeds=2, sequences=64
    )
    first, second = pool.places(options.seeds)
    assert pool.table_of(options).empty
    pool.go(first, options)
    table = validate_runs(pool.table_of(options))
    assert set(table["trajectory"]) == {first.name}
    assert set(table["study"]) == {"live_pool"}
    assert table["flops"].max() == pytest.approx(4e9, rel=0.02)
    monkeypatch.setattr(pool, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    pool.go(first, options)
    assert second.name not in set(pool.table_of(options)["trajectory"])
