"""Pictures of a law of repeated data: curves along epochs, and what more unique tokens buy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure

from analysis.drawing import (
    ACCENT,
    BAND,
    INK,
    MUTED,
    dress,
    new_figure,
    quantities,
    shades_of,
    title,
)
from analysis.epochs import allocate_data
from analysis.errors import AllocationError
from analysis.fitting.result import Fit
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
        axes.xaxis.set_major_formatter(quantities())
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss (nats per token)" if number % columns == 0 else "")
        axes.legend(fontsize=6.5, frameon=False)
        title(axes, f"U = {format_quantity(unique)} unique tokens")
    return figure


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
