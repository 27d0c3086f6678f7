"""What the terminal shows of a search."""

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from analysis.uncertainty import Estimate
from quokka_ray.reporting.live import LiveView, duration, final_report, search_table, trial_line
from quokka_ray.reporting.state import Optimum, RunningTrial, SearchState

EMPTY = SearchState("smoke", budget_flops=6e12, target_flops=1e14, message="0 finished runs")
BUSY = replace(
    EMPTY,
    spent_flops=2.13e12,
    reserved_flops=4.1e11,
    counts={"finished": 12, "diverged": 1},
    running=[
        RunningTrial("0013-N4.5k-D1.2M", 4512, 1.2e6, 0.43, 2.412),
        RunningTrial("0014-N120k-D350k", 120e3, 3.5e5),
    ],
    parameters={"E": 1.61, "A": 12.3, "alpha": 0.43, "B": 340.0, "beta": 0.51},
    identified={"E": False, "A": True},
    sigma=0.007,
    optimum=Optimum(
        Estimate(123e3, 8e4, 1.9e5), Estimate(1.38e8, 9e7, 2.1e8), Estimate(2.012, 1.95, 2.08),
        1.9, 0.0123,
    ),
    message="",
    warnings=["E is not decided by the runs [see the page]"],
    events=[trial_line(f"trial-{i}", "finished", 2.5 - i / 100, i / 20) for i in range(12)],
)  # fmt: skip


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(renderable)
    return console.export_text()


def test_the_table_says_where_the_search_stands() -> None:
    text = shown(search_table(BUSY))
    for part in (
        "2.13e12 of 6e12 FLOPs (36%), 4.1e11 in flight",
        "12 finished, 1 diverged, 2 running",
        "N 4.51k  D 1.2M",
        "43%  loss 2.412",
        "E 1.61?  A 12.3  α 0.43  B 340  β 0.51  noise 0.7%  (?: undecided)",
        "for 1e14 FLOPs (6ND), 1.9 decades beyond the runs",
        "N 123k (80k–190k)  D 138M (90M–210M)  loss 2.012 (1.950–2.080)",
        "trial-11",
    ):
        assert part in text
    assert "trial-8" not in text  # the last three only


def test_the_table_fits_eighty_columns_without_wrapping() -> None:
    lines = shown(search_table(BUSY), width=80).splitlines()
    assert len(lines) == 12
    assert not any("…" in line for line in lines)
    assert {len(line) for line in lines} == {80}


def test_a_search_that_has_just_begun_says_why_there_is_no_law() -> None:
    text = shown(search_table(EMPTY))
    assert "none yet" in text
    assert "not yet: 0 finished runs" in text


def test_the_report_gives_the_recommendation_with_its_interval() -> None:
    report = final_report(BUSY, law_folder="runs/smoke/laws/0001", command="quokka-ray recommend")
    text = shown(report, width=100)
    rows = {line.split("  ")[1].strip(): line for line in text.splitlines() if "  " in line}
    assert rows["parameters"].split()[1:] == ["123k", "80k", "to", "190k"]
    assert rows["tokens"].split()[1:] == ["138M", "90M", "to", "210M"]
    assert rows["tokens per parameter"].split()[-1] == "1,122"
    assert "2.0120" in rows["loss, nats per token"]
    assert "warning E is not decided by the runs [see the page]" in text
    assert "runs/smoke/laws/0001" in text


def test_a_report_without_a_law_still_says_what_was_spent() -> None:
    text = shown(final_report(EMPTY), width=100)
    assert "0 of 6e12 FLOPs spent" in text
    assert "not yet: 0 finished runs" in text


@pytest.mark.parametrize("variable", ["", "NO_COLOR", "CI"])
def test_where_nobody_watches_each_trial_is_one_plain_line(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    stream = io.StringIO()
    console = Console(file=stream, width=40, force_terminal=bool(variable) or None)
    with LiveView(console) as view:
        for count in (0, 1, 1, 12):
            view.update(replace(BUSY, events=BUSY.events[:count]))
    assert stream.getvalue().splitlines() == list(BUSY.events)


def test_on_a_terminal_the_table_is_drawn_and_left_standing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    stream = io.StringIO()
    with LiveView(Console(file=stream, width=80, height=30, force_terminal=True)) as view:
        view.update(EMPTY)
        view.update(BUSY)
    assert "12 finished" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_a_trial_with_several_observations_says_all_their_losses() -> None:
    line = trial_line("0001-N4k-D1M", "finished", 2.5, 0.25, earlier=[3.0, 2.75])
    assert "loss 2.5000 (before: 3.0000, 2.7500)" in line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (40, "40 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5_000, "83 min"),
        (12_240, "3.4 h"),
        (2e5, "2.3 d"),
    ],
)
def test_times_are_said_in_the_largest_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_trial_that_failed_says_why() -> None:
    line = trial_line("0001-N4k-D1M", "diverged", None, 0.25, "the loss is not finite")
    assert line.endswith("diverged  25% spent  (the loss is not finite)")
    assert "loss 2" not in line


def test_the_report_names_the_recipe_that_was_searched() -> None:
    recipe = {
        "batch_tokens": {"value": 1520.4, "low": 900.0, "high": 2600.0, "sequences": 24,
                         "tried": [256, 2048]},
        "weight_decay": {"value": 0.0832, "low": None, "high": None, "tried": [0.01, 1]},
        "objective": {"value": "elbo", "offsets": {
            "elbo": {"value": 0.0, "low": 0.0, "high": 0.0},
            "maskgit": {"value": 0.021, "low": 0.012, "high": 0.031},
        }},
    }  # fmt: skip
    assert BUSY.optimum is not None
    text = shown(final_report(replace(BUSY, optimum=replace(BUSY.optimum, recipe=recipe))), 100)
    lines = {line.split("  ")[1].strip(): " ".join(line.split()) for line in text.splitlines()
             if line.startswith("  ")}  # fmt: skip
    assert lines["batch"] == "batch 1.52k tokens, 24 sequences 900 to 2.6k"
    assert lines["weight decay"] == "weight decay 0.0832"
    assert lines["objective"] == "objective elbo maskgit +2.1 %, +1.2 to +3.1"
