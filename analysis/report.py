"""A law on one page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.fitting.result import Fit
from analysis.lawdocument import law_document
from analysis.reporting.checks import approach_lines, calibration_lines, search_lines
from analysis.reporting.optima import (
    default_budgets,
    isoflop_lines,
    optimum_lines,
    optimum_table,
)
from analysis.reporting.parameters import identified_lines, law_lines
from analysis.reporting.recipe import response_lines
from analysis.state import LawState
from analysis.units import format_quantity

__all__ = ["default_budgets", "document_markdown", "law_markdown", "optimum_table"]


def law_markdown(
    fit: Fit,
    target_flops: float | None = None,
    figures: Mapping[str, str] | None = None,
) -> str:
    """Return a page on a fitted law.

    Args:
        fit: the fit.
        target_flops: a budget in 6 N D to include in the table.
        figures: captions and paths of pictures to show.
    """
    optima = optimum_table(fit.state, default_budgets(fit.state, target_flops))
    return document_markdown(law_document(fit), fit.state, fit.runs, optima, figures)


def document_markdown(
    document: Mapping[str, Any],
    state: LawState,
    runs: pd.DataFrame | None = None,
    optima: pd.DataFrame | None = None,
    figures: Mapping[str, str] | None = None,
    repeated: Sequence[str] = (),
) -> str:
    """Return the page from a law file's content.

    Args:
        document: the law file's content.
        state: its law.
        runs: the fitted runs, for the IsoFLOP cross-check.
        optima: rows of `optimum_table` to show; unset: those of `default_budgets`.
        figures: captions and paths of pictures to show.
        repeated: lines on repeated data, `reporting.repeated.repeated_lines`.
    """
    count = document["runs"]["count"]
    rejected = document["runs"]["rejected"]
    reasons = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in rejected.items())
    left_out = f"; {sum(rejected.values())} more were left out ({reasons})" if rejected else ""
    if optima is None:
        optima = optimum_table(state, default_budgets(state))
    lines = [
        "# Scaling law",
        "",
        f"`{document['formula']}`",
        "",
        f"{document['law']} law, fitted to {count} runs of {document['runs']['trajectories']} "
        f"trajectories{left_out}. Losses in nats per token, N total parameters, D tokens. "
        f"Huber threshold {document['fit']['huber_delta']:.3g}; noise of a run "
        f"{100 * document['fit']['noise']:.2g} % of the loss." + _discrepancy(document),
        "",
        *_warning_lines(document["warnings"]),
        *_ending_lines(document.get("search")),
        *law_lines(document, state),
        *identified_lines(document, state, runs),
        *search_lines(document),
        *response_lines(document["response"]),
        *repeated,
        *optimum_lines(optima),
    ]
    lines += approach_lines(document.get("approaches"))
    if runs is not None:
        lines += isoflop_lines(state, runs)
    lines += calibration_lines(document["calibration"])
    for caption, path in (figures or {}).items():
        lines += [f"![{caption}]({path})", ""]
    lines += _provenance_lines(document)
    return "\n".join(lines).rstrip() + "\n"


def _discrepancy(document: Mapping[str, Any]) -> str:
    process = document.get("discrepancy")
    if not process:
        return ""
    return (
        f" What the law's form misses was fitted with it: {100 * process['amplitude']:.2g} % of "
        "the reducible loss, far from any run. Priors from published laws hold both where the "
        "runs say nothing."
    )


def _warning_lines(warnings: Sequence[str]) -> list[str]:
    if not warnings:
        return []
    return ["## Read this first", "", *(f"- {w[0].upper()}{w[1:]}." for w in warnings), ""]


def _ending_lines(search: Mapping[str, Any] | None) -> list[str]:
    if not search:
        return []
    lines = [f"The search ended: {search['words']}."]
    missed = ", ".join(f"{z:+.1f}" for z in search["surprises"])
    if missed:
        lines.append(
            f"Runs larger than all before them were predicted before they were trained; they came "
            f"out {missed} standard deviations off."
        )
    return [" ".join(lines), ""]


def _provenance_lines(document: Mapping[str, Any]) -> list[str]:
    validity = document["validity"]
    ranges = ", ".join(
        f"{name} "
        + " to ".join(f"{v:.3g}" if name == "flops" else format_quantity(v) for v in (low, high))
        for name, (low, high) in validity.items()
    )
    known = {k: document[k] for k in ("corpus", "tokenizer", "evaluator", "kernel")}
    named = "".join(f", {k} `{v}`" for k, v in known.items() if v)
    bootstrap = document["bootstrap"]
    drawn = f"resamples of {bootstrap['resampled']}"
    if document.get("discrepancy"):
        drawn = "draws of the posterior"
    return [
        "## Where it comes from",
        "",
        f"Runs cover {ranges}. Intervals: {bootstrap['count']} {drawn} "
        f"(seed {bootstrap['seed']}), no narrower than the fit's curvature.",
        "",
        f"Runs `{document['runs']['hash']}`, FLOPs {document['flops_convention']}{named}; "
        f"{document['created']}, "
        + ", ".join(f"{k} {v}" for k, v in document["versions"].items())
        + ".",
    ]
