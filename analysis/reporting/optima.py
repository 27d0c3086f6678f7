"""Compute-optimal training, by the law and by IsoFLOP parabolas."""

import numpy as np
import pandas as pd

from analysis.fitting.isoflop import isoflop_parabolas
from analysis.state import LawState
from analysis.units import format_quantity


def optimum_lines(table: pd.DataFrame) -> list[str]:
    """Return the table of optima, see `report.optimum_table`, in Markdown."""
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


def isoflop_lines(state: LawState, runs: pd.DataFrame) -> list[str]:
    """Return the parabolas' minima beside the law's; nothing where no budget shows both arms."""
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


def optimum_table(state: LawState, budgets: list[float]) -> pd.DataFrame:
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
