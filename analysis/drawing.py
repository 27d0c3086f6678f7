"""How this package's figures look: canvases, axes, colours of budgets, labels with units."""

from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib import cm, colors, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.laws.base import FloatArray
from analysis.units import format_quantity

INK = "#22223b"
MUTED = "#8d8d9f"
ACCENT = "#c9374c"
BAND = "#3d5a98"
_MAP = "viridis"


_MOST_POINTS = 3000


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, PNG or SVG by its suffix, whole or not at all; return its path.

    The same figure gives the same bytes each time: no date, and no random ids.
    """
    partial = path.with_name(f".{path.name}.partial")
    kind = path.suffix.lstrip(".")
    for points in figure.findobj(PathCollection):
        # Many thousand points are a picture within the picture.
        points.set_rasterized(np.shape(points.get_offsets())[0] > _MOST_POINTS)
    # Text stays text, and ids are the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "quokka-ray"}):
        figure.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else None)
    partial.replace(path)
    return path


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def dress(axes: Axes) -> None:
    """Give an axes this package's quiet look, without touching global settings."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.grid(True, which="major", color="#e7e7ee", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, which="both")
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def shades_of(flops: FloatArray) -> "Shades":
    return Shades(float(np.log10(flops.min())), float(np.log10(flops.max())))


class Shades:
    """Colours of budgets: the logarithm of C, kept off the map's palest end."""

    def __init__(self, low: float, high: float) -> None:
        spread = max(high - low, 0.3)
        self.norm = colors.Normalize(low, high + 0.12 * spread)
        self.map = cm.ScalarMappable(norm=self.norm, cmap=_MAP)

    def __call__(self, flops: FloatArray) -> FloatArray:
        rgba: FloatArray = self.map.to_rgba(np.log10(flops))
        return rgba


def colour_bar(figure: Figure, axes: Axes, flops: FloatArray) -> None:
    shades = shades_of(flops)
    low, high = np.log10(flops.min()), np.log10(flops.max())
    bar = figure.colorbar(shades.map, ax=axes, pad=0.015, aspect=32, fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.set_ylim(low, max(high, low + 1e-3))
    # Powers of ten; on a short span, where there are few, their doubles and fives too.
    steps = (1, 2, 5) if high - low < 2 else (1,)
    marks = [step * 10.0**power for power in range(int(low), int(high) + 1) for step in steps]
    shown = [mark for mark in marks if low <= np.log10(mark) <= high]
    bar.ax.yaxis.set_major_locator(ticker.FixedLocator(list(np.log10(shown))))
    bar.ax.yaxis.set_major_formatter(
        ticker.FixedFormatter([f"{mark:.0e}".replace("e+", "e") for mark in shown])
    )
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.set_label("compute $C = 6ND$ (FLOPs)", fontsize=9, color=INK)


def quantities() -> ticker.FuncFormatter:
    return ticker.FuncFormatter(lambda value, _: format_quantity(value))


def legend(axes: Axes, place: Literal["upper left", "upper right"]) -> None:
    """Draw a small legend without a frame."""
    axes.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK, handlelength=1.8)


def title(axes: Axes, text: str) -> None:
    """Set the axes' title, left-aligned."""
    axes.set_title(text, loc="left", fontsize=11, color=INK, pad=10)
