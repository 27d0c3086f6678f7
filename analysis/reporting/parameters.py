"""The law, its intervals, and what the runs say of each parameter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.comparison.parameters import exponent
from analysis.state import LawState
from analysis.units import format_quantity


def law_lines(document: Mapping[str, Any], state: LawState) -> list[str]:
    """Return the parameters with intervals, and how N_opt and D_opt grow."""
    lines = [
        "## The law and its intervals",
        "",
        "| | value | 90 % interval | standard error | identified |",
        "| --- | ---: | --- | ---: | --- |",
    ]
    for name, p in document["parameters"].items():
        yes = "yes" if p["identified"] else "**no**"
        lines.append(
            f"| {name} | {p['value']:.5g} | {p['low']:.4g} to {p['high']:.4g} "
            f"| {p['stderr']:.2g} | {yes} |"
        )
    lines.append("")
    if document.get("discrepancy"):
        lines += [
            "Identified: decided by the runs if the law's form is right. The intervals allow for "
            "it to be wrong.",
            "",
        ]
    about = centre(state)
    if about is not None:
        lines += [f"Stated about N_0 = {about[0]:.6g} and D_0 = {about[1]:.6g}.", ""]
    return [*lines, *_growth(state), ""]


def centre(state: LawState) -> tuple[float, float] | None:
    """Return N_0 and D_0 of a law that is stated about a point, None for other laws."""
    settings = state.law.settings()
    x0, z0 = (float(settings.get(name, 0.0)) for name in ("log_params", "log_tokens"))
    if x0 == z0 == 0.0:
        return None
    return float(np.exp(x0)), float(np.exp(z0))


def _growth(state: LawState) -> list[str]:
    """Return the exponents of N_opt and D_opt at the ends of the runs' compute."""
    low, high = state.validity.get("flops", (1e18, 1e21))
    ends = [low, high] if high > 10.0 * low else [float(np.sqrt(low * high))]
    found = [(flops, exponent(state, flops, None)) for flops in ends]
    if max(a["value"] for _, a in found) - min(a["value"] for _, a in found) < 0.002:
        found = found[-1:]
    said = []
    for flops, a in found:
        at = f" at {flops:.2g} FLOPs" if len(found) > 1 else ""
        said.append(
            f"N_opt grows as C^{a['value']:.3f} ({a['low']:.3f} to {a['high']:.3f}) and D_opt as "
            f"C^{1 - a['value']:.3f}{at}"
        )
    return ["; ".join(said) + "."]


def identified_lines(
    document: Mapping[str, Any], state: LawState, runs: pd.DataFrame | None
) -> list[str]:
    """Return what the runs cover and which parameters they decide."""
    lines = [
        "## What the runs identify",
        "",
        "| | from | to | decades | distinct |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (low, high) in state.validity.items():
        shown = [f"{v:.3g}" if name == "flops" else format_quantity(v) for v in (low, high)]
        decades = float(np.log10(high / low))
        lines.append(
            f"| {name} | {shown[0]} | {shown[1]} | {decades:.2g} | {_distinct(runs, name)} |"
        )
    decided = [n for n, p in document["parameters"].items() if p["identified"]]
    vague = [n for n, p in document["parameters"].items() if not p["identified"]]
    sentences = []
    if decided:
        which = "If the form is right, the runs" if document.get("discrepancy") else "The runs"
        sentences.append(f"{which} decide {_listed(decided)}.")
    if vague:
        by = "priors and the formula" if document["settings"].get("law_prior") else "the formula"
        sentences.append(
            f"They do not decide {_listed(vague)}: within the runs the law predicts all the same, "
            f"beyond them its predictions rest on {by}."
        )
    return [*lines, "", " ".join(sentences), ""]


def _distinct(runs: pd.DataFrame | None, name: str) -> str:
    """Return how many values differ by more than a hundredth, where the runs are known."""
    if runs is None or name not in runs or runs[name].isna().all():
        return ""
    values = np.sort(np.log(runs[name].dropna().to_numpy(dtype=np.float64)))
    return str(1 + int((np.diff(values) > 0.01).sum()))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
