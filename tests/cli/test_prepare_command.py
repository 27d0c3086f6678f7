"""`quokka-ray prepare`: what is printed where."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from quokka_ray.cli.main import main


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {number} of a text\n" for number in range(400)))
    return path


def test_text_is_prepared_without_a_study_and_checked(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [
        "prepare", "--corpus", str(text), "--train-tokenizer", "300", "--workers", "1",
        "--set", "corpus.document=line", "--set", f"corpus.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    assert main([*call, "--json"]) == 0
    out, err = capsys.readouterr()
    card = json.loads(out)
    assert card["train_documents"] + card["validation_documents"] == 400
    assert card["vocab_size"] == 300
    assert "prepared" in err
    assert "\r" not in err  # no progress off a terminal
    assert main([*call, "--verify"]) == 0
    out, err = capsys.readouterr()
    assert card["path"] in out
    assert "every byte is as it was made" in err
    tokens = Path(card["path"]) / "train.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    assert main([*call, "--verify"]) == 2
    assert "train.bin was altered" in capsys.readouterr().err


def test_a_pipe_is_prepared_and_a_study_of_one_is_refused(
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.read_bytes())))
    assert main(["prepare", "--corpus", "-", "--set", f"corpus.cache={tmp_path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "stdin"
    assert main(["plan", "smoke", "--set", 'corpus="-"']) == 2
    assert "prepare --corpus -" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a study, or text by --corpus"),
        (["--corpus", "x", "--set", "corpus.documnt=line"], "did you mean `corpus.document`?"),
        (["--corpus", "x", "--tokenizer", "a", "--train-tokenizer", "1k"], "choose"),
        (["--corpus", "x", "--train-tokenizer", "5"], "vocab_size"),
        (["--corpus", "megatron:x"], "say which tokenizer made them"),
    ],
)
def test_calls_that_cannot_be_meant_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["prepare", *arguments]) == 2
    assert said in capsys.readouterr().err
