"""Cells of a table as numbers."""

import re

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.runtable.schema import WITH_UNITS, rows
from analysis.units import parse_quantity

_THOUSANDS = re.compile(r"^[+-]?\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d+)?$")
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+,\d+([eE][+-]?\d+)?$")


def parse_numbers(column: pd.Series, units: bool = True) -> tuple[pd.Series, np.ndarray]:
    """Return the cells as floats, and which of them hold no number, [R].

    Args:
        column: numbers or text; empty cells become NaN and are not wrong.
        units: take cells such as `300M` or `20B`.
    """
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
        return column.astype("float64"), np.zeros(len(column), dtype=bool)
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = (numbers.isna() & column.notna()).to_numpy(copy=True)
    if not units:
        return numbers, wrong
    numbers = numbers.copy()
    for position in np.flatnonzero(wrong):
        try:
            numbers.iloc[position] = parse_quantity(str(column.iloc[position]))
        except ValueError:
            continue
        wrong[position] = False
    return numbers, wrong


def as_numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as floats.

    Raises:
        RunTableError: a cell holds something else; the message names its row and the remedy.
    """
    numbers, wrong = parse_numbers(table[column], units=column in WITH_UNITS)
    if wrong.any():
        value = table[column][wrong].iloc[0]
        raise RunTableError(
            f"column {column!r} must hold numbers, but does not in {rows(table, wrong)} "
            f"(such as {value!r}); {_remedy(str(value).strip(), column)}"
        )
    return numbers


def _remedy(text: str, column: str) -> str:
    if _THOUSANDS.match(text):
        plain = re.sub("[,' \u00a0\u202f]", "", text)
        return f"leave out the separators of thousands: write {plain}"
    if _DECIMAL_COMMA.match(text):
        return f"write the decimal point as a point: {text.replace(',', '.')}"
    unit = " (with k, M, B or T after it if you like)" if column in WITH_UNITS else ""
    return f"write plain numbers{unit}, or leave the cell empty"
