"""Fits of published runs land on the known optima of the published objective."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import fit_plain

from analysis.fitting.isoflop import isoflop_parabolas
from analysis.runs import read_runs

ROOT = Path(__file__).parents[2]
QUOKKA = ROOT / "analysis" / "reference" / "quokka_compute.csv"
EPOCH = ROOT.parent / "shared" / "data" / "chinchilla_epoch.csv"
COLUMNS = {"loss": "train_loss"}


@pytest.fixture(scope="module")
def quokka() -> pd.DataFrame:
    return read_runs(QUOKKA, COLUMNS)


def test_epoch_table_gives_the_published_objectives_optimum():
    if not EPOCH.is_file():
        pytest.skip("the Epoch table lies outside the repository, in ../shared/data")
    runs = read_runs(EPOCH, COLUMNS)
    runs = runs[runs["excluded_in_published_fit"] == 0]
    assert len(runs) == 240
    fit = fit_plain(runs, huber_delta=1e-3, bootstrap=400)
    assert fit.objective == pytest.approx(1.0182740178e-3, abs=1e-12)
    found = [fit.parameters[n].value for n in ("E", "A", "B", "alpha", "beta")]
    known = [1.81721810, 477.825868, 2143.41736, 0.347310499, 0.367172433]
    np.testing.assert_allclose(found, known, rtol=1e-5)
    assert all(fit.identified.values())
    # Published 95 % interval of the bootstrap: A 287 to 728; ours is 90 %.
    assert 280 < fit.parameters["A"].low < 340
    assert 620 < fit.parameters["A"].high < 740


def test_quokka_runs_give_a_lower_objective_than_the_printed_law(quokka):
    fit = fit_plain(quokka, huber_delta=1e-3, bootstrap=100)
    assert fit.objective <= 8.1531e-4
    assert fit.parameters["E"].value == pytest.approx(2.4991, abs=1e-3)
    assert fit.parameters["alpha"].value == pytest.approx(0.4494, abs=1e-3)
    a = fit.parameters["beta"].value
    a /= a + fit.parameters["alpha"].value
    assert a == pytest.approx(0.452, abs=1e-3)


def test_quokka_isoflop_minima_follow_the_printed_power_laws(quokka):
    found = isoflop_parabolas(quokka)
    assert list(found.minima["runs"]) == [10] * 8 + [7]
    assert found.minima["both_arms"].all()
    assert found.params_law is not None
    assert found.tokens_law is not None
    assert found.params_law.factor == pytest.approx(0.02165, abs=5e-5)
    assert found.params_law.exponent == pytest.approx(0.5138, abs=5e-5)
    assert found.tokens_law.factor == pytest.approx(7.70, abs=5e-3)
    assert found.tokens_law.exponent == pytest.approx(0.4862, abs=5e-5)
    millions = [66.0, 97.5, 134.5, 220.9, 308.9, 373.8, 719.9, 1044.8, 1379.9]
    np.testing.assert_allclose(found.minima["params"] / 1e6, millions, rtol=1e-3)


def test_auto_threshold_follows_the_noise(quokka):
    fit = fit_plain(quokka, bootstrap=50)
    assert fit.delta == pytest.approx(1.345 * fit.sigma, rel=0.3)
    assert 0.006 < fit.sigma < 0.016


def test_same_seed_gives_the_same_samples_and_another_seed_others(quokka):
    first, again, other = (fit_plain(quokka, bootstrap=30, seed=s).samples for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
