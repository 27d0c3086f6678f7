"""`python -m analysis`: data on stdout, words on stderr, documented exit codes."""

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered, untuned

from analysis.cli import add_verbs, main
from analysis.fitting.fit import fit_law
from analysis.lawfile import save_law

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    untuned(30, 0).rename(columns={"loss": "val_loss"}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def law(runs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    arguments = ["fit", str(runs), "--column", "loss=val_loss", "--out", str(folder)]
    assert main([*arguments, "--bootstrap", "50", "--law", "chinchilla"]) == 0
    return folder


def test_fit_writes_the_law_its_page_and_figures(law):
    names = {str(p.relative_to(law)) for p in law.rglob("*") if p.is_file()}
    assert names == {
        "law.json",
        "law.md",
        "bootstrap.npz",
        "runs.csv",
        "optimum.csv",
        "predictions.csv",
        "figures/isoflop.png",
        "figures/frontier.png",
        "figures/residuals.png",
        "figures/isoflop.svg",
        "figures/frontier.svg",
        "figures/residuals.svg",
        "law.tex",
    }


def test_fit_prints_the_law_file(runs, capsys):
    arguments = ["fit", str(runs), "--column", "loss=val_loss", "--bootstrap", "20", "--json"]
    assert main([*arguments, "--huber-delta", "1e-3", "--seed", "3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["law"] == "chinchilla"
    assert document["fit"]["huber_delta"] == 1e-3
    assert document["settings"]["seed"] == 3


def test_predict_reads_units_and_prints_the_contracts_shape(law, capsys):
    call = ["predict", str(law / "law.json"), "--params", "100k", "--tokens", "10M", "--json"]
    assert main(call) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"loss", "extrapolation_decades", "warnings"}
    loss = answer["loss"]
    assert loss["low"] < loss["value"] < loss["high"]
    assert main(call[:-1]) == 0
    assert capsys.readouterr().out.startswith(f"loss {loss['value']:.4f}")


def test_predict_points_gives_the_same_rows_with_losses(law, tmp_path, capsys):
    points = tmp_path / "points.csv"
    points.write_text("name,params,tokens\na,1e5,1e7\nb,1e6,1e9\n")
    assert main(["predict", str(law), "--points", str(points)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(table["name"]) == ["a", "b"]
    assert (table["low"] < table["loss"]).all()
    assert (table["loss"] < table["high"]).all()


def test_recommend_answers_far_beyond_the_runs(law, capsys):
    assert main(["recommend", str(law), "--flops", "1e15", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["extrapolation_decades"] > 2
    assert answer["shape"] is None
    assert main(["recommend", str(law), "--flops", "1e15"]) == 0
    printed = capsys.readouterr()
    assert "learning rate" in printed.out
    assert "schedule       wsd" in printed.out
    assert "warning: the budget lies" in printed.err


@pytest.fixture(scope="module")
def repeated(tmp_path_factory) -> Path:
    """A law of repeated data."""
    rng = np.random.default_rng(5)
    params, tokens = scattered(60, rng)
    unique = tokens / np.exp(rng.uniform(0, np.log(60), 60))
    epochs = tokens / unique
    useful = unique * (1 + 12 * (1 - np.exp(-(epochs - 1) / 12)))
    table = observe(params, useful, rng).assign(tokens=tokens, unique_tokens=unique)
    fit = fit_law(table, law="muennighoff", bootstrap=20)
    return save_law(fit, tmp_path_factory.mktemp("repeated"))


def test_points_of_repeated_data_take_their_unique_tokens(repeated, law, tmp_path, capsys):
    points = tmp_path / "points.csv"
    points.write_text("params,tokens,unique_tokens\n100k,100M,100M\n100k,100M,5M\n")
    assert main(["predict", str(repeated), "--points", str(points)]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["loss"].iloc[1] > table["loss"].iloc[0] + 0.01
    call = ["predict", str(repeated), "--params", "100k", "--tokens", "100M"]
    assert main([*call, "--unique-tokens", "5M", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["loss"]["value"] == pytest.approx(table["loss"].iloc[1], rel=1e-6)
    # A law of N and D alone says that it takes repeated tokens for new ones.
    assert main(["predict", str(law), "--points", str(points)]) == 0
    assert "takes repeated tokens for new ones" in capsys.readouterr().err


def test_recommend_answers_for_data_and_for_a_models_lifetime(repeated, law, capsys):
    call = ["recommend", str(repeated), "--unique-tokens", "1M"]
    assert main([*call, "--flops", "1e12", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["epochs"]["value"] > 1
    assert answer["flops"]["value"] <= 1e12 * (1 + 1e-9)
    assert answer["paper"]["epochs"] > 0
    assert main([*call, "--flops", "1e12"]) == 0
    text = capsys.readouterr().out
    assert "epochs" in text
    assert "the Quokka paper, for its own corpus" in text
    assert main([*call, "--params", "50k"]) == 0
    assert "at one epoch" in capsys.readouterr().out
    assert main(["recommend", str(law), "--flops", "1e12", "--inference-tokens", "1B"]) == 0
    assert "cheapest at that loss with 1B tokens to serve" in capsys.readouterr().out


def test_a_formula_is_fitted(runs, capsys):
    pytest.importorskip("sympy", reason="formulas need SymPy")
    call = ["fit", str(runs), "--column", "loss=val_loss", "--bootstrap", "20"]
    own = ["--formula", "E + A/N**alpha + B/D**beta"]
    assert main([*call, *own, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["parameters"]) == {"E", "A", "alpha", "B", "beta"}
    assert main([*call, *own, "--law", "super"]) == 2
    assert "leave out --law" in capsys.readouterr().err
    assert main([*call, "--formula", "E + import"]) == 2


def test_a_laws_page_tells_how_far_to_trust_it(law):
    page = (law / "law.md").read_text()
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    wanted = [
        "The law and its intervals",
        "What the runs identify",
        "Whether it is the best fit",
        "Most influential runs",
        "Learning rate and schedule",
        "Compute-optimal training",
        "Approaches side by side",
        "Calibration",
        "Where it comes from",
    ]
    assert [h for h in headings if h in wanted] == wanted


def test_export_writes_page_tables_and_figures(law, tmp_path, capsys):
    assert main(["export", str(law), "--out", str(tmp_path / "out")]) == 0
    paths = capsys.readouterr().out.split()
    assert len(paths) == 10
    assert all(Path(p).is_file() for p in paths)
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 30


def test_import_writes_a_checked_run_table(runs, tmp_path, capsys):
    out = tmp_path / "table.parquet"
    call = ["import", str(runs), "--out", str(out), "--column", "loss=val_loss", "--json"]
    assert main(call) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["rows"], answer["warnings"]) == (str(out), 30, [])
    assert {"params", "tokens", "flops", "loss"} <= set(pd.read_parquet(out).columns)


def test_too_few_runs_end_with_code_5_and_write_nothing(tmp_path, capsys):
    few = tmp_path / "few.csv"
    untuned(3, 0).to_csv(few, index=False)
    assert main(["fit", str(few), "--out", str(tmp_path / "law")]) == 5
    printed = capsys.readouterr()
    assert "3 finished runs are too few" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "law").exists()


def test_an_output_that_cannot_be_written_ends_with_code_3(runs, law, capsys):
    call = ["fit", str(runs), "--column", "loss=val_loss", "--out", f"{runs}/law"]
    assert main(call) == 3
    assert "is a file" in capsys.readouterr().err
    assert main(["export", str(law), "--out", str(runs)]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "{runs}"], "no column 'loss'"),
        (["fit", "none.csv"], "no such file"),
        (["fit", "{runs}", "--column", "loss"], "NAME=SOURCE"),
        (["fit", "{runs}", "--huber-delta", "-1"], "above 0"),
        (["fit", "{runs}", "--seed", "-1"], "at least 0"),
        (["predict", "none", "--params", "1", "--tokens", "1"], "no such law file"),
        (["predict", "{law}", "--params", "1B"], "--params and --tokens"),
        (["predict", "{law}", "--params", "many", "--tokens", "1B"], "not a quantity"),
        (["predict", "{law}", "--points", "{runs}", "--params", "1B"], "not both"),
        (["recommend", "{law}", "--flops", "0"], "above 0"),
        (["import", "{runs}", "--out", "runs.txt"], ".csv or .parquet"),
        (["import", "none", "--out", "runs.csv"], "no such file"),
        (["recommend", "{law}"], "name a compute budget"),
        (["recommend", "{law}", "--unique-tokens", "1M"], "needs a law of repeated data"),
        (["recommend", "{law}", "--params", "1M", "--flops", "1e12"], "give --unique-tokens"),
        (["fit", "{runs}", "--law", "best"], "chinchilla"),
        (["compare", "{law}"], "takes two"),
    ],
)
def test_a_wrong_call_ends_with_code_2_and_says_why(arguments, words, runs, law, capsys):
    call = [a.format(runs=runs, law=law) for a in arguments]
    assert main(call) == 2
    assert words in capsys.readouterr().err


def test_points_that_are_no_counts_name_their_row(law, tmp_path, capsys):
    points = tmp_path / "points.csv"
    points.write_text("params,tokens\n1e5,1e7\n1e5,-3\n")
    assert main(["predict", str(law), "--points", str(points)]) == 2
    assert "row 2 has no tokens above 0" in capsys.readouterr().err


def test_verbs_mount_on_another_parser(law, capsys):
    parser = argparse.ArgumentParser()
    add_verbs(parser.add_subparsers(required=True))
    options = parser.parse_args(["recommend", str(law), "--flops", "1e13", "--json"])
    assert options.func(options) == 0
    assert "params" in json.loads(capsys.readouterr().out)


def test_the_package_runs_as_a_module_with_neither_torch_nor_ray(law):
    code = (
        "import sys; sys.argv = ['analysis', 'recommend', sys.argv[1], '--flops', '1e13'];"
        "import runpy\n"
        "try: runpy.run_module('analysis', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "assert not {'torch', 'ray', 'quokka_ray'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(law)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout


def test_rows_of_a_curve_can_be_spaced_in_the_logarithm(tmp_path, capsys):
    rows = [
        {"trajectory": f"n{n:g}", "params": n, "tokens": d, "loss": 2 + 30 / n**0.3 + 40 / d**0.3}
        for n in (1e4, 3e4, 1e5, 3e5)
        for d in np.linspace(1e6, 1e8, 50)
    ]
    path = tmp_path / "curves.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    counts = []
    for extra in ([], ["--per-decade", "5"]):
        assert main(["fit", str(path), "--bootstrap", "20", "--json", *extra]) == 0
        counts.append(json.loads(capsys.readouterr().out)["runs"]["count"])
    assert counts[0] == 200
    assert 4 * 6 <= counts[1] <= 4 * 11
