"""Rows of a comparison of allocations, N_opt = k_N C^a and D_opt = k_D C^b; published ones."""

from typing import Any

import numpy as np

from analysis.laws.base import FloatArray
from analysis.reference import constants, printed_table

COLUMNS = (
    *("source", "approach", "a", "a_low", "a_high", "b", "k_N", "k_D"),
    *("params", "params_low", "params_high", "tokens", "tokens_low", "tokens_high"),
    *("E", "a_bias", "params_bias", "note"),
)
"""Of a comparison; intervals are of 90 %, numbers that do not exist NaN."""


def blank_row(source: str, approach: str, note: str = "") -> dict[str, Any]:
    """Return a row without numbers."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, np.nan)
    return row | {"source": source, "approach": approach, "note": note}


def power_row(
    row: dict[str, Any], k_n: float, a: float, samples: FloatArray | None, flops: float
) -> dict[str, Any]:
    """Fill a row from N_opt = k_n C^a and resamples of (ln k_n, a)."""
    params = k_n * flops**a
    row |= {"a": a, "b": 1.0 - a, "k_N": k_n, "k_D": 1.0 / (6.0 * k_n)}
    row |= {"params": params, "tokens": flops / (6.0 * params)}
    if samples is not None and np.isfinite(samples[:, 1]).sum() >= 20:
        row["a_low"], row["a_high"] = np.nanpercentile(samples[:, 1], [5.0, 95.0])
        # A wild resample may lie beyond all numbers; percentiles take infinity as it is.
        with np.errstate(over="ignore"):
            at = np.exp(samples[:, 0] + samples[:, 1] * np.log(flops))
        low, high = np.nanpercentile(at, [5.0, 95.0])
        row |= {"params_low": low, "params_high": high}
        row |= {"tokens_low": flops / (6.0 * high), "tokens_high": flops / (6.0 * low)}
    return row


def published_rows(flops: float) -> list[dict[str, Any]]:
    """Return the Quokka paper's and Chinchilla's own answers, to the digits there are."""
    quokka, chinchilla = constants("isoflop"), "Chinchilla"
    rows = [
        power_row(
            blank_row("Quokka", "2 (its approach 1)", "as printed, section 3.1"),
            quokka["k_N"],
            quokka["a"],
            None,
            flops,
        ),
        _parametric_published("Quokka", "3 (its approach 2)", "eq13", "equation 13", flops),
    ]
    for _, printed in printed_table(1).iterrows():
        if printed["family"] == chinchilla and printed["approach"] != "3":
            note = "table 1's two digits: N and D are rough"
            row = blank_row(chinchilla, printed["approach"], note)
            rows.append(
                power_row(row, float(printed["k_N"]), float(printed["a"]), None, flops)
                | {"b": float(printed["b"]), "k_D": float(printed["k_D"])}
            )
    rows.append(_parametric_published(chinchilla, "3", "chinchilla", "as published", flops))
    return rows


def _parametric_published(
    source: str, approach: str, name: str, note: str, flops: float
) -> dict[str, Any]:
    law = constants(name)
    a = law["beta"] / (law["alpha"] + law["beta"])
    ratio = law["alpha"] * law["A"] / (law["beta"] * law["B"])
    k_n = ratio ** (1.0 / (law["alpha"] + law["beta"])) / 6.0**a
    return power_row(blank_row(source, approach, note), k_n, a, None, flops) | {"E": law["E"]}
