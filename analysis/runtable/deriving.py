"""Columns that follow from other columns."""

import difflib

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.runtable.schema import rows


def derive(table: pd.DataFrame) -> pd.DataFrame:
    """Fill tokens, flops and epochs from each other, cell by cell, in place.

    Raises:
        RunTableError: params or loss is missing, or tokens cannot be had from what is there.
    """
    missing = [c for c in ("params", "loss") if c not in table]
    if missing:
        raise RunTableError(
            f"the run table has no column {' and no '.join(map(repr, missing))}; it has "
            f"{', '.join(map(str, table.columns))}. Name the one to use, for example "
            f"--column {missing[0]}={_likely(missing[0], table)}"
        )
    for column in ("tokens", "flops", "epochs", "unique_tokens"):
        if column not in table:
            table[column] = np.nan
    exact = pd.Series(False, index=table.index)
    if "flops_convention" in table:
        # Only 6ND can be inverted without the shape of the model.
        exact = table["flops_convention"].astype("object").map(_is_exact)
    tokens = table["tokens"].fillna(table["epochs"] * table["unique_tokens"])
    tokens = tokens.fillna((table["flops"] / (6.0 * table["params"])).where(~exact))
    table["tokens"] = tokens
    lacking = tokens.isna().to_numpy()
    if lacking.any():
        likely = _likely("tokens", table)
        named = "" if likely == "NAME" else f", for example with --column tokens={likely}"
        raise RunTableError(
            f"tokens are missing and cannot be derived in {rows(table, lacking)}; give two of "
            f"tokens, flops, and epochs with unique_tokens{named}"
        )
    table["flops"] = table["flops"].fillna((6.0 * table["params"] * tokens).where(~exact))
    table["epochs"] = table["epochs"].fillna(tokens / table["unique_tokens"])
    return table


def _likely(wanted: str, table: pd.DataFrame) -> str:
    """Return the column's name that resembles `wanted` most, or `NAME`."""
    names = {str(name).lower(): str(name) for name in table.columns}
    parts = [name for name in names if wanted in name or wanted.rstrip("s") in name.split("_")]
    near = parts or difflib.get_close_matches(wanted, list(names), 1, 0.75)
    return names[near[0]] if near else "NAME"


def _is_exact(convention: object) -> bool:
    return isinstance(convention, str) and convention.lower() not in ("", "6nd")
