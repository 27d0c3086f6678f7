"""The command line on a real study and the local executor: what it prints and refuses."""

import json
from pathlib import Path

import pytest
from support.tiny import records, write_study

from quokka_ray.cli.main import main


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_a_search_prints_its_recommendation_and_resuming_it_adds_nothing(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(study), "--executor", "local", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    for name in ("params", "tokens", "loss"):
        assert answer[name]["low"] <= answer[name]["value"] <= answer[name]["high"]
    folder = study.parent / "runs" / "tiny"
    before = (folder / "ledger.jsonl").read_bytes()
    assert {r["status"] for r in records(folder) if r["kind"] == "ended"} == {"finished"}

    assert main(["resume", str(folder), "--executor", "local"]) == 0
    assert (folder / "ledger.jsonl").read_bytes() == before
    capsys.readouterr()

    assert main(["status", str(folder), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["flops_spent"] <= status["budget_flops"]
    assert {row["status"] for row in status["trajectories"]} == {"finished"}

    assert main(["recommend", str(folder), "--flops", "1e12", "--json"]) == 0
    recommended = json.loads(capsys.readouterr().out)
    assert recommended["extrapolation_decades"] > 0
    assert recommended["shape"]["d_model"] % 8 == 0

    # A larger budget goes on where the smaller one ended.
    assert main(["resume", str(folder), "--executor", "local", "--set", "budget.flops=2e10"]) == 0
    after = (folder / "ledger.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return code, captured.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.parms.low=1k", "search.params"),
        ("budget.flops=1e6", "budget.flops = 1e6 is too small"),
        ("search.params.low=-3", "search.params.low"),
        ("training.batch_sequences=3", "training.batch_sequences"),
        ("corpus=no/such/file.txt", "no/such/file.txt"),
        ("search.unique_tokens=1T", "1,000,000,000,000 unique tokens were asked for, and the"),
    ],
)
def test_a_study_that_cannot_run_is_refused_in_a_sentence_and_leaves_nothing(
    study: Path, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    code, err = refused(capsys, "search", str(study), "--executor", "local", "--set", override)
    assert code == 2
    assert says in err
    assert not (study.parent / "runs").exists()


def test_an_empty_corpus_is_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    code, err = refused(capsys, "search", str(study), "--set", f"corpus={tmp_path}/empty.txt")
    assert code == 2
    assert "empty" in err
    assert not (tmp_path / "runs").exists()


def test_text_that_is_not_utf8_is_refused_by_file_and_position(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1") * 100)
    code, err = refused(capsys, "search", str(study), "--set", f"corpus={tmp_path}/latin.txt")
    assert code == 2
    assert "latin.txt" in err
    assert "UTF-8" in err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_a_study_or_something_else_is_left_alone(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    code, err = refused(capsys, "search", str(study), "--overwrite")
    assert code == 2
    assert "no study" in err
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_storage_that_cannot_be_written_is_a_fault_of_the_machine(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file where a folder must be: refused to root as well, whom permissions do not stop.
    (tmp_path / "file").touch()
    code, err = refused(capsys, "search", str(study), "--set", f"storage={tmp_path}/file/runs")
    assert code == 3
    assert "cannot be written" in err


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "too few runs" in capsys.readouterr().out


def test_one_given_run_is_trained_and_asked_again_gives_the_same_answer(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(study), "--params", "3.9k", "--tokens", "30k", "--json"]
    answers = []
    for _ in range(2):
        assert main([*command, "--out", str(tmp_path / "one")]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert answers[0]["status"] == "finished"
    assert answers[0]["loss"] < 6, "better than guessing one of 257"
    code, err = refused(capsys, *command[:5], "10", "--out", str(tmp_path / "two"))
    assert code == 2
    assert "less than one optimiser step" in err


def test_one_run_is_observed_at_several_token_counts(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(study), "--params", "3.9k", "--tokens", "30k", "--json"]
    assert main([*command, "--observe-at", "15k", "7k", "--out", str(tmp_path / "one")]) == 0
    answer = json.loads(capsys.readouterr().out)
    tokens = [row["tokens"] for row in answer["observations"]]
    assert [round(count / 1e3) for count in tokens] == [7, 15, 30]
    assert answer["observations"][-1]["loss"] == answer["loss"]
    code, err = refused(
        capsys, *command, "--observe-at", "15k", "--lr-schedule", "cosine",
        "--out", str(tmp_path / "two"),
    )  # fmt: skip
    assert code == 2
    assert "take lr_schedule wsd or constant" in err


def test_the_doctor_says_what_a_search_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", "--storage", str(tmp_path / "runs")]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["writable"]
    assert findings["ray"]
    assert not (tmp_path / "runs").exists()
