"""Two laws beside each other: what differs, where one becomes better, and when losses may meet."""

import json

import numpy as np
import pandas as pd
import pytest
from laboratory import E, observe, scattered, true_loss, untuned

from analysis.cli import main
from analysis.compare import compare_laws
from analysis.comparison.numbers import log_difference
from analysis.comparison.page import comparison_markdown
from analysis.errors import LawFileError
from analysis.fitting.fit import fit_law
from analysis.lawfile import LawFile, load_law, save_law
from analysis.runs import validate_runs
from analysis.uncertainty import Estimate, interval_scores

COUNT = 60


def runs_of(
    seed: int, shift: float = 0.0, floor: float = 0.0, evaluator: str = "v1/b"
) -> pd.DataFrame:
    """Return runs of the laboratory's law, with the data term's weight and E moved."""
    rng = np.random.default_rng(seed)
    params, tokens = scattered(COUNT, rng)
    table = observe(params, tokens, rng, noise=0.002)
    moved = true_loss(params, tokens * np.exp(-shift)) + floor
    table["loss"] *= moved / true_loss(params, tokens)
    return table.assign(evaluator=evaluator, kernel="mask")


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    def make(name: str, table: pd.DataFrame, **settings) -> LawFile:
        fit = fit_law(table, bootstrap=200, **{"priors": "none", **settings})
        return load_law(save_law(fit, tmp_path_factory.mktemp("laws") / name))

    return make


@pytest.fixture(scope="module")
def base(save) -> LawFile:
    return save("base", runs_of(0))


def test_two_fits_of_one_truth_do_not_differ(save, base):
    found = compare_laws([base, save("again", runs_of(1))])
    assert found.losses_comparable
    assert found.tests[0]["degrees"] == 5
    assert found.tests[0]["p"] > 0.01
    assert sum(row["differs"][0] for row in found.parameters) <= 1
    ratios = [row["ratios"][0]["params"] for row in found.budgets]
    assert sum(r["differs"] for r in ratios) <= len(ratios) // 2
    assert all(r["low"] < r["value"] < r["high"] for r in ratios)


