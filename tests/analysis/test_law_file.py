"""law.json: what it holds, that it answers as the fit did, and that damage is named."""

import json

import numpy as np
import pytest
from laboratory import untuned

from analysis.allocation import recommend
from analysis.errors import LawFileError
from analysis.fitting.fit import fit_law
from analysis.lawfile import load_law, save_law
from analysis.laws.base import Points


@pytest.fixture(scope="module")
def fit():
    runs = untuned(24, 0).assign(
        trajectory=[f"t{i}" for i in range(24)],
        corpus="c0",
        tokenizer="bytes",
        evaluator="abc/exactk4",
        batch_tokens=512,
    )
    return fit_law(runs, bootstrap=60, lr_prior=3e-3)


@pytest.fixture
def saved(fit, tmp_path):
    return save_law(fit, tmp_path / "law")


def test_a_loaded_law_answers_as_the_fit(fit, saved):
    law = load_law(saved.parent)
    for name in ("value", "low", "high"):
        expected = getattr(fit.predict([1e4, 1e6], [1e7, 1e9]), name)
        np.testing.assert_allclose(getattr(law.predict([1e4, 1e6], [1e7, 1e9]), name), expected)
        assert getattr(law.optimum(1e14).params, name) == pytest.approx(
            getattr(fit.optimum(1e14).params, name)
        )
    lr = law.state.response.lr_optimum(1e5, 1e7)
    assert float(lr) == pytest.approx(float(fit.response.lr_optimum(1e5, 1e7)))
    assert law.state.response.best_schedule == "wsd"
    assert law.runs is not None
    assert len(law.runs) == 24


def test_the_file_holds_what_the_design_asks(saved):
    document = json.loads(saved.read_text())
    assert set(document) >= {
        "schema_version",
        "law",
        "parameters",
        "covariance",
        "bootstrap",
        "calibration",
        "validity",
        "runs",
        "evaluator",
        "flops_convention",
        "corpus",
        "tokenizer",
        "settings",
        "versions",
        "created",
        "response",
        "warnings",
    }
    assert set(document["parameters"]["E"]) == {"value", "stderr", "low", "high", "identified"}
    calibration = document["calibration"]
    assert calibration["nominal"] == 0.9
    assert 0 <= calibration["measured"] <= 1
    assert [split["hold_out"] for split in calibration["splits"]] == [3, 10]
    assert (document["corpus"], document["tokenizer"]) == ("c0", "bytes")
    assert document["runs"]["count"] == 24
    assert document["flops_convention"] == "6nd"
    assert len(document["covariance"]["matrix"]) == len(document["parameters"])


def test_extrapolation_is_said_in_decades(fit, saved):
    law = load_law(saved)
    largest = law.state.validity["flops"][1]
    assert law.optimum(largest / 2).extrapolation_decades == 0
    assert law.optimum(100 * largest).extrapolation_decades == pytest.approx(2)
    high = {k: v[1] for k, v in law.state.validity.items()}
    outside = law.predict([high["params"], high["params"] * 1000], [high["tokens"]] * 2)
    assert outside.extrapolation_decades[1] >= 3


def test_noise_widens_a_prediction(fit):
    without, with_noise = (fit.predict(1e5, 1e8, noise=n) for n in (False, True))
    assert with_noise.low[0] < without.low[0] < without.high[0] < with_noise.high[0]


def test_recommendation_has_the_contracts_keys(saved):
    answer = recommend(load_law(saved), 1e14)
    assert set(answer) == {
        "params",
        "tokens",
        "epochs",
        "loss",
        "lr",
        "batch_tokens",
        "shape",
        "extrapolation_decades",
        "warnings",
        "flops",
        "paper",
    }
    assert answer["params"]["low"] < answer["params"]["value"] < answer["params"]["high"]
    product = 6 * answer["params"]["value"] * answer["tokens"]["value"]
    assert product == pytest.approx(1e14)
    assert answer["batch_tokens"] == 512
    assert answer["lr"] > 0
    assert any("decades above the largest run" in w for w in answer["warnings"])
    json.dumps(answer, allow_nan=False)


def test_repeated_data_is_warned_of(saved):
    answer = recommend(load_law(saved), 1e14, unique_tokens=1e6)
    assert answer["epochs"]["value"] == pytest.approx(answer["tokens"]["value"] / 1e6)
    assert any("repeats the data" in w for w in answer["warnings"])


def test_a_law_without_its_samples_still_answers_and_says_so(fit, saved):
    (saved.parent / "bootstrap.npz").unlink()
    law = load_law(saved)
    # Without the rows that the discrepancy was conditioned on, the law's own prediction is left.
    points = Points.of(1e5, 1e8)
    alone = float(np.exp(fit.law.log_loss(fit.theta, points)[0]))
    assert law.predict(1e5, 1e8).value[0] == pytest.approx(alone)
    best = law.optimum(1e13).params
    assert best.low < best.value < best.high
    assert any("bootstrap.npz is missing" in w for w in law.warnings)


def test_samples_of_another_fit_are_not_used(saved, tmp_path):
    other = save_law(fit_law(untuned(30, 9), bootstrap=60), tmp_path / "other")
    (saved.parent / "bootstrap.npz").write_bytes((other.parent / "bootstrap.npz").read_bytes())
    assert any("belongs to another fit" in w for w in load_law(saved).warnings)


def test_nothing_partial_is_left_beside_a_law(saved):
    names = sorted(p.name for p in saved.parent.iterdir())
    assert names == ["bootstrap.npz", "law.json", "runs.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("parameters"), "incomplete or damaged"),
        (lambda d: d["parameters"].pop("alpha"), "incomplete or damaged"),
        (lambda d: d["parameters"]["E"].update(value=-1), "incomplete or damaged"),
        (lambda d: d["covariance"].update(matrix=[[1.0]]), "incomplete or damaged"),
        (lambda d: d.update(law="unknown"), "no law is called"),
        (lambda d: d.update(schema_version=99), "reads 1"),
        (lambda d: d.pop("schema_version"), "names no schema_version"),
    ],
)
def test_a_damaged_law_file_is_named(saved, change, message):
    document = json.loads(saved.read_text())
    change(document)
    saved.write_text(json.dumps(document))
    with pytest.raises(LawFileError, match=message):
        load_law(saved)


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(LawFileError, match="no such law file"):
        load_law(tmp_path)
    for text in ("{", "[]", '"law"', ""):
        (tmp_path / "law.json").write_text(text)
        with pytest.raises(LawFileError, match=r"not a (readable )?law file"):
            load_law(tmp_path)
