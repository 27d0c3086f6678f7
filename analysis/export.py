"""Writing a law where people look: the law file, pages, tables, figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.result import Fit
from analysis.lawfile import LawFile, load_law, save_law
from analysis.minima import curve_minima
from analysis.report import default_budgets, document_markdown, optimum_table
from analysis.reporting.repeated import (
    default_levels,
    default_sizes,
    epochs_rows,
    minima_lines,
    repeated_lines,
    unique_rows,
)
from analysis.runs import unique_tokens_of
from analysis.state import LawState

PAGE_NAME = "law.md"
LATEX_NAME = "law.tex"
FIGURE_SUFFIXES = ("png", "svg")
_BEYOND = 100.0
"""How far past the largest run `optimum.csv` reaches."""

_CAPTIONS = {
    "isoflop": "IsoFLOP curves",
    "frontier": "Compute-optimal size",
    "residuals": "Predicted and observed",
    "epochs": "Loss along epochs, and the law's minima",
    "data_value": "What more unique tokens buy",
    "minima": "Where the curves are lowest",
}


def write_law(
    fit: Fit,
    folder: str | Path,
    target_flops: float | None = None,
    search: Mapping[str, Any] | None = None,
    target_unique_tokens: float | None = None,
) -> list[Path]:
    """Write a fit's law file, its page and figures into `folder`; return the paths.

    Args:
        fit: the fit.
        folder: made when missing.
        target_flops: a budget in 6 N D to include in tables and figures.
        search: how the search that bought the runs ended, which the law file keeps.
        target_unique_tokens: U to include in the tables of a law of repeated data.
    """
    path = save_law(fit, folder, search)
    return [path, *export_law(load_law(path), folder, target_flops, target_unique_tokens)]


def export_law(
    law: LawFile,
    folder: str | Path,
    target_flops: float | None = None,
    target_unique_tokens: float | None = None,
) -> list[Path]:
    """Write a law for people and programs into `folder`; return the paths, the page first.

    `law.md` and `law.tex`; `optimum.csv`, the best N, D and loss over a range of budgets;
    `predictions.csv`, the fitted runs with their predictions; figures as PNG and SVG. The last
    two need the runs, which `fit --out` leaves beside the law file. A law of repeated data adds
    `epochs.csv`, how many epochs help a model of N on U, `unique_tokens.csv`, the best N and
    epochs for U, and, with the runs, `minima.csv`, where each curve itself is lowest. The same law
    gives the same bytes each time.
    """
    from analysis.latex import law_latex

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    runs = law.runs
    budgets = default_budgets(law.state, target_flops)
    optima = optimum_table(law.state, budgets)
    grid = optimum_table(law.state, budget_grid(law.state, target_flops))
    paths = [
        write_text(law_latex(law.document, law.state, optima), target / LATEX_NAME),
        _write_csv(grid, target / "optimum.csv"),
    ]
    repeated: list[str] = []
    if law.state.law.needs_unique:
        levels = default_levels(law.state, target_unique_tokens)
        epochs = epochs_rows(law.state, default_sizes(law.state), levels)
        unique = unique_rows(law.state, levels)
        repeated = repeated_lines(epochs, unique)
        paths.append(_write_csv(pd.DataFrame(epochs), target / "epochs.csv"))
        paths.append(_write_csv(pd.DataFrame(unique), target / "unique_tokens.csv"))
    shown: dict[str, str] = {}
    if runs is not None:
        from analysis.figures import save_figures

        paths.append(_write_csv(prediction_table(law.state, runs), target / "predictions.csv"))
        figures = save_figures(law.state, target / "figures", runs, target_flops, FIGURE_SUFFIXES)
        if law.state.law.needs_unique and "trajectory" in runs:
            minima = curve_minima(runs)
            repeated = [*minima_lines(minima), *repeated]
            paths.append(_write_csv(minima, target / "minima.csv"))
        if law.state.law.needs_unique:
            figures += _repeated_figures(law.state, runs, levels, target / "figures")
        shown = {_CAPTIONS[p.stem]: f"figures/{p.name}" for p in figures if p.suffix == ".png"}
        paths += figures
    page = target / PAGE_NAME
    text = document_markdown(law.document, law.state, runs, optima, shown, repeated)
    return [write_text(text, page), *paths]


def _repeated_figures(
    state: LawState, runs: pd.DataFrame, levels: list[float], folder: Path
) -> list[Path]:
    from analysis.drawing import save_figure
    from analysis.repeated_figures import data_value_figure, epochs_figure, minima_figure

    grid = np.geomspace(levels[0], levels[-1], 9).tolist()
    figures = {"epochs": epochs_figure(state, runs), "data_value": data_value_figure(state, grid)}
    if "trajectory" in runs:
        figures["minima"] = minima_figure(state, runs)
    return [
        save_figure(figure, folder / f"{name}.{suffix}")
        for name, figure in figures.items()
        for suffix in FIGURE_SUFFIXES
    ]


def budget_grid(state: LawState, target_flops: float | None = None) -> list[float]:
    """Return budgets in steps of 1, 2 and 5 over the runs and two decades beyond, and a target."""
    low, high = state.validity.get("flops", (1e18, 1e21))
    high = max(high * _BEYOND, target_flops or 0.0)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    inside = {c for c in steps if low <= c <= high}
    return sorted(inside | ({target_flops} if target_flops else set()))


def prediction_table(state: LawState, runs: pd.DataFrame) -> pd.DataFrame:
    """Return each run with its loss as the law predicts it.

    Columns: what identifies a run, `params`, `tokens`, `unique_tokens` where known, `loss`;
    `tuned_loss`, less what the run's learning rate and schedule cost by the law's response;
    `predicted` with `low` and `high`, the 90 % interval of one run; `residual`, the logarithm of
    `tuned_loss` over `predicted`.
    """
    from analysis.figures import tuned_loss

    unique = unique_tokens_of(runs)
    found = state.predict(runs["params"], runs["tokens"], unique, noise=True)
    names = ("trajectory", "observation", "run_id", "params", "tokens", "unique_tokens", "loss")
    absent = {"unique_tokens"} if unique is None else set()
    tuned = tuned_loss(state, runs)
    return runs[[c for c in names if c in runs and c not in absent]].assign(
        tuned_loss=tuned,
        predicted=found.value,
        low=found.low,
        high=found.high,
        residual=np.log(tuned / found.value),
    )


def write_text(text: str, path: Path) -> Path:
    """Write a text file whole or not at all, with its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _write_csv(table: pd.DataFrame, path: Path) -> Path:
    return write_text(table.to_csv(index=False), path)
