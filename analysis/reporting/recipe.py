"""What the runs say of their recipe: learning rate, schedule, mixture, and what else varied."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analysis.units import format_quantity


def response_lines(response: Mapping[str, Any]) -> list[str]:
    """Return the section on the recipe of a law file, in Markdown."""
    mixed = response.get("mixture")
    more = bool(response.get("dimensions"))
    title = "The recipe" if more else "Learning rate and schedule"
    lines = [f"## {'Learning rate, schedule and mixture' if mixed and not more else title}", ""]
    lr = response["lr"]
    where = (
        f"N = {format_quantity(response['reference_params'])}, "
        f"D = {format_quantity(response['reference_tokens'])}"
    )
    if response["lr_fitted"]:
        interval = f" ({lr['low']:.3g} to {lr['high']:.3g})" if lr["low"] is not None else ""
        lines.append(
            f"The best learning rate is {lr['value']:.3g}{interval} at {where}, and goes as "
            f"N^{response['slope_params']:.2f} D^{response['slope_tokens']:.2f}. A rate off by a "
            f"factor of 2 costs {100 * response['curvature'] * np.log(2) ** 2:.2g} % of the loss. "
            "The law above is that of runs at the best rate."
        )
    elif lr["value"] is not None:
        lines.append(
            f"Learning rates were not fitted; the runs used about {lr['value']:.3g} at {where}."
        )
    else:
        lines.append("The runs name no learning rate; the law is that of the runs as they are.")
    offsets = response["offsets"]
    if len(offsets) > 1:
        listed = ", ".join(
            f"{name} +{100 * value:.2g} %"
            for name, value in sorted(offsets.items(), key=lambda item: item[1])
        )
        lines.append(f"Loss by schedule, over the best: {listed}.")
    if mixed:
        listed = ", ".join(
            f"{part} {share['value']:.0%}"
            + ("" if share["low"] is None else f" ({share['low']:.0%} to {share['high']:.0%})")
            for part, share in mixed["shares"].items()
        )
        lines.append(
            f"The best mixture of texts is {listed}; the law above is that of runs on it."
        )
    return [*lines, *_dimension_lines(response.get("dimensions") or {}, where), ""]


def _dimension_lines(dimensions: Mapping[str, Any], where: str) -> list[str]:
    """Return what the runs say of the recipe's other dimensions, a sentence each."""
    lines = []
    for column, found in dimensions.items():
        name = column.replace("_", " ")
        if "names" in found:
            constant = [row[0] for row in found["offsets"]]
            order = sorted(range(len(constant)), key=constant.__getitem__)
            listed = ", ".join(
                f"{found['names'][k]} +{100 * (constant[k] - constant[order[0]]):.2g} %"
                for k in order
            )
            lines.append(
                f"Loss by {name} at {where}, over the best: {listed}. The law above is stated for "
                f"{found['names'][0]}."
            )
            continue
        between = "" if found["low"] is None else f" ({found['low']:.3g} to {found['high']:.3g})"
        low, high = found["tried"]
        lines.append(
            f"The best {name} is {found['value']:.3g}{between} at {where}, and goes as "
            f"N^{found['slope_params']:.2f} D^{found['slope_tokens']:.2f}; {low:.3g} to "
            f"{high:.3g} were tried. Off by a factor of 2 it costs "
            f"{100 * found['curvature'] * np.log(2) ** 2:.2g} % of the loss."
        )
    return lines


_NAMES = {"batch_tokens": "batch", "warmup_fraction": "warmup"}
"""What a reader calls a column; others by their own name."""

_FORMS: Mapping[str, Callable[[float], str]] = {
    "batch_tokens": format_quantity,
    "warmup_fraction": lambda share: f"{share:.1%}",
}


def recipe_rows(recipe: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, value, and interval or rivals of each dimension of a recommended recipe.

    Args:
        recipe: `Response.recommended`; a batch may say its `sequences`.
    """
    rows = []
    for column, found in recipe.items():
        name = _NAMES.get(column, column.replace("_", " "))
        if "offsets" in found:
            value = str(found["value"])
            others = (
                f"{other} {_percent(offset)}"
                for other, offset in found["offsets"].items()
                if other != found["value"]
            )
            beside = ", ".join(others)
        else:
            show = _FORMS.get(column, lambda v: f"{v:.3g}")
            value, low, high = (
                "" if found[k] is None else show(found[k]) for k in ("value", "low", "high")
            )
            value += " tokens" if column == "batch_tokens" else ""
            if "sequences" in found:
                value += f", {found['sequences']} sequences"
            beside = f"{low} to {high}" if low else ""
        rows.append((name, value, beside))
    return rows


def _percent(offset: Mapping[str, float | None]) -> str:
    """Return by how much a choice's loss lies above the best one's."""
    value, low, high = (
        None if offset[k] is None else f"{100 * (offset[k] or 0.0):+.2g}"
        for k in ("value", "low", "high")
    )
    return f"{value} %" if low is None else f"{value} %, {low} to {high}"
