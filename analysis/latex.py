"""A law as LaTeX: its formula, its parameters, its optima. Plain `tabular`, no package needed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.reporting.parameters import centre
from analysis.state import LawState
from analysis.units import format_quantity

_GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi"
    "|chi|psi|omega"
)
_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def law_latex(document: Mapping[str, Any], state: LawState, optima: pd.DataFrame) -> str:
    """Return a fragment for `\\input`: the formula and two tables.

    Args:
        document: content of the law file.
        state: the law.
        optima: the rows of `report.optimum_table` to print.
    """
    lines = [
        f"% {document['law']} law, runs {document['runs']['hash']}, {document['created']}.",
        "% A fragment: \\input it. It needs no package.",
        *_formula(state),
        "",
        *_parameters(document),
        "",
        *_optima(document, state, optima),
    ]
    return "\n".join(lines) + "\n"


def symbol(name: str) -> str:
    """Return a parameter's name in math mode: `alpha` is `\\alpha`, `R_D` is `R_{D}`."""
    head, *below = name.split("_")
    text = (
        f"\\{head}"
        if _GREEK.fullmatch(head)
        else head
        if len(head) == 1
        else rf"\mathrm{{{head}}}"
    )
    numbered = re.fullmatch(r"\\mathrm\{([A-Za-z]+)(\d+)\}", text)
    if numbered:
        inner = numbered.group(1)
        text = f"{symbol(inner)}_{{{numbered.group(2)}}}"
    return text + (f"_{{{','.join(below)}}}" if below else "")


def escape(text: str) -> str:
    """Return text with what LaTeX would take for commands made harmless."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def number(value: float, digits: int = 4) -> str:
    """Return a number in math mode: `$1.23 \\times 10^{4}$`, or plain where that is short."""
    if not np.isfinite(value):
        return "--"
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return f"${text}$"
    mantissa, power = text.split("e")
    times = "" if mantissa == "1" else f"{mantissa} \\times "
    return f"${times}10^{{{int(power)}}}$"


def _formula(state: LawState) -> list[str]:
    # \text is amsmath's; long definitions go on lines of their own.
    text = state.law.latex().replace(r"\text{", r"\mbox{")
    lines = [rf"\[ {part.strip()} \]" for part in re.split(r",\s*\\quad", text)]
    about = centre(state)
    if about is not None:
        lines.append(f"with $N_0 =$ {number(about[0], 6)} and $D_0 =$ {number(about[1], 6)}.")
    return lines


def _table(caption: str, columns: str, head: str, rows: Sequence[str]) -> list[str]:
    return [
        r"\begin{table}[ht]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        rf"{head} \\",
        r"\hline",
        *(rf"{row} \\" for row in rows),
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _parameters(document: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, p in document["parameters"].items():
        interval = f"{number(p['low'])} to {number(p['high'])}"
        known = "yes" if p["identified"] else r"\textbf{no}"
        rows.append(
            f"${symbol(name)}$ & {number(p['value'], 5)} & {interval} "
            f"& {number(p['stderr'], 2)} & {known}"
        )
    runs = document["runs"]
    caption = (
        f"Parameters of the {escape(document['law'])} law, fitted to {runs['count']} runs of "
        f"{runs['trajectories']} trajectories. Losses in nats per token."
    )
    head = r"Parameter & Value & 90\,\% interval & Standard error & Identified"
    return _table(caption, "lrlrl", head, rows)


def _optima(document: Mapping[str, Any], state: LawState, optima: pd.DataFrame) -> list[str]:
    rows = []
    for _, row in optima.iterrows():
        cells = [number(row["flops"], 3)]
        for name in ("params", "tokens"):
            value, low, high = (
                escape(format_quantity(row[k])) for k in (name, f"{name}_low", f"{name}_high")
            )
            cells.append(f"{value} ({low} to {high})")
        cells.append(number(row["tokens_per_param"], 3))
        loss = [f"{row[k]:.3f}" for k in ("loss", "loss_low", "loss_high")]
        cells.append(f"{loss[0]} ({loss[1]} to {loss[2]})")
        beyond = row["extrapolation_decades"]
        cells.append(f"{beyond:.2g}" if beyond > 0 else "")
        rows.append(" & ".join(cells))
    first, last = state.validity.get("flops", (float("nan"), float("nan")))
    caption = (
        "Compute-optimal training with 90\\,\\% intervals. The runs cover "
        f"{number(first, 3)} to {number(last, 3)} FLOPs "
        f"({escape(str(document['flops_convention']))}); the last column is by how many decades "
        "a budget lies outside."
    )
    head = "$C$ (FLOPs) & $N$ & $D$ & $D/N$ & Loss & Outside"
    return _table(caption, "rllrlr", head, rows)
