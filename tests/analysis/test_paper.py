"""The paper's tables and laws come back from its own numbers, within what its digits allow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.paper.__main__ import main
from analysis.paper.alternatives import FORMS, kept_rows, objectives
from analysis.paper.compare import Cell, half_digit
from analysis.paper.epochs import (
    best_epochs,
    interior_epochs,
    log_tokens,
    loss,
    table3,
    table4,
)
from analysis.paper.laws import (
    ComputeLaws,
    allocation,
    natural,
    objective,
    recompute_laws,
    table1,
    table2,
    table5,
)
from analysis.reference import constants, printed_table
from analysis.reference.quokka import published_state
from analysis.units import parse_quantity

CURVES = Path(__file__).parents[3] / "shared" / "data" / "quokka_data_constrained.csv"


@pytest.fixture(scope="module")
def laws() -> ComputeLaws:
    return recompute_laws(bootstrap=200)


def test_half_a_unit_of_the_last_printed_digit():
    assert half_digit("39.3B") == pytest.approx(0.05 / 39.3)
    assert half_digit("9.46e19") == pytest.approx(0.005 / 9.46)
    assert half_digit("0.514") == pytest.approx(0.0005 / 0.514)
    assert Cell("70", 70.49).agrees
    assert not Cell("70", 70.51).agrees
    with pytest.raises(ValueError, match="not a printed number"):
        half_digit("about 3")


def test_isoflop_law_to_the_printed_digits(laws):
    params, tokens = laws.isoflop.params_law, laws.isoflop.tokens_law
    assert f"{params.exponent:.3f}" == "0.514"
    assert f"{tokens.exponent:.3f}" == "0.486"
    # Recomputed, the factor is .02165, on the edge between the printed .0216 and .0217.
    assert params.factor == pytest.approx(0.0216, abs=6e-5)
    assert f"{tokens.factor:.1f}" == "7.7"


def test_equation_13_is_not_the_optimum_of_its_objective(laws):
    printed = objective(laws.runs, natural("eq13", "printed"))
    stuck = objective(laws.runs, laws.stuck)
    assert printed == pytest.approx(9.988e-4, abs=2e-7)
    assert stuck == pytest.approx(8.92e-4, abs=2e-6)
    np.testing.assert_allclose(laws.stuck[1:3], [798.6, 4604.9], rtol=1e-6)
    assert laws.fit.objective <= 8.1531e-4
    assert allocation(laws.fit.law.natural(laws.fit.theta)).a == pytest.approx(0.452, abs=1e-3)


def test_table_1_to_the_printed_digits_but_for_chinchillas_own_rounding(laws):
    cells = table1(laws)
    wrong = cells[[not c.agrees for c in cells["cell"]]]
    assert [(r["row"], r["quantity"]) for _, r in wrong.iterrows()] == [
        ("Chinchilla 1", "k_D"),
        ("Chinchilla 3", "a"),
        ("Chinchilla 3", "b"),
    ]
    assert max(abs(c.difference) for c in wrong["cell"]) < 0.02


def test_tables_2_and_5_within_tolerance():
    assert all(cell.agrees for cell in table2()["cell"])
    assert all(cell.agrees for cell in table5("recovered")["cell"])
    assert all(cell.agrees for cell in table5("printed")["cell"])
    # The printed constants alone would not do for the recovered ones' tolerance.
    second = [c for c in table5("printed")["cell"][18:] if half_digit(c.printed) < 0.02]
    assert max(c.difference for c in second) < -0.02


def test_table_2_copies_chinchillas_tokens_from_six_n_d_but_for_one_cell():
    table = printed_table(2)
    wrong = []
    for _, row in table.iterrows():
        tokens = parse_quantity(row["chinchilla_flops"]) / 6 / parse_quantity(row["params"])
        rounding = half_digit(row["chinchilla_flops"])
        if not Cell(row["chinchilla_tokens"], tokens, rounding).agrees:
            wrong.append(row["params"])
    assert wrong == ["67B"]


def test_table_3_is_the_interior_stationary_point_in_every_cell():
    cells = table3()
    assert len(cells) == 81
    assert all(cell.agrees for cell in cells["cell"])
    rounded = [c for c in cells["cell"] if parse_quantity(c.printed) <= 9000]
    assert all(round(c.recomputed) == parse_quantity(c.printed) for c in rounded)
    worse = cells[cells["worse"]]
    assert list(zip(worse["params"], worse["unique_tokens"], strict=True)) == [
        ("67B", "100M"),
        ("175B", "100M"),
        ("520B", "1B"),
        ("1T", "1B"),
        ("10T", "100B"),
    ]


@pytest.mark.parametrize(
    ("params", "unique"), [(4e8, 1e7), (6.7e10, 1e8), (6.7e10, 1e7), (1e13, 1e11), (1e10, 1e12)]
)
def test_epochs_against_a_scan_of_the_loss(params, unique):
    law = constants("eq15", "recovered")
    grid = np.geomspace(1.0, 1e5, 20_001)
    worth = np.array([log_tokens(law, params, unique, e) for e in grid])
    losses = [loss(law, params, unique, e) for e in grid]
    assert best_epochs(law, params, unique) == pytest.approx(grid[np.argmin(losses)], rel=1e-3)
    peaks = np.flatnonzero((worth[1:-1] > worth[:-2]) & (worth[1:-1] >= worth[2:])) + 1
    expected = grid[peaks[0]] if len(peaks) else 1.0
    assert interior_epochs(law, params, unique) == pytest.approx(expected, rel=1e-3)


def test_table_4_is_a_flat_optimum():
    table = table4()
    for name in ("params", "epochs", "flops"):
        assert all(cell.agrees for cell in table[name])
    assert table["excess"].between(0.0, 5e-4).all()


def test_the_document_is_written_and_the_committed_one_shows_the_same_tables(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "paper.md")]) == 0
    text = (tmp_path / "paper.md").read_text()
    committed = Path(__file__).parents[2] / "docs" / "results" / "paper.md"
    rows = [line for line in text.splitlines() if line.startswith("| ") and "[" not in line]
    assert len(rows) > 80
    assert set(rows) <= set(committed.read_text().splitlines())
    for name in ("isoflop", "allocation", "table3", "table4"):
        assert f"(paper/{name}.svg)" in text
        assert (tmp_path / "paper" / f"{name}.svg").stat().st_size > 1000
    assert capsys.readouterr().out.strip().endswith("paper.md")


def test_a_table_of_curves_without_its_columns_is_refused(tmp_path, capsys):
    pd.DataFrame({"params": [1e6]}).to_csv(tmp_path / "c.csv")
    assert main(["--out", str(tmp_path / "p.md"), "--data", str(tmp_path / "c.csv")]) == 2
    assert "no column" in capsys.readouterr().err


def test_objectives_on_the_curves_rank_equation_23_first():
    if not CURVES.is_file():
        pytest.skip("the digitised curves lie outside the repository, in ../shared/data")
    rows = kept_rows(pd.read_csv(CURVES))
    assert len(rows) == 22_880
    found = objectives(rows)
    for name, value in constants("objective", "measured").items():
        law, status = name.split("_")
        assert found[law, status] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("name", ["eq15", "eq21", "eq23"])
def test_the_documents_formulas_are_the_packages_laws(name):
    N, U, e = np.array([1e8, 1e9, 4e9]), np.array([1e7, 1e8, 1e10]), np.array([1.0, 30.0, 500.0])
    law = constants(name, "recovered")
    expected = FORMS[name](law, N, U, e)
    found = published_state(name).predict(N, U * e, U).value
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if name == "eq15":
        alone = [loss(law, *at) for at in zip(N, U, e, strict=True)]
        np.testing.assert_allclose(alone, expected, rtol=1e-12)
