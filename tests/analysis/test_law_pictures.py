"""Figures and the page: they show what the law says, for large tables and for tiny ones."""

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered, true_loss, true_optimum, untuned

from analysis.figures import (
    frontier_figure,
    isoflop_figure,
    residual_figure,
    save_figures,
    tuned_loss,
)
from analysis.fitting.fit import fit_law
from analysis.report import default_budgets, law_markdown


def isoflop_runs() -> pd.DataFrame:
    parts = []
    for seed, flops in enumerate((1e10, 1e11, 1e12)):
        params = true_optimum(flops)[0] * np.geomspace(0.3, 4, 6)
        parts.append(observe(params, flops / 6 / params, np.random.default_rng(seed)))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def fit():
    return fit_law(isoflop_runs(), bootstrap=60)


def test_isoflop_figure_draws_a_curve_for_each_budget_and_the_minima(fit):
    axes = isoflop_figure(fit).axes[0]
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == 4  # three budgets and the law's optimum
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["law's optimum", "parabola's minimum"]
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections[:-1]])
    assert len(drawn) >= len(fit.runs)


def test_frontier_reaches_the_target_and_shows_its_interval(fit):
    axes = frontier_figure(fit, target_flops=1e15).axes[0]
    low, high = axes.get_xlim()
    assert low < 1e10 < 1e15 < high
    _, labels = axes.get_legend_handles_labels()
    assert "target 1e+15" in labels
    line = axes.lines[0]
    np.testing.assert_allclose(
        line.get_ydata(), [fit.optimum(float(c)).params.value for c in line.get_xdata()]
    )


def test_residual_figure_shows_every_run(fit):
    figure = residual_figure(fit)
    for axes in figure.axes:
        assert sum(len(c.get_offsets()) for c in axes.collections) == len(fit.runs)


def test_figures_are_written_for_a_handful_of_scattered_runs(tmp_path):
    fit = fit_law(untuned(6, 0), bootstrap=30, lr_prior=3e-3)
    paths = save_figures(fit, tmp_path, target_flops=1e14, suffixes=("png", "svg"))
    assert len(paths) == 6
    assert all(p.stat().st_size > 5000 for p in paths)


def test_no_pyplot_state_is_touched(fit):
    import sys

    had = "matplotlib.pyplot" in sys.modules
    isoflop_figure(fit)
    assert ("matplotlib.pyplot" in sys.modules) == had


def test_pictures_show_losses_as_of_tuned_runs():
    runs = untuned(60, 2)
    fit = fit_law(runs, bootstrap=20)
    shown = tuned_loss(fit.state, fit.runs)
    truth = true_loss(runs["params"].to_numpy(), runs["tokens"].to_numpy())
    assert np.std(np.log(shown / truth)) < 0.4 * np.std(np.log(runs["loss"] / truth))
    np.testing.assert_allclose(shown, fit.tuned_loss, rtol=1e-9)


def test_the_page_states_law_intervals_warnings_and_optimum(fit):
    page = law_markdown(fit, target_flops=1e15)
    assert page.startswith("# Scaling law")
    for heading in ("## The law and", "## Compute-optimal training", "## Cross-check: IsoFLOP"):
        assert heading in page
    assert "| 1e+15 |" in page
    assert "Priors from published laws" in page
    for name, yes in fit.identified.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert row.endswith("| yes |" if yes else "| **no** |")


def test_the_page_states_rate_and_schedule_where_they_were_fitted():
    page = law_markdown(fit_law(untuned(40, 0), bootstrap=40))
    assert "The best learning rate is" in page
    assert "cosine +1.2 %" in page or "cosine +1." in page


def test_budgets_of_the_page_span_the_runs_and_two_decades_beyond():
    rng = np.random.default_rng(0)
    fit = fit_law(observe(*scattered(20, rng), rng), bootstrap=20)
    largest = fit.state.validity["flops"][1]
    budgets = default_budgets(fit.state, 1e20)
    assert budgets == sorted(budgets)
    assert max(b for b in budgets if b < 1e20) == pytest.approx(100 * largest)
    assert budgets[-1] == 1e20
