"""A comparison as a page of Markdown."""

from collections.abc import Mapping
from typing import Any

from analysis.compare import Comparison
from analysis.units import format_quantity


def comparison_markdown(comparison: Comparison) -> str:
    """Return the page."""
    labels = [law["label"] for law in comparison.laws]
    lines = ["# Laws compared", "", *_laws(comparison)]
    if comparison.warnings or comparison.reason:
        said = [*([comparison.reason] if comparison.reason else []), *comparison.warnings]
        lines += ["## Read this first", "", *(f"- {w[0].upper()}{w[1:]}." for w in said), ""]
    lines += _parameters(comparison, labels)
    lines += _budgets(comparison, labels)
    lines += _crossovers(comparison, labels)
    lines += _scores(comparison, labels)
    return "\n".join(lines).rstrip() + "\n"


def _laws(comparison: Comparison) -> list[str]:
    lines = [
        "| | law | runs | C (6ND) | kernel | file |",
        "| --- | --- | ---: | --- | --- | --- |",
    ]
    for law in comparison.laws:
        span = " to ".join(f"{c:.3g}" for c in law["flops"])
        lines.append(
            f"| **{law['label']}** | {law['law']} | {law['runs']} | {span} "
            f"| {law['kernel'] or ''} | `{law['path']}` |"
        )
    return [*lines, ""]


def _parameters(comparison: Comparison, labels: list[str]) -> list[str]:
    lines = ["## Parameters", "", "90 % intervals in brackets.", ""]
    heads = [
        f"differs from {labels[0]}" if len(labels) == 2 else f"{b} differs" for b in labels[1:]
    ]
    lines.append("| | " + " | ".join([*labels, *heads]) + " |")
    lines.append("| --- |" + " --- |" * (len(labels) + len(heads)))
    for row in comparison.parameters:
        cells = ["" if e is None else _estimate(e, "{:.4g}") for e in row["laws"]]
        for z, told in zip(row["z"], row["differs"], strict=True):
            cells.append("" if z is None else f"{'**yes**' if told else 'no'} (z = {z:+.1f})")
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    lines.append("")
    for label, test in zip(labels[1:], comparison.tests, strict=True):
        if test is None:
            names = {law["label"]: law["law"] for law in comparison.laws}
            other = "is another formula than"
            if names[label] == names[labels[0]]:
                other = "has another formula, or is stated about another point, than"
            lines.append(f"{label} {other} {labels[0]}: only optima compare.")
        else:
            lines.append(
                f"All parameters of {label} at once against {labels[0]}'s: chi-square "
                f"{test['chi2']:.3g} on {test['degrees']:.0f}, p {_probability(test['p'])}."
            )
    return [*lines, ""]


def _budgets(comparison: Comparison, labels: list[str]) -> list[str]:
    lines = ["## Compute-optimal training", ""]
    if comparison.unique_tokens is not None:
        lines += [f"With {format_quantity(comparison.unique_tokens)} unique tokens.", ""]
    losses = comparison.losses_comparable
    heads = [f"{h} by {a}" for a in labels for h in ("N", "D", *(["loss"] if losses else []))]
    for label in labels[1:]:
        heads += [f"N, {label}/{labels[0]}"]
        heads += [f"loss, {label}/{labels[0]}"] if losses else []
    lines.append("| C (6ND) | " + " | ".join(heads) + " |")
    lines.append("| ---: |" + " --- |" * len(heads))
    for row in comparison.budgets:
        cells = []
        for law in row["laws"]:
            # A star marks a budget beyond the runs of that law.
            star = "*" if law["extrapolation_decades"] > 0 else ""
            cells.append(_quantity(law["params"]) + star)
            cells.append(format_quantity(law["tokens"]["value"]))
            cells += [_estimate(law["loss"], "{:.3f}")] if losses else []
        for ratio in row["ratios"]:
            cells.append(_ratio(ratio["params"], "{:.3g}"))
            cells += [_ratio(ratio["loss"], "{:.4f}")] if losses else []
        lines.append(f"| {row['flops']:.3g} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "A star: beyond that law's runs. Bold: the 90 % interval of the ratio leaves out 1; the "
        "laws' errors count as independent.",
        "",
        "| C (6ND) | " + " | ".join(f"exponent of N by {a}" for a in labels) + " |",
        "| ---: |" + " --- |" * len(labels),
    ]
    for row in comparison.budgets:
        cells = [_estimate(law["exponent"], "{:.3f}") for law in row["laws"]]
        lines.append(f"| {row['flops']:.3g} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _crossovers(comparison: Comparison, labels: list[str]) -> list[str]:
    if not comparison.losses_comparable:
        return []
    lines = ["## Which is better where", ""]
    for label, found in zip(labels[1:], comparison.crossovers, strict=True):
        if found is None:
            continue
        better = label if found["better_below"] else labels[0]
        other = labels[0] if better == label else label
        if not found["at"]:
            lines.append(
                f"{better} has the lower loss than {other} at every budget, to two decades beyond "
                "the runs of both."
            )
        for crossing in found["at"]:
            beyond = crossing["extrapolation_decades"]
            ends = [crossing[k] for k in ("low", "high")]
            shown = ["out of sight" if e is None else f"{e:.2g}" for e in ends]
            lines.append(
                f"{better} is better below {crossing['flops']:.3g} FLOPs, {other} above"
                + (f" ({beyond:.2g} decades beyond the runs)" if beyond else "")
                + f"; the interval of their difference holds zero from {shown[0]} to {shown[1]}."
            )
            better, other = other, better
    return [*lines, ""]


def _scores(comparison: Comparison, labels: list[str]) -> list[str]:
    if not comparison.scores:
        return []
    lines = [
        "## On the runs given",
        "",
        "| | rows | RMSE of log loss | bias | coverage of 90 % | half width | interval score |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, row in zip(labels, comparison.scores, strict=True):
        if row is None:
            lines.append(f"| {label} | | | | | | |")
            continue
        lines.append(
            f"| {label} | {row['rows']} | {row['rmse']:.4f} | {row['bias']:+.4f} "
            f"| {100 * row['coverage']:.0f} % | {row['half_width']:.4f} "
            f"| {row['interval_score']:.4f} |"
        )
    return [*lines, ""]


def _probability(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-6 else "< 1e-6"


def _estimate(estimate: Mapping[str, float], form: str) -> str:
    value, low, high = (form.format(estimate[k]) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _quantity(estimate: Mapping[str, float]) -> str:
    value, low, high = (format_quantity(estimate[k]) for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _ratio(ratio: Mapping[str, Any], form: str) -> str:
    text = _estimate(ratio, form)
    return f"**{text}**" if ratio["differs"] else text
