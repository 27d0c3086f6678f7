"""A law on one page of Markdown, and its predictions as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.isoflop import isoflop_parabolas
from analysis.fitting.result import Fit
from analysis.lawdocument import law_document
from analysis.state import LawState
from analysis.units import format_quantity


def default_budgets(state: LawState, target_flops: float | None = None) -> list[float]:
    """Return the budgets of the optimum table: the runs' own decades and two beyond."""
    low, high = state.validity.get("flops", (1e18, 1e21))
    first, last = int(np.ceil(np.log10(low))), int(np.floor(np.log10(high)))
    inside = [10.0**k for k in range(first, last + 1)] or [high]
    beyond = [high * 10.0, high * 100.0]
    wanted = [] if target_flops is None else [target_flops]
    # The target stays as it was asked for; its near twins among the others go.
    near = [c for c in (*inside[-4:], *beyond) if not any(abs(c / w - 1.0) < 0.01 for w in wanted)]
    return sorted({*near, *wanted})


def optimum_table(state: LawState, budgets: Sequence[float]) -> pd.DataFrame:
    """Return the optimum for each budget: value, low and high of N, D and loss, D / N."""
    rows = []
    for flops in budgets:
        best = state.optimum(flops)
        row: dict[str, float] = {"flops": flops}
        for name in ("params", "tokens", "loss"):
            estimate = getattr(best, name)
            row |= {
                name: estimate.value,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
        row["tokens_per_param"] = best.tokens.value / best.params.value
        row["lr"] = float(state.response.lr_optimum(best.params.value, best.tokens.value))
        row["extrapolation_decades"] = best.extrapolation_decades
        rows.append(row)
    return pd.DataFrame(rows)


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
    return document_markdown(law_document(fit), fit.state, fit.runs, target_flops, figures)


def document_markdown(
    document: Mapping[str, Any],
    state: LawState,
    runs: pd.DataFrame | None = None,
    target_flops: float | None = None,
    figures: Mapping[str, str] | None = None,
) -> str:
    """Return the page from a law file's content; `runs` add the IsoFLOP cross-check."""
    count = document["runs"]["count"]
    rejected = sum(document["runs"]["rejected"].values())
    left_out = f"; {rejected} more were left out" if rejected else ""
    lines = [
        "# Scaling law",
        "",
        f"`{document['formula']}`",
        "",
        f"{document['law']} law, fitted to {count} runs of {document['runs']['trajectories']} "
        f"trajectories{left_out}. Losses in nats per token, N total parameters, D tokens. "
        f"Huber threshold {document['fit']['huber_delta']:.3g}; noise of a run "
        f"{100 * document['fit']['noise']:.2g} % of the loss.",
        "",
        *_warning_lines(document["warnings"]),
        "## Parameters",
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
    if {"alpha", "beta"} <= set(document["parameters"]):
        alpha, beta = (document["parameters"][k]["value"] for k in ("alpha", "beta"))
        a = beta / (alpha + beta)
        lines += ["", f"N_opt grows as C^{a:.3f} and D_opt as C^{1 - a:.3f}."]
    lines += ["", *_response_lines(document["response"]), *_optimum_lines(state, target_flops)]
    if runs is not None:
        lines += _isoflop_lines(state, runs)
    for caption, path in (figures or {}).items():
        lines += [f"![{caption}]({path})", ""]
    lines += _provenance_lines(document)
    return "\n".join(lines).rstrip() + "\n"


def _warning_lines(warnings: Sequence[str]) -> list[str]:
    if not warnings:
        return []
    return ["## Read this first", "", *(f"- {w[0].upper()}{w[1:]}." for w in warnings), ""]


def _response_lines(response: Mapping[str, Any]) -> list[str]:
    lines = ["## Learning rate and schedule", ""]
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
    return [*lines, ""]


def _optimum_lines(state: LawState, target_flops: float | None) -> list[str]:
    table = optimum_table(state, default_budgets(state, target_flops))
    known = bool(table["lr"].notna().all())
    lines = [
        "## Compute-optimal training",
        "",
        "| C (6ND) | N | D | D/N | loss |" + (" lr |" if known else "") + " beyond the runs |",
        "| ---: | ---: | ---: | ---: | ---: |" + (" ---: |" if known else "") + " --- |",
    ]
    for _, row in table.iterrows():
        beyond = row["extrapolation_decades"]
        lines.append(
            f"| {row['flops']:.3g} | {_with_interval(row, 'params')} "
            f"| {_with_interval(row, 'tokens')} | {row['tokens_per_param']:.3g} "
            f"| {row['loss']:.3f} ({row['loss_low']:.3f} to {row['loss_high']:.3f}) |"
            + (f" {row['lr']:.2g} |" if known else "")
            + (f" {beyond:.2g} decade{'' if beyond == 1 else 's'} |" if beyond > 0 else " |")
        )
    return [*lines, ""]


def _with_interval(row: "pd.Series[float]", name: str) -> str:
    value, low, high = (format_quantity(row[k]) for k in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} to {high})"


def _isoflop_lines(state: LawState, runs: pd.DataFrame) -> list[str]:
    from analysis.figures import tuned_loss

    iso = isoflop_parabolas(runs, loss=tuned_loss(state, runs))
    seen = iso.minima[iso.minima["both_arms"].astype(bool)]
    if seen.empty:
        return []
    lines = ["## Cross-check: IsoFLOP parabolas", ""]
    if iso.params_law is not None and iso.tokens_law is not None:
        lines += [
            f"N_opt = {iso.params_law.factor:.4g} C^{iso.params_law.exponent:.4f}, "
            f"D_opt = {iso.tokens_law.factor:.4g} C^{iso.tokens_law.exponent:.4f}, from the "
            f"{len(seen)} budgets that show both arms.",
            "",
        ]
    lines += [
        "| C (6ND) | runs | parabola: N | law: N | parabola: loss | law: loss |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for _, row in seen.iterrows():
        best = state.optimum(float(row["flops"]))
        lines.append(
            f"| {row['flops']:.3g} | {row['runs']} | {format_quantity(row['params'])} "
            f"| {format_quantity(best.params.value)} | {row['loss']:.3f} "
            f"| {best.loss.value:.3f} |"
        )
    return [*lines, ""]


def _provenance_lines(document: Mapping[str, Any]) -> list[str]:
    validity = document["validity"]
    ranges = ", ".join(
        f"{name} {format_quantity(low)} to {format_quantity(high)}"
        for name, (low, high) in validity.items()
    )
    known = {k: document[k] for k in ("corpus", "tokenizer", "evaluator", "kernel")}
    named = "".join(f", {k} `{v}`" for k, v in known.items() if v)
    bootstrap = document["bootstrap"]
    return [
        "## Where it comes from",
        "",
        f"Runs cover {ranges}. Intervals: {bootstrap['count']} resamples of "
        f"{bootstrap['resampled']} (seed {bootstrap['seed']}), no narrower than the fit's "
        "curvature; how often they cover has not been measured for these runs.",
        "",
        f"Runs `{document['runs']['hash']}`, FLOPs {document['flops_convention']}{named}; "
        f"{document['created']}, "
        + ", ".join(f"{k} {v}" for k, v in document["versions"].items())
        + ".",
    ]
