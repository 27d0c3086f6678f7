"""A search over batch, noise schedule and objective with real text and models, to its end."""

import json
from pathlib import Path

import pandas as pd
import pytest
from support.tiny import records, start, write_study

from analysis.fitting.fit import fit_law
from analysis.runs import read_runs
from quokka_ray.cli.main import main

SPACES = Path(__file__).parents[2] / "search_spaces"
BUDGET = 8e9
SEARCH = {
    "batch_sequences": {"low": 4, "high": 16},
    "warmup_fraction": {"low": 0.02, "high": 0.2},
    "weight_decay": {"low": 0.01, "high": 0.3},
    "noise_schedule": ["linear", "cosine"],
    "objective": ["elbo", "maskgit"],
}


def check(folder: Path) -> pd.DataFrame:
    """Hold a finished search against what was asked; return its run table."""
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["status"]) == {"finished"}
    assert runs["trajectory"].nunique() >= 4
    assert set(runs["batch_tokens"] / 32) <= {4, 8, 16}
    for column in ("batch_tokens", "noise_schedule", "objective"):
        assert runs[column].nunique() > 1, column
    for column, lowest, highest in (("warmup_fraction", 0.02, 0.2), ("weight_decay", 0.01, 0.3)):
        assert runs[column].between(lowest, highest).all()
        assert runs[column].nunique() == runs["trajectory"].nunique()
    steps = runs["tokens"] / runs["batch_tokens"]
    warmed = runs["warmup_tokens"] / runs["batch_tokens"]
    assert (warmed == (runs["warmup_fraction"] * steps).round()).all()
    # Whatever they were trained on, they are measured on the ELBO, and one law holds them.
    assert runs["evaluator"].nunique() == 1
    ends = [r for r in records(folder) if r["kind"] == "ended"]
    assert sum(r["flops_spent"] for r in ends) <= BUDGET
    planned = {r["trajectory"]: r for r in records(folder) if r["kind"] == "planned"}
    for end in ends:
        config = planned[end["trajectory"]]["config"]
        assert end["flops_spent"] == pytest.approx(config["flops_exact"])
        # The recipe's weight belongs to the ELBO alone.
        power = 0.5 if config["diffusion"]["objective"] == "elbo" else 1.0
        assert config["diffusion"]["weight_power"] == power
    return runs


def test_trials_train_recipes_of_their_own_and_the_best_is_recommended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, search=SEARCH, budget={"flops": BUDGET})
    assert main(["search", str(study), "--executor", "local"]) == 0
    folder = tmp_path / "runs" / "tiny"
    runs = check(folder)
    # Nothing is planned or trained twice.
    before = (folder / "ledger.jsonl").read_bytes()
    assert main(["resume", str(folder), "--executor", "local"]) == 0
    assert (folder / "ledger.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    first = runs.iloc[0]
    said = capsys.readouterr().out
    batch, warmup = int(first["batch_tokens"]) // 32, f"{first['warmup_fraction']:.2g}"
    assert f"batch {batch}, warmup {warmup}, decay {first['weight_decay']:.2g}, " in said
    assert f", {first['noise_schedule']}, {first['objective']}; start" in said
    assert main(["recommend", str(folder), "--flops", "1e11", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    assert recipe["objective"]["value"] in ("elbo", "maskgit")
    assert recipe["noise_schedule"]["offsets"].keys() == {"linear", "cosine"}
    # Its run table says the same to whoever fits it again.
    again = fit_law(read_runs(folder / "runs.csv"), bootstrap=0).response
    assert {*again.bowls, *again.choices} == set(recipe)


@pytest.mark.slow
def test_a_search_over_recipes_and_kernels_runs_through_ray(tmp_path: Path) -> None:
    search = {**SEARCH, "kernel": ["mask", "uniform"]}
    study = write_study(tmp_path, search=search, budget={"flops": 2 * BUDGET})
    process = start("search", str(study), "--json")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder = tmp_path / "runs" / "tiny"
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["status"]) == {"finished"}
    assert set(runs["kernel"]) == {"mask", "uniform"}
    assert sum(r["flops_spent"] for r in records(folder) if r["kind"] == "ended") <= 2 * BUDGET
    assert '"noise"' in (folder / "optuna.journal").read_text()
