"""The laws' verbs of `quokka-ray`: a study's folder stands for its latest law."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit_law
from analysis.lawfile import save_law
from quokka_ray.cli.main import main


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Two folders of studies, as far as the laws' verbs look into them, with two laws each."""
    root = tmp_path_factory.mktemp("studies")
    for seed, name in enumerate(("first", "second")):
        rng = np.random.default_rng(seed)
        params = np.geomspace(1e4, 1e6, 20)
        tokens = params * np.exp(rng.uniform(1, 6, 20))
        loss = (2 + 40 / params**0.4 + 90 / tokens**0.4) * np.exp(0.003 * rng.standard_normal(20))
        fit = fit_law(
            pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}), bootstrap=20
        )
        save_law(fit, root / name / "laws" / "9")
        shutil.copytree(root / name / "laws" / "9", root / name / "laws" / "10")
        (root / name / "study.yaml").write_text("study: name\n")
    return root


def test_compare_takes_studies_and_law_files(studies, capsys):
    call = ["compare", str(studies / "first"), str(studies / "second" / "laws" / "9"), "--json"]
    assert main(call) == 0
    paths = [Path(law["path"]).parent for law in json.loads(capsys.readouterr().out)["laws"]]
    assert paths == [studies / "first" / "laws" / "10", studies / "second" / "laws" / "9"]


def test_predict_takes_a_study(studies, capsys):
    assert main(["predict", str(studies / "first"), "--params", "1M", "--tokens", "20M"]) == 0
    assert capsys.readouterr().out.startswith("loss ")


def test_a_study_without_a_law_is_named(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("")
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "has no law yet" in capsys.readouterr().err


def test_import_is_mounted(tmp_path, capsys):
    (tmp_path / "table.csv").write_text("N,D,loss\n7M,1B,4.1\n14M,2B,3.8\n")
    out = tmp_path / "runs.csv"
    assert main(["import", str(tmp_path / "table.csv"), "--out", str(out)]) == 0
    assert list(pd.read_csv(out)["params"]) == [7e6, 14e6]
    assert "params is taken from 'N'" in capsys.readouterr().err
