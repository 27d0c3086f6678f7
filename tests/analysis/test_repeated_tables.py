"""The paper's tables 3 and 4 for a law of one's own, and what a larger corpus would buy."""

import json

import pytest

from analysis.cli import main
from analysis.epochs import allocate_data, epochs_limit
from analysis.reference.quokka import published_state
from analysis.reporting.repeated import default_levels, epochs_rows, repeated_lines, unique_rows

SIZES, LEVELS = [4e8, 1e10], [1e8, 1e10, 1e12]


def test_the_tables_of_the_papers_law_are_the_papers() -> None:
    state = published_state("eq15")
    cells = {(r["params"], r["unique_tokens"]): r for r in epochs_rows(state, SIZES, LEVELS)}
    printed = {(4e8, 1e8): 175, (4e8, 1e10): 1057, (1e10, 1e10): 181, (1e10, 1e12): 1098}
    for place, epochs in printed.items():
        assert cells[place]["epochs"] == pytest.approx(epochs, abs=0.6)
    (row,) = unique_rows(state, [1e10])
    assert row["params"] == pytest.approx(518e6, rel=0.15)
    assert row["epochs"] == pytest.approx(910, rel=0.13)
    assert row["epochs"] == allocate_data(state, 1e10).epochs.value
    page = "\n".join(repeated_lines(list(cells.values()), [row]))
    assert f"{epochs_limit(state, 4e8, 1e8).interior.value:.3g} (" in page
    assert "| 10B | 518" in page or "| 10B | 5" in page


def test_levels_reach_past_the_runs_and_hold_the_target_once() -> None:
    state = published_state("eq15")
    _, high = state.validity["unique_tokens"]
    levels = default_levels(state, 3.0 * high)
    assert levels == sorted(set(levels))
    assert 3.0 * high in levels
    assert levels[-1] == pytest.approx(10 * high, rel=0.01)


def test_recommend_says_what_more_unique_tokens_would_buy(tmp_path, capsys) -> None:
    import pandas as pd

    state = published_state("eq15")
    rows = [
        {"trajectory": f"{n}/{u}", "params": n, "unique_tokens": u, "tokens": u * e,
         "loss": float(state.predict(n, u * e, u).value[0])}
        for n in (1e8, 3e8, 1e9) for u in (1e7, 1e8) for e in (2, 8, 32, 128, 512)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    law = str(tmp_path / "law")
    fit = ["fit", str(tmp_path / "runs.csv"), "--law", "data_constrained", "--bootstrap", "20"]
    assert main([*fit, "--out", law]) == 0
    capsys.readouterr()
    ask = ["recommend", law, "--unique-tokens", "1B", "--more-unique-tokens", "3B"]
    assert main([*ask, "--json"]) == 0
    (more,) = json.loads(capsys.readouterr().out)["more_data"]
    assert more["factor"] == pytest.approx(3.0)
    assert more["unique_tokens"] == 3e9
    assert more["loss_ratio"]["value"] < 1
    assert main(ask) == 0
    assert "what more unique tokens would buy" in capsys.readouterr().out
    assert main(["recommend", law, "--flops", "1e20", "--more-unique-tokens", "3B"]) == 2
    for name in ("epochs.csv", "unique_tokens.csv", "figures/epochs.png"):
        assert (tmp_path / "law" / name).is_file()


def test_a_larger_corpus_that_costs_loss_is_said_to() -> None:
    from dataclasses import replace

    from analysis.cli.recommending import more_data_text
    from analysis.more_data import value_of_data
    from analysis.uncertainty import Estimate

    (row,) = value_of_data(published_state("eq15"), 1e9, factors=[3.0])
    assert ", lower by " in more_data_text([row])
    said = more_data_text([replace(row, gain=Estimate(1.02, 0.99, 1.04))])
    assert "higher by 2 % (-1 % to 4 %)" in said.replace("  ", " ")
