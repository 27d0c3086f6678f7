"""What all importers share: names, constants, and what is still missing."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.importers.options import Imported, ImportOptions
from analysis.runs import COLUMNS, renamed
from analysis.runtable.schema import NUMERIC, WITH_UNITS
from analysis.units import parse_quantity

ALIASES: dict[str, tuple[str, ...]] = {
    "params": (
        "N",
        "n_params",
        "num_params",
        "num_parameters",
        "n_parameters",
        "parameters",
        "model_params",
        "model_size",
    ),
    "tokens": (
        "D",
        "n_tokens",
        "num_tokens",
        "train_tokens",
        "training_tokens",
        "total_tokens",
        "tokens_seen",
    ),
    "unique_tokens": ("U", "n_unique_tokens", "num_unique_tokens"),
    "epochs": ("num_epochs", "n_epochs"),
    "flops": ("C", "compute", "total_flops", "train_flops", "training_flops"),
    "loss": ("val_loss", "validation_loss", "valid_loss", "eval_loss"),
    "lr": ("learning_rate", "learning-rate", "peak_lr", "max_lr"),
    "batch_tokens": ("batch_size_tokens", "tokens_per_batch"),
    "seq_len": ("seq_length", "sequence_length", "max_seq_len"),
    "weight_decay": ("wd",),
}
"""Names that stand for a column of the run table, where that column is not there itself."""


def finished(found: Imported, options: ImportOptions, source: str) -> Imported:
    """Return the rows under the schema's names, with the constants that the user gave.

    Raises:
        RunTableError: N, D or the loss is still missing; the message says how to give it.
    """
    notes = list(found.notes)
    table = renamed(found.table, options.columns, source)
    for column in COLUMNS:
        name = None if column in table else _alias(column, table, options)
        if name is not None:
            table = table.rename(columns={name: column})
            notes.append(f"{column} is taken from {name!r}")
    for column, text in options.constants.items():
        table[column] = constant(column, text)
    _check_there(table, source)
    table, left_out = _without_result(table)
    if left_out:
        notes.append(f"{source}: {left_out} runs without a result were left out")
    if table.empty:
        raise RunTableError(f"{source}: no run has a result")
    known = [c for c in COLUMNS if c in table]
    return Imported(table[[*known, *(c for c in table if c not in COLUMNS)]], tuple(notes))


def constant(column: str, text: str) -> Any:
    """Return the value of `--constant column=text`.

    Raises:
        RunTableError: there is no such column, or it holds numbers and this is none.
    """
    if column not in COLUMNS:
        raise RunTableError(
            f"--constant {column}={text}: the run table has no column {column!r}; it knows "
            f"{', '.join(COLUMNS)}"
        )
    if column not in NUMERIC:
        flags = {"true": True, "false": False}
        return flags.get(text.lower(), text) if column == "cooled" else text
    try:
        return parse_quantity(text) if column in WITH_UNITS else float(text)
    except ValueError as error:
        raise RunTableError(f"--constant {column}={text}: {text!r} is no number") from error


def _alias(column: str, table: pd.DataFrame, options: ImportOptions) -> str | None:
    """Return the only column that stands for `column`: by an alias, or nested, as `model/N`."""
    wanted = (column, *ALIASES.get(column, ()))
    free = [str(c) for c in table if c not in COLUMNS]
    exact = [c for c in free if c in wanted]
    nested = [c for c in free if c.replace(".", "/").rsplit("/", 1)[-1] in wanted]
    names = exact or nested
    if column in options.constants or len(names) != 1:
        return None
    return names[0]


def _check_there(table: pd.DataFrame, source: str) -> None:
    has = set(table.columns)
    missing = [c for c in ("params", "loss") if c not in has]
    if len(has & {"tokens", "flops"}) == 0 and not {"epochs", "unique_tokens"} <= has:
        missing.append("tokens")
    if missing:
        first = missing[0]
        number = {"params": "300M", "tokens": "20B", "loss": "3.2"}[first]
        raise RunTableError(
            f"{source}: nothing gives {' and '.join(missing)}; there are "
            f"{', '.join(map(str, table.columns))}. Name the one to use with --column "
            f"{first}=NAME, or give what holds for all runs with --constant {first}={number}"
        )


def _without_result(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the table less unfinished rows that have no loss and no tokens, and how many."""
    if "status" not in table:
        return table, 0
    lost = table["loss"].isna() & (table["status"] != "finished")
    known = [c for c in ("tokens", "flops", "epochs") if c in table]
    lost &= table[known].isna().all(axis=1) if known else True
    kept = table[~lost].reset_index(drop=True)
    return kept, int(np.count_nonzero(lost))
