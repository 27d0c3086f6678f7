"""Which corpus a search reads: what its runs were trained on, as it was made."""

import shutil
from pathlib import Path

import pytest
from support.tiny import records, write_study

from quokka_ray.cli.main import main

TOO_FEW = 5
"""The code of a search that ended with too few runs for a law: these train one or two."""


def resumed(capsys: pytest.CaptureFixture[str], folder: Path, trials: int) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["resume", str(folder), "--executor", "local", "--set", f"budget.trials={trials}"])
    return code, capsys.readouterr().err


def test_a_search_that_goes_on_reads_what_its_runs_were_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, budget={"flops": 1.5e10, "trials": 1})
    assert main(["search", str(study), "--executor", "local"]) == TOO_FEW
    folder = tmp_path / "runs" / "tiny"
    text = next((tmp_path / "texts").glob("*.txt"))
    before = text.read_text()
    # The text may change or be gone: the tokens are there.
    text.write_text(before + "an afterthought")
    code, said = resumed(capsys, folder, 2)
    assert code == TOO_FEW
    assert "preparing" not in said
    runs = [record["config"] for record in records(folder) if record["kind"] == "planned"]
    assert len(runs) == 2
    assert len({run["corpus_hash"] for run in runs}) == 1
    # Without the tokens another text is another corpus, which is not mixed in.
    shutil.rmtree(runs[0]["corpus"])
    code, said = resumed(capsys, folder, 3)
    assert code == 2
    assert f"was trained on corpus {runs[0]['corpus_hash']}" in said
    assert "has changed" in said
    assert len([1 for record in records(folder) if record["kind"] == "planned"]) == 2
    text.write_text(before)
    assert resumed(capsys, folder, 3)[0] == TOO_FEW
    # A byte that was altered where it lies is found before anything is trained on it.
    validation = Path(runs[0]["corpus"]) / "validation.bin"
    content = bytearray(validation.read_bytes())
    content[8] ^= 1
    validation.write_bytes(content)
    code, said = resumed(capsys, folder, 4)
    assert code == 2
    assert "validation.bin was altered between bytes 0 and" in said
