"""What the rule for hopeless trials would have done to real ones that went to their ends."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

from analysis.hopeless import FEWEST
from analysis.runs import validate_runs
from quokka_ray.study.config import HopelessConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("hopeless")


@pytest.fixture(scope="module")
def runs():
    return pd.read_csv(ROOT / "docs" / "results" / "hopeless" / "muon.csv")


def test_no_run_that_would_have_ended_within_the_margin_is_ended(benchmark, runs):
    validate_runs(runs)
    rule = HopelessConfig(margin=0.05, deviations=3)
    seen = list(benchmark.replay(runs, rule, seed=0))
    assert len(seen) == len(runs) - FEWEST
    ended = [one for one in seen if one.at is not None]
    assert ended
    assert all(one.excess > rule.margin for one in ended)
    assert sum(one.excess > rule.margin for one in seen) < len(seen) / 3
