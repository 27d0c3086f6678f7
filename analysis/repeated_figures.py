"""Pictures of a law of repeated data: curves along epochs, and what more unique tokens buy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from analysis.drawing import (
    ACCENT,
    BAND,
    INK,
    MUTED,
    canvas,
    dress,
    legend,
    new_figure,
    quantities,
    shades_of,
    title,
)
from analysis.epochs import allocate_data
from analysis.errors import AllocationError
from analysis.fitting.result import Fit
from analysis.laws.data_search import best_epochs
from analysis.minima import NOT_REACHED, TURNED, curve_minima
from analysis.state import LawState
from analysis.units import format_quantity

_MOST_PANELS = 9
_COLUMNS = 3


def epochs_figure(fit: Fit | LawState, runs: pd.DataFrame | None = None) -> Figure:
    """Draw loss against epochs, a panel for each U, a colour for each N, with the law's curves.

    A diamond marks where the law's curve is lowest within the epochs drawn.

    Args:
        fit: a fit, or a law's state.
        runs: the runs; unset: those of the fit.
    """
    state = fit.state if isinstance(fit, Fit) else fit
    table = fit.runs if runs is None and isinstance(fit, Fit) else runs
    assert table is not None, "a law's state holds no runs; pass them as the second argument"
    table = table[table["unique_tokens"].notna()]
    levels = np.unique(table["unique_tokens"].to_numpy(dtype=np.float64))
    if len(levels) > _MOST_PANELS:
        levels = levels[np.linspace(0, len(levels) - 1, _MOST_PANELS).round().astype(int)]
    columns = min(_COLUMNS, max(len(levels), 1))
    rows = -(-max(len(levels), 1) // columns)
    figure = new_figure(3.6 * columns + 0.4, 3.2 * rows)
    shade = shades_of(table["params"].to_numpy(dtype=np.float64))
    for number, unique in enumerate(levels):
        axes = figure.add_subplot(rows, columns, number + 1)
        dress(axes)
        there = table[table["unique_tokens"] == unique]
        for params, curve in there.groupby("params"):
            colour = shade(np.array([float(params)]))[0]
            epochs = curve["tokens"].to_numpy(dtype=np.float64) / unique
            axes.scatter(epochs, curve["loss"], s=11, color=colour, lw=0, zorder=3)
            x = np.geomspace(epochs.min(), epochs.max() * 1.1, 80)
            law = state.predict(params, x * unique, unique).value
            label = f"N {format_quantity(float(params))}"
            axes.plot(x, law, color=colour, lw=1.2, label=label)
            lowest = int(np.argmin(law))
            if 0 < lowest < len(x) - 1:
                axes.scatter(
                    x[lowest], law[lowest], marker="D", s=24, facecolor="white",
                    edgecolor=colour, lw=1.1, zorder=4,
                )  # fmt: skip
        axes.set_xscale("log")
        _decades(axes.xaxis)
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss (nats per token)" if number % columns == 0 else "")
        axes.legend(fontsize=6.5, frameon=False)
        title(axes, f"U = {format_quantity(unique)} unique tokens")
    return figure


def minima_figure(state: LawState, runs: pd.DataFrame) -> Figure:
    """Draw where each curve itself is lowest against N, a colour for each U, and the law's lines.

    Bars are 90 % intervals; a triangle stands at the last epoch of a curve that never rose, whose
    minimum lies above it, and an open circle is of one that rose by less than the margin.

    Args:
        state: a law of repeated data.
        runs: the runs, with their trajectories.
    """
    minima = curve_minima(runs)
    figure, axes = canvas(6.4, 4.2)
    if minima.empty:
        return figure
    levels = np.unique(minima["unique_tokens"].to_numpy(dtype=np.float64))
    shade = shades_of(levels)
    x = np.geomspace(minima["params"].min() / 1.1, minima["params"].max() * 1.1, 40)
    for number, unique in enumerate(levels):
        colour = shade(np.array([unique]))[0]
        # Side by side, so that bars of one N do not hide each other.
        beside = 1.012 ** (number - (len(levels) - 1) / 2)
        limits = best_epochs(
            state.law, np.tile(state.theta, (x.size, 1)), np.log(x), float(np.log(unique))
        )
        axes.plot(x, np.exp(limits.log_epochs), color=colour, lw=1.1, alpha=0.8)
        for row in minima[minima["unique_tokens"] == unique].itertuples():
            if row.shape == NOT_REACHED:
                axes.scatter(
                    row.params * beside, row.last, marker="^", s=34, facecolor="none",
                    edgecolor=colour,
                )  # fmt: skip
                continue
            high = row.last if np.isnan(row.epochs_high) else row.epochs_high
            place = row.params * beside
            axes.plot([place, place], [row.epochs_low, high], color=colour, lw=1.0, alpha=0.6)
            face = colour if row.shape == TURNED else "white"
            axes.scatter(place, row.epochs, s=26, facecolor=face, edgecolor=colour, zorder=3)
        label = f"U {format_quantity(unique)}"
        axes.scatter([], [], s=26, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _decades(axes.xaxis)
    _decades(axes.yaxis)
    axes.set_xlabel("parameters $N$")
    axes.set_ylabel("epochs at which the loss is lowest")
    legend(axes, "upper right")
    title(axes, "Where the curves are lowest; lines: the law")
    return figure


def _decades(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade: a range of epochs or sizes seldom spans two."""
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(quantities())
    axis.set_minor_formatter(ticker.NullFormatter())


def data_value_figure(state: LawState, levels: Sequence[float]) -> Figure:
    """Draw the lowest loss and the best epochs and N against unique tokens, with 90 % bands.

    Args:
        state: a law of repeated data.
        levels: U, ascending; those for which the law names no optimum are left out.
    """
    found = []
    for unique in levels:
        try:
            found.append(allocate_data(state, unique))
        except AllocationError:
            continue
    figure = new_figure(10.8, 3.4)
    seen = state.validity.get("unique_tokens")
    for number, (name, label) in enumerate(
        (("loss", "loss (nats per token)"), ("epochs", "best epochs"), ("params", "best $N$"))
    ):
        axes = figure.add_subplot(1, 3, number + 1)
        dress(axes)
        tokens = [row.unique_tokens for row in found]
        values = [getattr(row, name) for row in found]
        axes.fill_between(
            tokens, [v.low for v in values], [v.high for v in values], color=BAND, alpha=0.18, lw=0
        )
        axes.plot(tokens, [v.value for v in values], color=INK, lw=1.4)
        if seen is not None:
            axes.axvspan(*seen, color=MUTED, alpha=0.12, lw=0)
        axes.set_xscale("log")
        if name != "loss":
            axes.set_yscale("log")
        axes.set_xlabel("unique tokens $U$ (shaded: the runs')")
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(quantities())
        title(axes, {"loss": "What data buys", "epochs": "Epochs", "params": "Size"}[name])
    if not found:
        figure.text(0.5, 0.5, "this law names no optimum for unique tokens", color=ACCENT)
    return figure
