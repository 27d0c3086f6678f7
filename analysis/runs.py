"""The run table: one observation a row. What other modules use of it.

A row is usable when N, D and a loss are known; every other column describes how it came about
and is checked so that no fit mixes what cannot be compared.
"""

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.runtable.checking import (
    check_counts,
    check_epochs,
    check_flops,
    check_given_flops,
    check_loss,
    check_regime,
    check_repeats,
    check_single_valued,
    check_status,
)
from analysis.runtable.deriving import derive
from analysis.runtable.numbers import as_numbers, parse_numbers
from analysis.runtable.reading import read_runs, read_table, renamed, write_runs
from analysis.runtable.schema import COLUMNS, NUMERIC, SINGLE_VALUED, STATUSES

__all__ = [
    "COLUMNS",
    "SINGLE_VALUED",
    "STATUSES",
    "count_rejected",
    "parse_numbers",
    "read_runs",
    "read_table",
    "renamed",
    "taken_rows",
    "trajectory_index",
    "unique_tokens_of",
    "validate_runs",
    "write_runs",
]


def validate_runs(runs: pd.DataFrame, for_fit: bool = True) -> pd.DataFrame:
    """Check a run table, fill in what follows from other columns, and return it.

    Args:
        runs: the table; it is not changed.
        for_fit: keep only finished rows of the first descent, and refuse values that no run can
            have, columns in another unit, and tables that mix what cannot be compared.

    Returns:
        A copy with `params`, `tokens`, `flops` and `loss` as floats, and `epochs` where
        `unique_tokens` is known; the rows keep their index.

    Raises:
        RunTableError: names the rows and the remedy.
    """
    table = runs.copy()
    for column in NUMERIC:
        if column in table and table[column].dtype != np.float64:
            table[column] = as_numbers(table, column)
    if "status" in table:
        check_status(table)
    if for_fit and "status" in table:
        table = table[(table["status"].isna() | (table["status"] == "finished")).to_numpy()]
        if table.empty:
            raise RunTableError("no row has status 'finished'; there is nothing to fit yet")
    if "regime" in table:
        check_regime(table)
    if for_fit and "regime" in table:
        table = table[table["regime"].isna().to_numpy()]
    if for_fit:
        check_given_flops(table)
    table = derive(table)
    if for_fit:
        check_loss(table)
        check_counts(table)
        check_flops(table)
        check_epochs(table)
        check_repeats(table)
        check_single_valued(table)
    return table


def taken_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a fit takes of a table that need not be checked, with `flops`, 6ND.

    Args:
        runs: a table of which `validate_runs` has seen most rows, and whose further rows come
            from where those came from: with params, tokens, loss, status and regime.

    Raises:
        RunTableError: no row is finished, or a loss is not finite and positive.
    """
    finished = (runs["status"] == "finished").to_numpy() & runs["regime"].isna().to_numpy()
    if not finished.any():
        raise RunTableError("no row has status 'finished'; there is nothing to fit yet")
    # A new frame of arrays: changing columns in place takes pandas several times as long.
    table = pd.DataFrame(
        {
            name: column.to_numpy(np.float64) if name in NUMERIC else column.array
            for name, column in (runs if finished.all() else runs[finished]).items()
        }
    )
    check_loss(table)
    table["flops"] = 6.0 * table["params"].to_numpy() * table["tokens"].to_numpy()
    return table


def count_rejected(runs: pd.DataFrame) -> dict[str, int]:
    """Return how many rows a fit leaves out, by status, and by regime of finished ones."""
    rejected: dict[str, int] = {}
    kept = pd.Series(True, index=runs.index)
    if "status" in runs:
        counts = runs["status"].value_counts()
        rejected |= {str(k): int(v) for k, v in counts.items() if k != "finished"}
        kept = runs["status"].isna() | (runs["status"] == "finished")
    if "regime" in runs:
        counts = runs["regime"][kept].value_counts()
        rejected |= {str(k): int(v) for k, v in counts.items()}
    return rejected


def unique_tokens_of(runs: pd.DataFrame) -> np.ndarray | None:
    """Return U of each row, [R], D where it is unknown; None where no row names it."""
    if "unique_tokens" not in runs or runs["unique_tokens"].isna().all():
        return None
    return runs["unique_tokens"].fillna(runs["tokens"]).to_numpy(dtype=np.float64)


def trajectory_index(runs: pd.DataFrame) -> np.ndarray:
    """Return the number of each row's trajectory, [R]; rows without one stand alone."""
    if "trajectory" not in runs:
        return np.arange(len(runs))
    names = [
        f"row {i}" if pd.isna(name) else f"trajectory {name}"
        for i, name in enumerate(runs["trajectory"])
    ]
    return pd.factorize(np.array(names, dtype=object))[0]
