"""The document's figures: the two compute laws, and tables 3 and 4 against equation 15."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from analysis.drawing import (
    ACCENT,
    BAND,
    INK,
    MUTED,
    canvas,
    legend,
    new_figure,
    quantities,
    shades_of,
    title,
)
from analysis.drawing import dress as dress_axes
from analysis.laws.base import Points
from analysis.laws.chinchilla import CHINCHILLA
from analysis.paper.epochs import interior_epochs, table4
from analysis.paper.laws import ComputeLaws, allocation, natural
from analysis.reference import constants, printed_table
from analysis.units import parse_quantity


def isoflop_figure(laws: ComputeLaws) -> Figure:
    """Draw the 87 runs with each budget's parabola and both parametric laws."""
    figure = new_figure(10.0, 4.6)
    left, right = figure.subplots(1, 2, sharey=True)
    runs = laws.runs
    params, loss = runs["params"].to_numpy(), runs["loss"].to_numpy()
    flops = runs["flops"].to_numpy(dtype=np.float64)
    shade = shades_of(flops)
    for axes in (left, right):
        dress_axes(axes)
        axes.scatter(params, loss, s=15, c=shade(flops), lw=0, zorder=3)
        axes.set(xscale="log", xlabel="parameters $N$")
        axes.xaxis.set_major_formatter(quantities())
    left.set_ylabel("training loss (nats per token)")
    printed = CHINCHILLA.theta(natural("eq13", "printed"))
    for number, row in laws.isoflop.minima.iterrows():
        members = laws.isoflop.group == number
        x = np.linspace(np.log(params[members].min()), np.log(params[members].max()), 80)
        colour = shade(np.array([row["flops"]]))[0]
        off = x - row["centre"]
        left.plot(
            np.exp(x), row["c0"] + row["c1"] * off + row["c2"] * off**2, color=colour, lw=1.2
        )
        points = Points(x, np.log(row["flops"] / 6.0) - x)
        best = np.exp(laws.fit.law.log_loss(laws.fit.theta, points))
        right.plot(np.exp(x), best, color=colour, lw=1.3)
        right.plot(
            np.exp(x), np.exp(CHINCHILLA.log_loss(printed, points)), color=colour, lw=1.0, ls=":"
        )
    minima = laws.isoflop.minima
    left.scatter(
        minima["params"], minima["loss"], marker="D", s=26, fc="white", ec=INK, lw=1.0, zorder=5
    )
    title(left, "Parabolas and their minima")
    title(right, "Parametric law: best (full), equation 13 (dotted)")
    return figure


def allocation_figure(laws: ComputeLaws) -> Figure:
    """Draw the best size against compute by every law, with the cells of tables 2 and 5."""
    figure, axes = canvas(7.2, 4.6)
    iso = laws.isoflop.params_law
    assert iso is not None
    work = np.geomspace(1e18, 1e29, 60)
    best = allocation(laws.fit.law.natural(laws.fit.theta))
    equation = allocation(natural("eq13", "recovered"))
    axes.plot(work, [iso(c) for c in work], color=BAND, lw=1.5, label="IsoFLOP, recomputed")
    axes.plot(work, equation.k_n * work**equation.a, color=INK, lw=1.3, label="equation 13")
    axes.plot(work, best.k_n * work**best.a, color=ACCENT, lw=1.5, label="best parametric law")
    drawn = np.exp(laws.samples[:, :1] + laws.samples[:, 1:] * np.log(work))
    low, high = np.nanpercentile(drawn, [5, 95], axis=0)
    axes.fill_between(work, low, high, color=BAND, alpha=0.15, lw=0)
    for column, colour in (("approach1", BAND), ("approach2", INK)):
        table = printed_table(5)
        axes.scatter(
            table[f"{column}_flops"].map(parse_quantity),
            table["params"].map(parse_quantity),
            s=20,
            color=colour,
            lw=0,
            zorder=4,
        )
    minima = laws.isoflop.minima
    axes.scatter(
        minima["flops"], minima["params"], marker="D", s=22, fc="white", ec=INK, lw=1, zorder=5
    )
    axes.set(xscale="log", yscale="log", xlabel="compute $C = 6ND$ (FLOPs)", ylabel="best $N$")
    axes.yaxis.set_major_formatter(quantities())
    title(axes, "Best size by each law; dots: tables 2 and 5, diamonds: the runs' minima")
    legend(axes, "upper left")
    return figure


def epochs_figure() -> Figure:
    """Draw table 3 on equation 15's curves, and table 4 along its optimum."""
    figure, axes = canvas(7.2, 4.8)
    recovered, printed = constants("eq15", "recovered"), constants("eq15", "printed")
    table = printed_table(3)
    params = table["params"].map(parse_quantity).to_numpy()
    unique = [parse_quantity(u) for u in table.columns[1:]]
    shade = shades_of(np.array(unique))
    sizes = np.geomspace(params.min() / 1.5, params.max() * 1.5, 150)
    for text, value in zip(table.columns[1:], unique, strict=True):
        colour = shade(np.array([value]))[0]
        curve = np.array([interior_epochs(recovered, n, value) for n in sizes])
        rough = np.array([interior_epochs(printed, n, value) for n in sizes])
        axes.plot(sizes, np.where(curve > 1, curve, np.nan), color=colour, lw=1.2)
        axes.plot(sizes, np.where(rough > 1, rough, np.nan), color=colour, lw=0.9, ls=":")
        axes.scatter(params, table[text].astype(float), s=18, color=colour, lw=0, zorder=4)
        label = f"U = {text}"
        axes.annotate(
            label,
            (sizes[0], float(curve[0])),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7.5,
            color=colour,
        )
    axes.set(xscale="log", yscale="log", xlabel="parameters $N$", ylabel="epochs of lowest loss")
    axes.set_xlim(sizes[0] / 4.0, sizes[-1])
    axes.xaxis.set_major_formatter(quantities())
    title(axes, "Table 3 (dots) on equation 15: recovered (full), as printed (dotted)")
    return figure


def joint_figure() -> Figure:
    """Draw table 4's ratios to the recomputed optimum."""
    figure, axes = canvas(7.2, 3.4)
    table = table4()
    unique = table["unique_tokens"].map(parse_quantity)
    for name, colour, label in (("params", BAND, "$N$"), ("epochs", ACCENT, "epochs")):
        difference = [100.0 * cell.difference for cell in table[name]]
        axes.plot(unique, difference, color=colour, marker="o", ms=4, lw=1.1, label=label)
    axes.plot(unique, 100.0 * table["excess"], color=MUTED, lw=1.3, label="loss given up")
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.set(xscale="log", xlabel="unique tokens $U$", ylabel="recomputed less printed (%)")
    axes.xaxis.set_major_formatter(quantities())
    title(axes, "Table 4: the optimum is flat")
    legend(axes, "upper right")
    return figure


def save(laws: ComputeLaws, folder: Path) -> list[Path]:
    """Write the figures as SVG into `folder`; the same laws give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "isoflop": isoflop_figure(laws),
        "allocation": allocation_figure(laws),
        "table3": epochs_figure(),
        "table4": joint_figure(),
    }
    paths = []
    with mpl.rc_context({"svg.hashsalt": "quokka", "svg.fonttype": "none"}):
        for name, figure in figures.items():
            paths.append(folder / f"{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths
