"""Three ways to the same answer, side by side: N and D for a compute budget.

Hoffmann et al. 2022 number them: 1, the envelope of training curves; 2, IsoFLOP parabolas; 3, a
parametric law of the loss. (The Quokka paper's approaches 1 and 2 are their 2 and 3.) Each says
N_opt = k_N C^a and D_opt = k_D C^b. Published answers stand below.

The first two assume no law, and pay for it with a bias that they cannot see themselves. The
parametric law can: simulated from it at the runs' own N and D, they should find its optimum.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.errors import FitError
from analysis.fitting.envelope import envelope
from analysis.fitting.fit import fit_law
from analysis.fitting.isoflop import isoflop_bias, isoflop_parabolas, isoflop_samples
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray
from analysis.published import COLUMNS, blank_row, power_row, published_rows
from analysis.runs import trajectory_index, validate_runs
from analysis.uncertainty import combined_interval
from analysis.units import format_quantity

_SIMULATIONS = 20
_SLOPE_STEP = 0.1


@dataclass(frozen=True)
class Approaches:
    """The comparison.

    Attributes:
        flops: the budget that N and D are for.
        table: `COLUMNS`, a row for each approach on these runs and each published answer.
            `a_bias` and `params_bias` are what the approach gets wrong, of a and of ln N_opt,
            where the fitted law is the truth.
        fit: approach 3.
    """

    flops: float
    table: pd.DataFrame
    fit: Fit

    def markdown(self) -> str:
        """Return the table in Markdown, with the notes below it."""
        columns = [
            "source",
            "approach",
            "a",
            "b",
            "k_N",
            "k_D",
            f"N at {self.flops:.3g}",
            "D",
            "E",
        ]
        columns += ["bias of a", "bias of N"]
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        notes = []
        for _, row in self.table.iterrows():
            cells = [
                row["source"],
                row["approach"],
                _ranged(row, "a", "{:.3f}".format),
                _shown(row["b"], "{:.3f}".format),
                _shown(row["k_N"], "{:.3g}".format),
                _shown(row["k_D"], "{:.3g}".format),
                _ranged(row, "params", format_quantity),
                _ranged(row, "tokens", format_quantity),
                _shown(row["E"], "{:.3f}".format),
                _shown(row["a_bias"], "{:+.3f}".format),
                _shown(100.0 * np.expm1(row["params_bias"]), "{:+.1f} %".format),
            ]
            lines.append("| " + " | ".join(cells) + " |")
            if row["note"]:
                notes.append(f"- {row['source']}, {row['approach']}: {row['note']}")
        text = "\n".join(lines)
        return text + ("\n\n" + "\n".join(notes) if notes else "") + "\n"


def compare_approaches(
    runs: pd.DataFrame,
    flops: float,
    *,
    law: str = "chinchilla",
    huber_delta: float | Literal["auto"] = "auto",
    bootstrap: int = 1000,
    seed: int = 0,
    fit: Fit | None = None,
    published: bool = True,
) -> Approaches:
    """Return what approaches 1, 2 and 3 say of a compute budget, from one run table.

    An approach that the table does not allow has a row that says why.

    Args:
        runs: a run table.
        flops: the budget C, 6 N D.
        law: of approach 3.
        huber_delta: of approach 3.
        bootstrap: resamples of each.
        seed: of the resamples.
        fit: takes the place of approach 3's fit.
        published: add the Quokka paper's and Chinchilla's own rows.

    Raises:
        RunTableError: the table cannot be used.
        FitError: approach 3 refuses the table; the other two do not stand without it.
    """
    if not (np.isfinite(flops) and flops > 0):
        raise FitError(f"the budget must be above 0 FLOPs, not {flops}")
    table = validate_runs(runs)
    if fit is None:
        fit = fit_law(runs, law=law, huber_delta=huber_delta, bootstrap=bootstrap, seed=seed)
    rows = [
        _envelope_row(table, fit, flops, bootstrap, seed),
        _isoflop_row(table, fit, flops, bootstrap, seed),
        _parametric_row(fit, flops),
    ]
    if published:
        rows += published_rows(flops)
    return Approaches(float(flops), pd.DataFrame(rows, columns=list(COLUMNS)), fit)


def _envelope_row(
    table: pd.DataFrame, fit: Fit, flops: float, bootstrap: int, seed: int
) -> dict[str, Any]:
    row = blank_row("these runs", "1: envelope of curves")
    try:
        found = envelope(table, loss=_tuned(fit, table), bootstrap=bootstrap, seed=seed)
    except FitError as error:
        return row | {"note": str(error)}
    law = found.params_law
    row = power_row(row, law.factor, law.exponent, found.samples, flops)
    notes = [f"{found.curves} curves, {found.sizes} sizes on the envelope", *found.notes]
    if not fit.law.needs_unique:
        row |= _envelope_bias(table, fit, flops, seed)
    return row | {"note": "; ".join(notes)}


def _envelope_bias(table: pd.DataFrame, fit: Fit, flops: float, seed: int) -> dict[str, float]:
    """Return what envelopes of simulated curves get wrong on average, each run with its luck."""
    rng = np.random.default_rng(seed)
    clean = fit.state.predict(table["params"], table["tokens"]).value
    trajectory = trajectory_index(table)
    log_params, exponents = [], []
    for _ in range(_SIMULATIONS):
        luck = fit.sigma * rng.standard_normal(int(trajectory.max()) + 1)
        try:
            law = envelope(table, loss=clean * np.exp(luck[trajectory]), bootstrap=0).params_law
        except FitError:
            continue
        log_params.append(np.log(law(flops)))
        exponents.append(law.exponent)
    if len(exponents) < _SIMULATIONS // 2:
        return {}
    own = float(fit.law.optimum(fit.theta, flops)[0])
    return {
        "a_bias": float(np.mean(exponents)) - _slope(fit, flops)[0],
        "params_bias": float(np.mean(log_params)) - own,
    }


def _isoflop_row(
    table: pd.DataFrame, fit: Fit, flops: float, bootstrap: int, seed: int
) -> dict[str, Any]:
    row = blank_row("these runs", "2: IsoFLOP parabolas")
    loss, budget = _tuned(fit, table), _budget(table)
    found = isoflop_parabolas(table, loss=loss, budget=budget)
    if found.params_law is None:
        seen = int(found.minima["both_arms"].astype(bool).sum())
        note = (
            f"{len(found.minima)} budgets have three sizes or more, and {seen} of them losses "
            "that rise on both sides of a minimum; a power law needs two"
        )
        return row | {"note": note}
    samples = isoflop_samples(table, loss=loss, budget=budget, count=bootstrap, seed=seed)
    law = found.params_law
    row = power_row(row, law.factor, law.exponent, samples, flops)
    used = int(found.minima["both_arms"].astype(bool).sum())
    notes = [f"{used} budgets"]
    bias = None
    if not fit.law.needs_unique:
        bias = isoflop_bias(table, fit.law, fit.theta, flops, loss=loss, budget=budget)
    if bias is not None:
        row |= {"a_bias": bias.exponent, "params_bias": bias.log_params}
        if abs(bias.log_params) > 0.1 or abs(bias.exponent) > 0.01:
            notes.append(
                "parabolas are biased on this table's sizes (last columns): they spread too "
                "widely, or lie off each budget's best size"
            )
    return row | {"note": "; ".join(notes)}


def _parametric_row(fit: Fit, flops: float) -> dict[str, Any]:
    row = blank_row("these runs", f"3: {fit.law.name.replace('_', ' ')} law")
    best = fit.optimum(flops)
    a, low, high = _slope(fit, flops)
    k_n = best.params.value / flops**a
    row |= {"a": a, "a_low": low, "a_high": high, "b": 1.0 - a}
    row |= {"k_N": k_n, "k_D": 1.0 / (6.0 * k_n)}
    for name, estimate in (("params", best.params), ("tokens", best.tokens)):
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    if "E" in fit.parameters:
        row["E"] = fit.parameters["E"].value
    notes = [f"{len(fit.runs)} runs"]
    vague = [n for n, yes in fit.identified.items() if not yes and n in fit.law.parameters]
    if vague:
        notes.append(f"not identified: {', '.join(vague)}")
    if best.extrapolation_decades > 0:
        notes.append(f"{best.extrapolation_decades:.1f} decades beyond the runs")
    return row | {"note": "; ".join(notes)}


def _slope(fit: Fit, flops: float) -> tuple[float, float, float]:
    """Return d ln N_opt / d ln C at the budget with its 90 % interval."""
    ends = flops * np.exp(_SLOPE_STEP), flops * np.exp(-_SLOPE_STEP)

    def slope(theta: FloatArray) -> FloatArray:
        above, below = (fit.law.optimum(theta, c)[0] for c in ends)
        return np.asarray((above - below) / (2.0 * _SLOPE_STEP), dtype=np.float64)

    above, below = (fit.law.optimum_gradient(fit.theta, c)[0] for c in ends)
    gradient = (above - below) / (2.0 * _SLOPE_STEP)
    value = slope(fit.theta)
    low, high = combined_interval(
        value, slope(fit.samples), np.asarray(gradient @ fit.covariance @ gradient)
    )
    return float(value), float(low), float(high)


def _budget(table: pd.DataFrame) -> FloatArray | None:
    """Return the table's own FLOPs where they are not 6 N D: budgets were planned in them."""
    flops = table["flops"].to_numpy(dtype=np.float64)
    own = 6.0 * (table["params"] * table["tokens"]).to_numpy(dtype=np.float64)
    same = not np.isfinite(flops).all() or np.allclose(flops, own, rtol=0.01)
    return None if same else flops


def _tuned(fit: Fit, table: pd.DataFrame) -> FloatArray | None:
    """Return losses with the price of untuned recipes taken off, where the fit has one."""
    if fit.response.fitted:
        return fit.tuned_loss if len(fit.runs) == len(table) else None
    return None


def _shown(value: float, form: Any) -> str:
    return form(value) if np.isfinite(value) else ""


def _ranged(row: pd.Series, name: str, form: Any) -> str:
    text = _shown(row[name], form)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{text} [{form(low)}, {form(high)}]" if np.isfinite(low) else text
