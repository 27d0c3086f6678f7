"""`plan` on a real study: what would run, and what it is expected to reach."""

import json
from pathlib import Path

import pytest
from support.tiny import write_study

from quokka_ray.cli.main import main
from quokka_ray.study.folder import open_folder
from quokka_ray.study.loader import load_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_a_plan_shows_what_would_run_and_starts_nothing(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(study), "--no-outlook", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["start_flops"] <= plan["budget_flops"]
    assert len({run["params"] for run in plan["start"]}) >= 2
    assert plan["trials_at_most"] >= plan["trials_at_least"] >= len(plan["start"])
    assert plan["outlook"] is None
    assert "not asked for" in plan["no_outlook_because"]
    assert not (study.parent / "runs").exists()


def test_a_plan_says_what_to_expect_and_what_stands_behind_it(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(study), "--searches", "1"]) == 0
    shown = capsys.readouterr().out
    assert "what to expect, by 1 simulated search: nothing was trained" in shown
    assert "a weak prior" in shown
    assert "of budget" in shown
    assert "200 %" in shown
    assert "simulated truth" in shown
    assert not (study.parent / "runs").exists()


def test_a_plan_of_a_folder_with_another_study_says_so_and_begins_anew(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = load_study([study], ["seed=5"])
    open_folder(other, resume=False, overwrite=False).close()
    before = sorted(path.name for path in other.folder.iterdir())
    assert main(["plan", str(study), "--no-outlook"]) == 0
    captured = capsys.readouterr()
    assert "differs in seed (was 5, now 0)" in captured.err
    assert "begins anew" in captured.err
    assert "the start:" in captured.out
    assert sorted(path.name for path in other.folder.iterdir()) == before
    # The folder itself is a study to plan.
    assert main(["plan", str(other.folder), "--no-outlook"]) == 0
    assert "differs" not in capsys.readouterr().err


def test_a_study_of_repeated_data_says_why_it_has_no_outlook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(
        tmp_path,
        search={
            "unique_tokens": {"low": 4096, "high": 8192},
            "max_epochs": 64,
            "lr_schedule": "constant",
            "tokens_per_param": {"low": 0.1, "high": 1000},
            "run_flops": {"low": 7e8, "high": 2e10},
        },
        budget={"flops": 1e11},
        target={"unique_tokens": 16384},
    )
    assert main(["plan", str(study)]) == 0
    assert "no outlook: the law of repeated data is searched for anew" in capsys.readouterr().out


def test_a_number_of_searches_under_one_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", str(study), "--searches", "0"])
    assert exit_.value.code == 2
    assert "'0' is not a number of searches from 1 on" in capsys.readouterr().err