def test_a_difference_in_the_law_is_seen_with_its_size(save, base):
    # A token worth a quarter: N_opt falls by 4^(beta / (alpha + beta)).
    found = compare_laws([base, save("slow", runs_of(2, shift=np.log(4.0)))])
    expected = 4.0 ** (-0.38 / (0.42 + 0.38))
    middle = found.budgets[len(found.budgets) // 2]["ratios"][0]["params"]
    assert middle["low"] < expected < middle["high"]
    assert middle["differs"]
    assert found.tests[0]["p"] < 1e-6
    loss = found.budgets[0]["ratios"][0]["loss"]
    assert loss["low"] > 1
    assert found.crossovers[0] == {"better_below": 0, "at": []} or found.crossovers[0]["at"]


def test_the_crossover_is_where_the_true_laws_cross(save, base):
    # A lower floor with data that are worth less: better only at large budgets.
    other = save("other", runs_of(3, shift=np.log(3.0), floor=-0.35))
    crossing = compare_laws([base, other]).crossovers[0]
    budgets = np.geomspace(1e8, 1e13, 4000)
    grid = np.geomspace(1e-4, 1e4, 4000)[:, None] * np.sqrt(budgets / 6)
    tokens = budgets / 6 / grid
    first = true_loss(grid, tokens).min(axis=0)
    second = (true_loss(grid, tokens / 3.0) - 0.35).min(axis=0)
    expected = budgets[np.argmin(np.abs(first - second))]
    assert crossing["better_below"] == 0
    at = crossing["at"][0]
    assert at["low"] < expected < at["high"]
    assert at["flops"] == pytest.approx(expected, rel=0.3)


def test_losses_of_other_validation_data_are_not_compared(save, base):
    other = save("other-data", runs_of(4, evaluator="v2/b"))
    found = compare_laws([base, other])
    assert not found.losses_comparable
    assert "evaluator v1 and v2" in found.reason
    assert found.crossovers == [None]
    assert all(row["ratios"][0]["loss"] is None for row in found.budgets)
    assert all(row["ratios"][0]["params"] is not None for row in found.budgets)
    page = comparison_markdown(found)
    assert "only how N and D grow" in page
    assert "Which is better where" not in page


def test_the_bound_alone_may_differ(save, base):
    other = save("other-bound", runs_of(5, evaluator="v1/other"))
    assert compare_laws([base, other]).losses_comparable


def test_laws_of_another_form_share_optima_but_not_parameters(save, base):
    other = save("coupled", runs_of(6), law="coupled", priors="auto")
    found = compare_laws([base, other])
    assert found.tests == [None]
    assert all(row["z"] == [None] for row in found.parameters)
    assert found.budgets[0]["ratios"][0]["params"]["value"] > 0
    repeated = compare_laws([base, other], unique_tokens=1e6)
    assert any("takes repeated tokens for new ones" in w for w in repeated.warnings)
    assert "another formula" in comparison_markdown(found)


def test_scores_on_held_out_runs_are_those_of_a_slow_reference(save, base):
    held = validate_runs(runs_of(7))
    worse = save("worse", runs_of(8, floor=0.1))
    found = compare_laws([base, worse], runs=held)
    first, second = found.scores
    prediction = base.predict(held["params"], held["tokens"], noise=True)
    error = np.log(held["loss"].to_numpy()) - np.log(prediction.value)
    assert first["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    inside = [
        low <= y <= high
        for low, y, high in zip(prediction.low, held["loss"], prediction.high, strict=True)
    ]
    assert first["coverage"] == pytest.approx(np.mean(inside))
    assert first["rmse"] < second["rmse"]
    assert first["interval_score"] < second["interval_score"]
    assert second["bias"] < -0.01
    assert first["seen"] == 0
    own = compare_laws([base, worse], runs=base.runs)
    assert own.scores[0]["seen"] == COUNT
    assert any("flatters" in w for w in own.warnings)
    foreign = compare_laws([base, worse], runs=held.assign(evaluator="v9/b"))
    assert foreign.scores == [None, None]


def test_the_interval_score_by_hand():
    observed, widths = np.array([0.0, 2.0, -0.5]), [1.0, 1.0 + 20.0, 1.0 + 10.0]
    found = interval_scores(observed, np.zeros(3), np.zeros(3), np.ones(3))
    assert found["interval_score"] == pytest.approx(np.mean(widths))
    assert found["coverage"] == pytest.approx(1 / 3)
    for each, expected in zip(observed[:, None], widths, strict=True):
        alone = interval_scores(each, np.zeros(1), np.zeros(1), np.ones(1))
        assert alone["interval_score"] == pytest.approx(expected)


def test_arms_add_in_quadrature():
    first, second = Estimate(1.0, np.exp(-0.3), np.exp(0.4)), Estimate(np.e, 1.0, np.exp(1.3))
    found = log_difference(second, first)
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(1 - np.hypot(1.0, 0.4))
    assert found.high == pytest.approx(1 + np.hypot(0.3, 0.3))


def test_the_verb_prints_and_writes_both_forms(save, base, tmp_path, capsys):
    other = save("verb", runs_of(9))
    held = tmp_path / "held.csv"
    runs_of(10).rename(columns={"loss": "nll"}).to_csv(held, index=False)
    call = ["compare", str(base.path), str(other.path.parent), "--flops", "1e15"]
    call += ["--runs", str(held), "--column", "loss=nll", "--out", str(tmp_path / "out")]
    assert main(call) == 0
    page = capsys.readouterr().out
    assert (tmp_path / "out" / "compare.md").read_text() == page
    for heading in ("Parameters", "Compute-optimal training", "Which is better", "On the runs"):
        assert f"## {heading}" in page
    assert "| 1e+15 |" in page
    assert main([*call, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [law["label"] for law in answer["laws"]] == ["A", "B"]
    assert main(["compare", str(base.path)]) == 2
    assert "takes two" in capsys.readouterr().err


def test_three_laws_are_held_against_the_first(save, base):
    found = compare_laws([base, save("second", runs_of(11)), save("third", untuned(60, 12))])
    assert len(found.tests) == 2
    assert all(len(row["ratios"]) == 2 for row in found.budgets)
    assert any("C names no evaluator" in w for w in found.warnings)
    assert any(
        r["name"] == "E" and r["laws"][0]["value"] == pytest.approx(E, rel=0.2)
        for r in found.parameters
    )
    with pytest.raises(LawFileError, match="1 laws"):
        compare_laws([base])
