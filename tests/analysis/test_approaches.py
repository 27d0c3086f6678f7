"""Approaches 1, 2 and 3 on one table: they agree where they can, and say where they cannot."""

import numpy as np
import pandas as pd
import pytest
from laboratory import true_loss, true_optimum

from analysis.approaches import COLUMNS, compare_approaches
from analysis.errors import FitError
from analysis.reference import compute_runs


def grid(reach: float = 3.0, noise: float = 0.002, drift: float = 1.0) -> pd.DataFrame:
    """Return five budgets of nine sizes about each one's best, `drift` off more at each."""
    rng = np.random.default_rng(0)
    tables = []
    for i, flops in enumerate(np.geomspace(1e9, 1e12, 5)):
        params = drift**i * true_optimum(flops)[0] * np.geomspace(1 / reach, reach, 9)
        tokens = flops / 6 / params
        loss = true_loss(params, tokens) * np.exp(noise * rng.standard_normal(9))
        tables.append(pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}))
    return pd.concat(tables, ignore_index=True)


def curves() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    tables = []
    for i, params in enumerate(np.geomspace(3e3, 3e6, 14)):
        tokens = params * np.geomspace(2.0, 2000.0, 30)
        loss = true_loss(np.full(30, params), tokens) * np.exp(0.002 * rng.standard_normal())
        table = {"trajectory": f"t{i}", "params": params, "tokens": tokens, "loss": loss}
        tables.append(pd.DataFrame(table).assign(cooled=True))
    return pd.concat(tables, ignore_index=True)


def test_all_three_find_the_optimum_of_a_known_law():
    runs = pd.concat([grid().assign(trajectory=lambda t: [f"g{i}" for i in t.index]), curves()])
    runs["cooled"] = True
    found = compare_approaches(runs.reset_index(drop=True), 1e13, bootstrap=100)
    rows = found.table.iloc[:3]
    truth = true_optimum(1e13)[0]
    assert list(rows["approach"].str[0]) == ["1", "2", "3"]
    assert np.abs(rows["a"] - 0.38 / 0.80).max() < 0.05
    assert np.abs(np.log(rows["params"] / truth)).max() < 0.25
    np.testing.assert_allclose(6 * rows["params"] * rows["tokens"], 1e13)
    np.testing.assert_allclose(rows["a"] + rows["b"], 1.0)
    np.testing.assert_allclose(6 * rows["k_N"] * rows["k_D"], 1.0)
    assert (rows["params_low"] < rows["params"]).all()
    assert (rows["params"] < rows["params_high"]).all()
    np.testing.assert_allclose(6 * rows["params_low"] * rows["tokens_high"], 1e13, rtol=1e-6)


def test_a_table_without_curves_says_so_and_has_the_other_two():
    found = compare_approaches(grid(), 1e13, bootstrap=50)
    first = found.table.iloc[0]
    assert "trajectory" in first["note"]
    assert np.isnan(first["a"])
    assert found.table["params"].iloc[1:3].notna().all()


def test_sizes_off_the_best_are_reported_as_bias_and_correct_the_answer():
    centred = compare_approaches(grid(noise=0.0), 1e13, bootstrap=20).table.iloc[1]
    assert abs(centred["a_bias"]) < 0.002
    assert "biased" not in centred["note"]
    found = compare_approaches(grid(reach=8.0, noise=0.0, drift=1.5), 1e13, bootstrap=20)
    row = found.table.iloc[1]
    assert "biased" in row["note"]
    assert row["a_bias"] == pytest.approx(row["a"] - 0.38 / 0.80, abs=2e-3)
    truth = np.log(true_optimum(1e13)[0])
    assert np.log(row["params"]) - row["params_bias"] == pytest.approx(truth, abs=0.02)


def test_the_papers_runs_beside_the_published_answers():
    found = compare_approaches(compute_runs(), 1e21, huber_delta=1e-3, bootstrap=50)
    table = found.table
    assert tuple(table.columns) == COLUMNS
    named = list(zip(table["source"], table["approach"].str[0], strict=True))
    assert named[3:] == [
        ("Quokka", "2"),
        ("Quokka", "3"),
        ("Chinchilla", "1"),
        ("Chinchilla", "2"),
        ("Chinchilla", "3"),
    ]
    assert table["a"][1] == pytest.approx(table["a"][3], abs=5e-4)
    assert table["a"][2] == pytest.approx(0.452, abs=1e-3)
    assert table["a"][4] == pytest.approx(0.4993, abs=1e-4)
    assert table["k_D"][7] == pytest.approx(0.278, abs=1e-3)
    text = found.markdown()
    assert text.count("\n|") == 9
    assert "| Quokka | 3 (its approach 2) | 0.499 |" in text


def test_a_budget_that_is_no_budget_is_refused():
    with pytest.raises(FitError, match="budget"):
        compare_approaches(grid(), 0.0)
