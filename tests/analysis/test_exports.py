"""What `export` leaves: tables that repeat the law, LaTeX that compiles, figures as text."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered, untuned

from analysis.export import export_law, prediction_table
from analysis.fitting.fit import fit_law
from analysis.latex import escape, number, symbol
from analysis.lawfile import LawFile, load_law, save_law
from analysis.laws.base import get_law, law_names


@pytest.fixture(scope="module")
def law(tmp_path_factory) -> LawFile:
    runs = untuned(40, 0).assign(trajectory=[f"t{i}" for i in range(40)])
    return load_law(save_law(fit_law(runs, bootstrap=60), tmp_path_factory.mktemp("law")))


@pytest.fixture(scope="module")
def folder(law, tmp_path_factory):
    target = tmp_path_factory.mktemp("out")
    export_law(law, target, target_flops=3e14)
    return target


def test_two_exports_are_equal_to_the_byte(law, folder, tmp_path):
    paths = export_law(law, tmp_path, target_flops=3e14)
    assert len(paths) == 10
    for path in paths:
        other = folder / path.relative_to(tmp_path)
        assert path.read_bytes() == other.read_bytes(), path.name
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(paths)


def test_the_optimum_table_covers_the_runs_and_beyond_with_intervals(law, folder):
    table = pd.read_csv(folder / "optimum.csv")
    low, high = law.state.validity["flops"]
    assert table["flops"].is_monotonic_increasing
    assert table["flops"].iloc[0] < 2.5 * low
    assert table["flops"].iloc[-1] > 40 * high
    assert 3e14 in set(table["flops"])
    row = table.iloc[3]
    best = law.optimum(row["flops"])
    for name in ("params", "tokens", "loss"):
        expected = getattr(best, name)
        assert row[name] == pytest.approx(expected.value, rel=1e-9)
        assert row[f"{name}_low"] == pytest.approx(expected.low, rel=1e-9)
        assert row[f"{name}_high"] == pytest.approx(expected.high, rel=1e-9)


def test_predictions_are_those_of_the_law_with_residuals_of_tuned_runs(law, folder):
    table = pd.read_csv(folder / "predictions.csv")
    found = law.predict(table["params"], table["tokens"], noise=True)
    np.testing.assert_allclose(table["predicted"], found.value)
    np.testing.assert_allclose(table["high"], found.high)
    np.testing.assert_allclose(table["residual"], np.log(table["tuned_loss"] / found.value))
    # What an untuned rate cost is off: the residual is noise of one run, 0.4 %.
    assert table["residual"].std() < 0.008
    assert np.log(table["loss"] / found.value).std() > 2 * table["residual"].std()


def test_repeated_data_are_predicted_with_their_unique_tokens(tmp_path):
    rng = np.random.default_rng(0)
    params, tokens = scattered(40, rng)
    runs = observe(params, tokens, rng).assign(unique_tokens=np.maximum(tokens / 4, 100))
    fit = fit_law(runs, law="muennighoff", bootstrap=30)
    law = load_law(save_law(fit, tmp_path))
    table = prediction_table(law.state, law.runs)
    expected = law.predict(table["params"], table["tokens"], table["unique_tokens"]).value
    np.testing.assert_allclose(table["predicted"], expected)
    assert np.abs(table["residual"]).max() < 0.1


def test_svg_text_can_be_searched(folder):
    for name, words in (
        ("isoflop", "IsoFLOP curves"),
        ("frontier", "Compute-optimal model size"),
        ("residuals", "Predicted and observed"),
    ):
        text = (folder / "figures" / f"{name}.svg").read_text()
        assert f">{words}" in text
        assert "<dc:date>" not in text
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


def balanced(text: str) -> bool:
    depth = 0
    for sign in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if sign == "{" else -1
        assert depth >= 0
    return depth == 0


def test_latex_tables_have_as_many_cells_as_columns(law, folder):
    text = (folder / "law.tex").read_text()
    assert balanced(text)
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S
    ):
        rows = [row for row in body.split(r"\\") if "&" in row]
        assert len(rows) > 3
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    for name in law.state.law.parameters:
        assert f"${symbol(name)}$ &" in text


@pytest.mark.parametrize("name", law_names())
def test_every_laws_formula_and_symbols_compile(name, law, folder, tmp_path):
    latex = shutil.which("pdflatex")
    if latex is None:
        pytest.skip("pdflatex is not installed")
    form = get_law(name)
    symbols = ", ".join(f"${symbol(p)}$" for p in form.parameters)
    formula = form.latex().replace(r"\text{", r"\mbox{")
    (tmp_path / "law.tex").write_bytes((folder / "law.tex").read_bytes())
    (tmp_path / "main.tex").write_text(
        "\\documentclass{article}\\begin{document}\n"
        f"\\[ {formula} \\]\n{symbols}\n\\input{{law.tex}}\n\\end{{document}}\n"
    )
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]


def test_a_law_stated_about_a_point_names_it(law, tmp_path):
    law = load_law(save_law(fit_law(law.runs, law="super", bootstrap=60), tmp_path / "law"))
    folder = tmp_path / "page"
    export_law(law, folder)
    settings = law.state.law.settings()
    expected = f"{np.exp(settings['log_params']):.6g}"
    assert f"Stated about N_0 = {expected} and" in (folder / "law.md").read_text()
    assert "with $N_0 =$" in (folder / "law.tex").read_text()


def test_symbols_numbers_and_text_are_latex():
    assert symbol("alpha") == r"\alpha"
    assert symbol("R_D") == "R_{D}"
    assert symbol("lambda1") == r"\lambda_{1}"
    assert symbol("m_p") == "m_{p}"
    assert number(12340.0, 3) == r"$1.23 \times 10^{4}$"
    assert number(1e21, 3) == "$10^{21}$"
    assert number(0.25) == "$0.25$"
    assert number(float("nan")) == "--"
    assert escape("data_constrained & 5 %") == r"data\_constrained \& 5 \%"
