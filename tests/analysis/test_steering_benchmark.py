"""The benchmark of steering: budgets add up, thresholds are read off curves fairly."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import difference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def truths(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("steering_surfaces").TRUTHS


@pytest.fixture
def ways(monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("steering_ways").WAYS


@pytest.fixture
def written(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("steering_report")


@pytest.mark.parametrize("way", ["steered", "random", "grid", "paper", "oracle-grid"])
def test_no_way_spends_more_than_its_budget(truths, ways, way):
    budgets = (0.3, 0.5) if way != "random" else (0.3, 2.0)
    rows = pd.DataFrame(ways[way](truths["chinchilla"], 0, budgets))
    at = rows[rows["budget"].notna()]
    assert list(at["budget"]) == list(budgets)
    assert np.all(at["spent"] <= at["budget"] * (1 + 1e-9))
    assert np.isfinite(at["ln_loss"].iloc[-1])


def test_a_search_repeats_itself_by_seed(truths, ways):
    truth = truths["growing noise"]
    first, second, other = (
        ways["steered"](truth, seed, (0.15,))[0]["ln_loss"] for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_a_threshold_counts_from_where_the_error_stays_below(written):
    curve = pd.DataFrame({"budget": [1.0, 2.0, 4.0, 8.0], "ln_loss": [0.5, 2.0, 0.5, 0.25]})
    assert written.crossing(curve, "ln_loss", 1.0) == pytest.approx(2.0 * 2**0.5)
    assert written.crossing(curve, "ln_loss", 3.0) == 1.0
    assert written.crossing(curve, "ln_loss", 0.1) == np.inf
    curve["ln_loss"] = [np.inf, 0.5, 0.4, 0.3]
    assert written.crossing(curve, "ln_loss", 1.0) == 2.0


@pytest.mark.parametrize("skew", [0.0, 0.6, -1.4])
def test_the_recipe_laws_gradient_is_that_of_its_formula(monkeypatch, skew):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    recipe = importlib.import_module("steering_recipe")
    rng = np.random.default_rng(0)
    x, z, lr, batch = rng.standard_normal((4, 12)) * np.array([[1.0], [1.0], [1.5], [1.5]])
    points = recipe.RecipePoints(x, z, None, lr, batch)
    theta = 0.3 * rng.standard_normal(16)
    theta[[5, 10]] = -2.0
    theta[[9, 14]] = skew + 2e-3
    law = recipe.RecipeLaw()
    numeric = difference(lambda t: law.log_loss(t, points), theta)
    np.testing.assert_allclose(law.gradient(theta, points), numeric, rtol=1e-5, atol=1e-7)


def test_a_recipe_laws_bowl_without_skew_and_tilt_is_a_parabola(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    recipe = importlib.import_module("steering_recipe")
    off = np.linspace(-2.0, 2.0, 5)
    same = np.zeros(5)
    theta = np.zeros(16)
    theta[5] = np.log(0.02)
    loss = recipe.RecipeLaw().log_loss(theta, recipe.RecipePoints(same, same, None, off, same))
    np.testing.assert_allclose(loss - loss[2], 0.02 * off**2, rtol=2e-3)
