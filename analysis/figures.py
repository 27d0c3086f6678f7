"""Pictures of a law: IsoFLOP curves, the frontier, predicted against observed.

Figures are built on Agg canvases without pyplot, so that drawing from a driver thread touches no
global state. Each function returns a `matplotlib.figure.Figure`; `save_figures` writes them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.drawing import (
    ACCENT,
    BAND,
    INK,
    MUTED,
    canvas,
    colour_bar,
    dress,
    legend,
    new_figure,
    quantities,
    save_figure,
    shades_of,
    title,
)
from analysis.fitting.isoflop import IsoFlop, isoflop_parabolas
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray
from analysis.runs import unique_tokens_of
from analysis.state import LawState
from analysis.units import format_quantity

_MOST_LABELS = 9


def isoflop_figure(fit: Fit | LawState, runs: pd.DataFrame | None = None) -> Figure:
    """Draw loss against N, a colour for each budget, with the law's curves and both minima.

    Losses are shown as they would be at the law's learning rate and schedule; a thin whisker
    leads to the loss as it was measured where the two differ visibly.

    Args:
        fit: a fit, or a law's state.
        runs: the runs; unset: those of the fit.
    """
    state, table = _parts(fit, runs)
    loss = tuned_loss(state, table)
    iso = isoflop_parabolas(table, loss=loss)
    figure, axes = canvas(7.2, 5.0)
    params = table["params"].to_numpy(dtype=np.float64)
    observed = table["loss"].to_numpy(dtype=np.float64)
    flops = 6.0 * params * table["tokens"].to_numpy(dtype=np.float64)
    shade = shades_of(flops)
    alone = iso.group < 0
    if alone.any():
        axes.scatter(
            params[alone], loss[alone], s=13, c=shade(flops[alone]), alpha=0.55, lw=0, zorder=2
        )
    moved = np.abs(np.log(observed / loss)) > 0.003
    whiskers = [[(n, a), (n, b)] for n, a, b in zip(params, loss, observed, strict=True)]
    axes.add_collection(
        LineCollection(
            [w for w, yes in zip(whiskers, moved, strict=True) if yes],
            colors=shade(flops[moved]),
            lw=0.7,
            alpha=0.45,
        )
    )
    # With many budgets the colour bar tells them apart, and labels would hide the curves.
    named = iso.minima.sort_values("runs", kind="stable").index[-_MOST_LABELS:]
    for number, row in iso.minima.iterrows():
        members = iso.group == number
        colour = shade(np.array([row["flops"]]))[0]
        axes.scatter(params[members], loss[members], s=26, color=colour, lw=0, zorder=3)
        reach = np.log(params[members])
        x = np.linspace(reach.min() - 0.25, reach.max() + 0.25, 120)
        curve = state.predict(np.exp(x), row["flops"] / 6.0 / np.exp(x)).value
        axes.plot(np.exp(x), curve, color=colour, lw=1.4, zorder=2)
        if number not in named:
            continue
        axes.annotate(
            f"{row['flops']:.2g}".replace("e+", "e"),
            (float(np.exp(x[-1])), float(curve[-1])),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=colour,
        )
    _draw_minima(axes, state, iso, flops)
    axes.set_xscale("log")
    axes.set_xlabel("parameters $N$")
    axes.set_ylabel("loss (nats per token)")
    span = np.log(params)
    axes.set_xlim(float(np.exp(span.min() - 0.35)), float(np.exp(span.max() + 0.6)))
    low, high = float(loss.min()), float(loss.max())
    axes.set_ylim(low - 0.06 * (high - low), high + 0.08 * (high - low))
    axes.xaxis.set_major_formatter(quantities())
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    colour_bar(figure, axes, flops)
    title(axes, "IsoFLOP curves: runs, the law, and each budget's best size")
    legend(axes, "upper right")
    return figure


def _draw_minima(axes: Axes, state: LawState, iso: IsoFlop, flops: FloatArray) -> None:
    """Mark the parabolas' minima, and draw the law's own minimum across all budgets."""
    work = np.geomspace(flops.min() * 0.8, flops.max() * 1.25, 40)
    best = [state.optimum(float(c)) for c in work]
    axes.plot(
        [b.params.value for b in best],
        [b.loss.value for b in best],
        color=INK,
        lw=1.3,
        ls=(0, (5, 3)),
        label="law's optimum",
    )
    seen = iso.minima[iso.minima["both_arms"].astype(bool)]
    if len(seen):
        axes.scatter(
            seen["params"],
            seen["loss"],
            marker="D",
            s=30,
            facecolor="white",
            edgecolor=INK,
            lw=1.1,
            zorder=5,
            label="parabola's minimum",
        )


def frontier_figure(
    fit: Fit | LawState, runs: pd.DataFrame | None = None, target_flops: float | None = None
) -> Figure:
    """Draw the best N against C with its 90 % band, the observed minima and the target.

    Args:
        fit: a fit, or a law's state.
        runs: the runs; unset: those of the fit.
        target_flops: budget in 6 N D to mark; the axis reaches it.
    """
    state, table = _parts(fit, runs)
    iso = isoflop_parabolas(table, loss=tuned_loss(state, table))
    params = table["params"].to_numpy(dtype=np.float64)
    flops = 6.0 * params * table["tokens"].to_numpy(dtype=np.float64)
    end = flops.max() * 3.0 if target_flops is None else max(target_flops * 4.0, flops.max())
    work = np.geomspace(flops.min() / 2.0, end, 40)
    best = [state.optimum(float(c)).params for c in work]
    low, value, high = (np.array([getattr(e, k) for e in best]) for k in ("low", "value", "high"))
    figure, axes = canvas(7.2, 4.8)
    axes.fill_between(work, low, high, color=BAND, alpha=0.16, lw=0, label="90 % interval")
    axes.plot(work, value, color=BAND, lw=2.0, label="best size by the law")
    axes.scatter(flops, params, s=11, color=MUTED, alpha=0.6, lw=0, zorder=2, label="runs")
    seen = iso.minima[iso.minima["both_arms"].astype(bool)]
    if len(seen):
        axes.scatter(
            seen["flops"],
            seen["params"],
            marker="D",
            s=32,
            facecolor="white",
            edgecolor=INK,
            lw=1.1,
            zorder=5,
            label="parabolas' minima",
        )
    axes.axvline(flops.max(), color=MUTED, lw=0.9, ls=":")
    axes.annotate(
        "largest run",
        (flops.max(), 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="bottom",
        color=MUTED,
        fontsize=8,
    )
    if target_flops is not None:
        _mark_target(axes, state, target_flops)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # The band may open wide; the runs and the line decide what is shown of it.
    axes.set_ylim(min(params.min(), value.min()) / 2.0, max(params.max(), value.max()) * 4.0)
    axes.set_xlim(work[0], work[-1])
    axes.set_xlabel("compute $C = 6ND$ (FLOPs)")
    axes.set_ylabel("parameters $N$")
    axes.yaxis.set_major_formatter(quantities())
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    title(axes, "Compute-optimal model size")
    legend(axes, "upper left")
    return figure


def _mark_target(axes: Axes, state: LawState, target_flops: float) -> None:
    there = state.optimum(target_flops)
    n = there.params
    axes.errorbar(
        [target_flops],
        [n.value],
        yerr=[[n.value - n.low], [n.high - n.value]],
        fmt="*",
        ms=13,
        color=ACCENT,
        capsize=3,
        lw=1.4,
        zorder=6,
        label=f"target {target_flops:.2g}",
    )
    text = (
        f"$N$ {format_quantity(n.value)}  [{format_quantity(n.low)}, {format_quantity(n.high)}]\n"
        f"$D$ {format_quantity(there.tokens.value)}   loss {there.loss.value:.3f}"
    )
    axes.annotate(
        text,
        (target_flops, n.low),
        xytext=(26, -10),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color=ACCENT,
    )


def residual_figure(fit: Fit | LawState, runs: pd.DataFrame | None = None) -> Figure:
    """Draw observed against predicted loss, and what is left over against compute."""
    state, table = _parts(fit, runs)
    loss = tuned_loss(state, table)
    params = table["params"].to_numpy(dtype=np.float64)
    tokens = table["tokens"].to_numpy(dtype=np.float64)
    flops = 6.0 * params * tokens
    predicted = state.predict(params, tokens, unique_tokens_of(table)).value
    left = 100.0 * np.log(loss / predicted)
    figure = new_figure(9.2, 4.2)
    first, second = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
    shade = shades_of(flops)
    for axes in (first, second):
        dress(axes)
    ends = np.array([min(loss.min(), predicted.min()), max(loss.max(), predicted.max())])
    ends = ends * np.array([0.985, 1.015])
    first.plot(ends, ends, color=INK, lw=0.9, zorder=1)
    first.scatter(predicted, loss, s=24, c=shade(flops), lw=0, zorder=3)
    first.set(xlim=ends, ylim=ends, xlabel="predicted loss", ylabel="observed loss")
    first.set_aspect("equal")
    title(first, "Predicted and observed")
    band = 100.0 * 1.645 * state.sigma
    second.set_xscale("log")
    second.set_xlim(flops.min() / 1.6, flops.max() * 1.6)
    second.axhspan(-band, band, color=BAND, alpha=0.10, lw=0, label="90 % of runs, by the noise")
    second.axhline(0.0, color=INK, lw=0.9)
    second.scatter(flops, left, s=24, c=shade(flops), lw=0, zorder=3)
    reach = 1.25 * max(float(np.abs(left).max()), band)
    second.set_ylim(-reach, reach)
    second.set(xlabel="compute $C = 6ND$ (FLOPs)", ylabel="observed less predicted (%)")
    title(second, f"Residuals: noise {100 * state.sigma:.2g} % of the loss")
    legend(second, "upper right")
    return figure


def save_figures(
    fit: Fit | LawState,
    folder: str | Path,
    runs: pd.DataFrame | None = None,
    target_flops: float | None = None,
    suffixes: Sequence[str] = ("png",),
) -> list[Path]:
    """Write `isoflop`, `frontier` and `residuals` into `folder`; return the files' paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    figures = {
        "isoflop": isoflop_figure(fit, runs),
        "frontier": frontier_figure(fit, runs, target_flops),
        "residuals": residual_figure(fit, runs),
    }
    paths = [target / f"{name}.{suffix}" for name in figures for suffix in suffixes]
    return [save_figure(figures[path.stem], path) for path in paths]


def tuned_loss(state: LawState, runs: pd.DataFrame) -> FloatArray:
    """Return the observed losses with the fitted price of being untuned taken off, [R]."""
    penalty = np.zeros(len(runs))
    if state.response.fitted:
        penalty = state.response.penalty(
            runs["params"].to_numpy(dtype=np.float64),
            runs["tokens"].to_numpy(dtype=np.float64),
            runs["lr"].to_numpy(dtype=np.float64) if "lr" in runs else np.ones(len(runs)),
            runs["lr_schedule"].to_numpy(dtype=object) if "lr_schedule" in runs else None,
            runs,
        )
    return runs["loss"].to_numpy(dtype=np.float64) * np.exp(-penalty)


def _parts(fit: Fit | LawState, runs: pd.DataFrame | None) -> tuple[LawState, pd.DataFrame]:
    if isinstance(fit, Fit):
        return fit.state, fit.runs if runs is None else runs
    if runs is None:
        raise TypeError("a law's state holds no runs; pass them as the second argument")
    return fit, runs
