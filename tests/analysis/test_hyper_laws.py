"""Laws of learning rate and batch size: recovered, bounded, refused, written and read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.errors import FitError, LawFileError
from analysis.fitting.hyper import fit_hyper_laws
from analysis.lawfile import load_law
from analysis.laws.hyper import (
    STEP_LAW,
    HyperLaw,
    load_hyper_law,
    quokka_batch,
    quokka_learning_rate,
)

STEPLAW = Path(__file__).parents[3] / "shared" / "data" / "steplaw_sldbench.csv"
LR, BATCH = (1.5, -0.6, 0.25), (0.9, 0.0, 0.55)
BEND = np.array([[0.012, -0.004], [-0.004, 0.010]])


def value(law: tuple[float, float, float], params: float, tokens: float) -> float:
    return law[0] * params ** law[1] * tokens ** law[2]


def grids(noise: float = 0.0, seed: int = 0, batch: tuple[float, float, float] = BATCH):
    """Return runs on a grid of rates and batches in each of twelve cells."""
    rng = np.random.default_rng(seed)
    rows = []
    for params in (6e7, 2e8, 4e8, 1e9):
        for tokens in (2e9, 1e10, 6e10):
            best = value(LR, params, tokens), value(batch, params, tokens)
            for i in range(-3, 4):
                for j in range(-2, 4):
                    recipe = best[0] * 2.0 ** (0.8 * i + 0.3), best[1] * 2.0 ** (0.9 * j - 0.2)
                    off = np.log(recipe) - np.log(best)
                    level = 2.0 + 30 / params**0.2 + 400 / tokens**0.3
                    loss = level * np.exp(0.5 * off @ BEND @ off + noise * rng.standard_normal())
                    rows.append((params, tokens, recipe[0], recipe[1], loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "batch_tokens", "loss"])


def test_a_quadratic_response_gives_its_laws_back_exactly():
    fit = fit_hyper_laws(grids(), bootstrap=20)
    for name, law in (("learning_rate", LR), ("batch_size", BATCH)):
        found = [entry["value"] for entry in fit.laws[name].parameters.values()]
        np.testing.assert_allclose(found, law, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fit.curvature, BEND, rtol=1e-6)
    assert fit.cells[["lr_inside", "batch_tokens_inside"]].all().all()
    assert fit.notes == ()


def test_a_batch_that_depends_on_size_needs_the_term():
    runs = grids(batch=(0.9, 0.1, 0.45))
    free = fit_hyper_laws(runs, bootstrap=20, batch_of_params=True)
    assert free.laws["batch_size"].parameters["N"]["value"] == pytest.approx(0.1, abs=1e-6)
    forced = fit_hyper_laws(runs, bootstrap=20)
    assert forced.laws["batch_size"].parameters["N"]["value"] == 0.0
    assert forced.laws["batch_size"].fixed == ("N",)


def test_intervals_hold_the_truth_about_nine_times_in_ten():
    inside = []
    for seed in range(30):
        fit = fit_hyper_laws(grids(noise=0.002, seed=seed), bootstrap=100, seed=seed)
        for name, law in (("learning_rate", LR), ("batch_size", BATCH)):
            at = fit.laws[name].predict(3e8, 1e10)
            inside.append(at.low[0] <= value(law, 3e8, 1e10) <= at.high[0])
            entries = fit.laws[name].parameters
            inside.append(entries["D"]["low"] <= law[2] <= entries["D"]["high"])
    assert 0.80 <= np.mean(inside) <= 1.0


def test_the_price_of_a_wrong_rate_follows_the_response():
    fit = fit_hyper_laws(grids(), bootstrap=20)
    best = value(LR, 1e9, 6e10), value(BATCH, 1e9, 6e10)
    both = fit.penalty(1e9, 6e10, learning_rate=2 * best[0], batch_size=best[1])
    assert both == pytest.approx(0.5 * BEND[0, 0] * np.log(2) ** 2, rel=1e-5)
    # With the batch tuned to the wrong rate the price is lower.
    alone = fit.penalty(1e9, 6e10, learning_rate=2 * best[0])
    rest = BEND[0, 0] - BEND[0, 1] ** 2 / BEND[1, 1]
    assert alone == pytest.approx(0.5 * rest * np.log(2) ** 2, rel=1e-5)
    assert fit.penalty(1e9, 6e10, learning_rate=best[0]) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(FitError, match="no law"):
        fit.penalty(1e9, 6e10, weight_decay=0.1)


def test_rates_alone_give_the_law_of_the_rate():
    runs = grids()
    best = runs["batch_tokens"] / value(BATCH, 1.0, 1.0) / runs["tokens"] ** BATCH[2]
    runs = runs[np.abs(np.log(best)) < 0.2].drop(columns="batch_tokens")
    fit = fit_hyper_laws(runs, bootstrap=20)
    assert list(fit.laws) == ["learning_rate"]
    assert fit.laws["learning_rate"].parameters["D"]["value"] == pytest.approx(0.25, abs=0.02)
    assert "batch size" in fit.notes[0]


def test_one_size_leaves_its_exponent_open():
    runs = grids()
    runs = runs[runs["params"] == 2e8]
    more = [runs.assign(tokens=runs["tokens"] * f) for f in (1.0, 1.7)]
    fit = fit_hyper_laws(pd.concat(more, ignore_index=True), bootstrap=20)
    entry = fit.laws["learning_rate"].parameters["N"]
    assert entry["identified"] is False
    assert entry["high"] == np.inf
    assert np.isinf(fit.laws["learning_rate"].predict(1e9, 1e10).high[0])
    assert np.isfinite(fit.laws["learning_rate"].predict(2e8, 1e10).high[0])
    assert any("its exponent is open" in note for note in fit.notes)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r.drop(columns=["lr", "batch_tokens"]), "name neither"),
        (lambda r: r.assign(lr=1e-3, batch_tokens=1e6), "hardly vary"),
        (lambda r: r[r["tokens"] == 2e9].head(84), "the laws need 4"),
        (lambda r: r.assign(tokens=20 * r["params"]), "rise together"),
        (lambda r: r.assign(loss=10 / r["loss"]), "no minimum"),
    ],
)
def test_tables_that_say_nothing_are_refused(spoil, says):
    with pytest.raises(FitError, match=says):
        fit_hyper_laws(spoil(grids(noise=0.001)), bootstrap=5)


def test_a_law_file_comes_back_as_it_was(tmp_path):
    law = fit_hyper_laws(grids(noise=0.002), bootstrap=50).laws["learning_rate"]
    path = law.save(tmp_path / "lr" / "law.json")
    again = load_hyper_law(path)
    first, second = (one.predict([1e8, 5e9], [1e10, 1e11]) for one in (law, again))
    for name in ("value", "low", "high", "extrapolation_decades"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert second.extrapolation_decades[1] == pytest.approx(np.log10(5), abs=1e-6)
    document = json.loads(path.read_text())
    assert document["law"] == "learning_rate"
    assert set(document["parameters"]["D"]) == {"value", "low", "high", "stderr", "identified"}


def test_files_of_other_laws_and_damaged_ones_are_refused(tmp_path):
    document = STEP_LAW[0].as_dict()
    with pytest.raises(LawFileError, match="no law of a recipe"):
        HyperLaw.from_dict({**document, "law": "chinchilla"})
    with pytest.raises(LawFileError, match="load_hyper_law"):
        load_law(STEP_LAW[0].save(tmp_path / "lr.json"))
    with pytest.raises(LawFileError, match="damaged"):
        HyperLaw.from_dict({**document, "theta": [1.0]})
    (tmp_path / "law.json").write_text("[]")
    with pytest.raises(LawFileError, match="not a law file"):
        load_hyper_law(tmp_path / "law.json")


def test_published_recipes():
    rate, batch = STEP_LAW
    assert rate.predict(1e9, 1e11).value[0] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert batch.describe() == "batch = 0.58 D^0.571"
    assert (quokka_learning_rate(1e9), quokka_learning_rate(1e10)) == (2e-4, 1.25e-4)
    assert [quokka_batch(n) // 2048 for n in (1e9, 2e9, 8e9)] == [256, 512, 1024]


def test_step_laws_grids():
    if not STEPLAW.is_file():
        pytest.skip("Step Law's runs lie outside the repository, in ../shared/data")
    runs = pd.read_csv(STEPLAW).rename(
        columns={
            "params_non_embedding": "params",
            "batch_size_tokens": "batch_tokens",
            "train_loss_smooth": "loss",
        }
    )
    fit = fit_hyper_laws(runs, bootstrap=300)
    assert len(fit.cells) == 42
    rate, batch = (fit.compare(law) for law in STEP_LAW)
    assert rate["value"]["inside"]
    assert batch["value"]["inside"]
    assert rate["N"]["ours"] == pytest.approx(-0.63, abs=0.03)
    assert rate["D"]["ours"] == pytest.approx(0.21, abs=0.03)
    assert batch["D"]["ours"] == pytest.approx(0.50, abs=0.03)
