"""A search over the weights of a real mixture: tokens on disk, models, both executors."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from support.tiny import records, start, write_study

from quokka_ray.cli.main import main
from quokka_ray.study.loader import load_study

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Return a study of two parts: sources of the standard library, and pages of digits."""
    path = write_study(tmp_path, budget={"flops": 8e9})
    made: dict[str, Any] = yaml.safe_load(path.read_text())
    digits = tmp_path / "digits"
    digits.mkdir()
    for page in range(80):
        numbers = (str(7919 * (page + 3) * number) for number in range(400))
        (digits / f"{page}.txt").write_text(" ".join(numbers))
    corpus = made["corpus"]
    parts = [
        {"name": name, "source": "files", "paths": paths, "weight": 1, "validation_weight": 1}
        for name, paths in (("code", corpus["paths"]), ("digits", [str(digits)]))
    ]
    parts[1]["weight"] = {"low": 0.2, "high": 5}
    made["corpus"] = {
        "cache": corpus["cache"],
        "validation_fraction": corpus["validation_fraction"],
        "mixture": parts,
    }
    path.write_text(yaml.safe_dump(made))
    return path


def check(folder: Path, cache: Path) -> pd.DataFrame:
    """Hold a finished search against what was asked; return its run table."""
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["status"]) == {"finished"}
    assert runs["share_digits"].between(0.16, 0.84).all()
    assert runs["share_digits"].nunique() == runs["trajectory"].nunique() >= 4
    assert runs["evaluator"].nunique() == runs["corpus"].nunique() == 1
    # Two parts and the mixture that names them: no trial has made tokens of its own.
    assert len(list(cache.glob("*/corpus.json"))) == 3
    assert len(list(cache.glob("*/train.bin"))) == 2
    spent = sum(r["flops_spent"] for r in records(folder) if r["kind"] == "ended")
    assert spent <= 8e9
    return runs


def test_trials_train_at_weights_of_their_own_on_tokens_that_are_there_once(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(study), "--executor", "local"]) == 0
    folder = study.parent / "runs" / "tiny"
    runs = check(folder, study.parent / "cache")
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    first = runs.iloc[0]
    assert f"{first['share_code']:.0%} code, " in capsys.readouterr().out
    # Nothing is prepared or planned twice.
    before = (folder / "ledger.jsonl").read_bytes()
    assert main(["resume", str(folder), "--executor", "local"]) == 0
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_a_range_that_a_part_is_too_short_for_is_refused_before_anything_runs(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*overrides: str) -> str:
        changes = [part for change in overrides for part in ("--set", change)]
        assert main(["search", str(study), "--executor", "local", *changes]) == 2
        assert not (study.parent / "runs").exists()
        return capsys.readouterr().err

    assert "whatever its weights" in refused("search.unique_tokens=10M")
    # Of repeated data: at the fewest unique tokens, too, each part has a window.
    said = refused(
        "search.unique_tokens={low: 128, high: 20k}", "search.max_epochs=10",
        "search.lr_schedule=constant", "target.unique_tokens=20k",
    )  # fmt: skip
    assert "128 unique tokens leave" in said
    assert "make no window of 32" in said


def test_the_example_searches_the_share_of_prose() -> None:
    study = load_study([SPACES / "mixture.yaml"], [], environ={})
    assert list(study.corpus.searched_weights) == ["prose"]
    assert study.corpus.weights_at({"prose": 4.0}) == {"code": 1.0, "prose": 4.0}


@pytest.mark.slow
def test_a_search_over_weights_runs_through_ray(study: Path) -> None:
    process = start("search", str(study), "--json")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    folder = study.parent / "runs" / "tiny"
    check(folder, study.parent / "cache")
    assert '"weight_digits"' in (folder / "optuna.journal").read_text()
