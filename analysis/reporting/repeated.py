"""A law of repeated data as tables: epochs before degradation, and the best N for unique tokens.

The paper's tables 3 and 4, for the user's own law and with intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.epochs import EpochsLimit, allocate_data, epochs_limit
from analysis.errors import AllocationError
from analysis.minima import NOT_REACHED, minima_trend
from analysis.state import LawState
from analysis.units import format_quantity

_SIZES = 4
_LEVELS = 3
_BEYOND = (3.0, 10.0)
"""Factors by which the tables go past the most unique tokens of the runs."""


def default_sizes(state: LawState) -> list[float]:
    """Return sizes spread over the runs' own, to three digits."""
    return _rounded(np.geomspace(*state.validity.get("params", (1e6, 1e10)), _SIZES))


def default_levels(state: LawState, target: float | None = None) -> list[float]:
    """Return unique tokens spread over the runs' own, a decade beyond, and a target."""
    low, high = state.validity.get("unique_tokens", (1e7, 1e9))
    inside = np.geomspace(low, high, _LEVELS) if high > 1.01 * low else np.array([high])
    wanted = [*inside, *(factor * high for factor in _BEYOND)]
    near = [u for u in _rounded(np.array(wanted)) if not target or abs(u / target - 1.0) > 0.1]
    return sorted({*near, *([float(target)] if target else [])})


def _rounded(values: np.ndarray) -> list[float]:
    return sorted({float(f"{value:.3g}") for value in values})


def epochs_rows(
    state: LawState, sizes: Sequence[float], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """Return for each N and U how many epochs help, as the paper's table 3.

    Columns: `params`, `unique_tokens`; `epochs`, the interior optimum where there is one and else
    the best number, None where each further epoch helps; `epochs_low`, `epochs_high`; `loss`;
    `worse_than_one`, whether a single epoch has a lower loss; `extrapolation_decades`.
    """
    return [_epochs_row(epochs_limit(state, n, u)) for n in sizes for u in levels]


def _epochs_row(found: EpochsLimit) -> dict[str, Any]:
    shown = found.interior if found.interior is not None else found.epochs
    loss = found.interior_loss if found.interior_loss is not None else found.loss
    worse = found.interior is not None and found.epochs is not None and found.epochs.value == 1.0
    return {
        "params": found.params,
        "unique_tokens": found.unique_tokens,
        "epochs": None if shown is None else shown.value,
        "epochs_low": None if shown is None else shown.low,
        "epochs_high": None if shown is None else shown.high,
        "loss": loss.value,
        "worse_than_one": worse,
        "extrapolation_decades": found.extrapolation_decades,
    }


def unique_rows(state: LawState, levels: Sequence[float]) -> list[dict[str, Any]]:
    """Return for each U the best N and epochs with compute unlimited, as the paper's table 4.

    Columns: `unique_tokens`; `params`, `epochs`, `flops` (6 N U e) and `loss` with `_low` and
    `_high`; `extrapolation_decades`. Where the law names no optimum for a U, it has no row.
    """
    rows = []
    for unique in levels:
        try:
            found = allocate_data(state, unique)
        except AllocationError:
            continue
        row: dict[str, Any] = {"unique_tokens": unique}
        for name in ("params", "epochs", "flops", "loss"):
            estimate = getattr(found, name)
            row |= {name: estimate.value}
            row |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append({**row, "extrapolation_decades": found.extrapolation_decades})
    return rows


def repeated_lines(
    epochs: Sequence[Mapping[str, Any]], unique: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return both tables in Markdown."""
    levels = sorted({row["unique_tokens"] for row in epochs})
    cells = {(row["params"], row["unique_tokens"]): row for row in epochs}
    lines = [
        "## Repeated data: epochs before degradation",
        "",
        "Rows N, columns U; 90 % intervals. A star: a single epoch has a lower loss.",
        "",
        "| N | " + " | ".join(format_quantity(u) for u in levels) + " |",
        "| ---: |" + " ---: |" * len(levels),
    ]
    for params in sorted({row["params"] for row in epochs}):
        shown = [_epochs_cell(cells[(params, u)]) for u in levels]
        lines.append(f"| {format_quantity(params)} | " + " | ".join(shown) + " |")
    lines += ["", "## Repeated data: the best size and epochs", ""]
    if not unique:
        return [*lines, "The law gains from larger models or more epochs without end.", ""]
    lines += [
        "| U | N | epochs | C (6ND) | loss | beyond the runs |",
        "| ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in unique:
        beyond = row["extrapolation_decades"]
        lines.append(
            f"| {format_quantity(row['unique_tokens'])} "
            f"| {_interval(row, 'params', format_quantity)} "
            f"| {_interval(row, 'epochs', '{:.3g}'.format)} "
            f"| {_interval(row, 'flops', '{:.2g}'.format)} "
            f"| {_interval(row, 'loss', '{:.3f}'.format)} "
            f"| {f'{beyond:.2g} decades' if beyond > 0 else ''} |"
        )
    return [*lines, ""]


def minima_lines(minima: pd.DataFrame) -> list[str]:
    """Return in Markdown where each curve is lowest, and how that moves with U and N.

    Args:
        minima: of `analysis.minima.curve_minima`.
    """
    if minima.empty:
        return []
    lines = [
        "## Repeated data: where the curves are lowest, without the law",
        "",
        "Of each trajectory alone: a cubic through the observations near its lowest; 90 % "
        "intervals.",
        "",
        "| N | U | epochs seen | lowest at | its loss | at the last | |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in minima.itertuples():
        if row.shape == NOT_REACHED:
            place = f"above {row.epochs_low:.3g}"
        else:
            high = "?" if np.isnan(row.epochs_high) else f"{row.epochs_high:.3g}"
            place = f"{row.epochs:.3g} ({row.epochs_low:.3g} to {high})"
        lines.append(
            f"| {format_quantity(row.params)} | {format_quantity(row.unique_tokens)} "
            f"| {row.first:.3g} to {row.last:.3g} | {place} | {row.lowest:.3f} "
            f"| {row.rise:+.1%} | {row.shape} |"
        )
    return [*lines, "", trend_words(minima), ""]


def trend_words(minima: pd.DataFrame) -> str:
    """Return a sentence on how the curves' minima move with U and N."""
    trend = minima_trend(minima)
    if trend is None:
        return "Too few curves turned to say how their minima move with U and N."
    grows, falls = (
        f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})"
        for e in (trend.with_unique, trend.with_params)
    )
    return (
        f"Over the {trend.count} that turned the minimum goes as U^m / N^k with m = {grows} and "
        f"k = {falls}, scattering by a factor of {np.exp(trend.scatter):.2f}."
    )


def _epochs_cell(row: Mapping[str, Any]) -> str:
    if row["epochs"] is None:
        return "endless"
    star = "*" if row["worse_than_one"] else ""
    return f"{row['epochs']:.3g}{star} ({row['epochs_low']:.3g} to {row['epochs_high']:.3g})"


def _interval(row: Mapping[str, Any], name: str, show: Any) -> str:
    return f"{show(row[name])} ({show(row[f'{name}_low'])} to {show(row[f'{name}_high'])})"
