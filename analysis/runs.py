"""The run table: one observation a row. Its schema, reading, checking and writing.

A row is usable when N, D and a loss are known; every other column describes how it came about
and is checked so that no fit mixes what cannot be compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.errors import RunTableError

COLUMNS: dict[str, str] = {
    "study": "name of the search that the run belongs to",
    "trajectory": "identity of the training run; its observations share their noise",
    "observation": "identity of the observation, unique",
    "params": "N, total parameters, tied embeddings counted once",
    "params_non_embedding": "parameters without embeddings",
    "tokens": "D, tokens processed",
    "unique_tokens": "U, distinct tokens available",
    "epochs": "D / U",
    "flops": "training FLOPs in the table's convention",
    "flops_convention": "6nd or exact",
    "loss": "validation loss, nats per token",
    "loss_stderr": "its standard error, most of it shared by all runs",
    "loss_stderr_paired": "standard error of a difference between two runs",
    "train_loss": "smoothed training loss",
    "lr": "peak learning rate",
    "batch_tokens": "tokens of one optimiser step",
    "seq_len": "tokens of one sequence",
    "warmup_tokens": "tokens of warmup",
    "lr_schedule": "wsd, cosine, constant, ...",
    "cooldown_tokens": "tokens of cooldown",
    "kernel": "mask, uniform or hybrid",
    "noise_schedule": "linear, cosine, poly2, ...",
    "objective": "what was trained on",
    "curriculum": "curriculum over noise levels",
    "weight_decay": "weight decay",
    "seed": "seed of the run",
    "corpus": "identity of the training text",
    "tokenizer": "identity of the tokenizer",
    "evaluator": "identity of the evaluation: data/bound",
    "params_convention": "what `params` counts",
    "flops_spent": "FLOPs that the observation cost, marginal",
    "parent": "trajectory that this one branched from",
    "cooled": "whether the learning rate was cooled down before the observation",
    "status": "finished, diverged, failed or stopped",
    "device_seconds": "device time",
    "device": "device name",
}

STATUSES = ("finished", "diverged", "failed", "stopped")

SINGLE_VALUED = (
    "evaluator",
    "kernel",
    "corpus",
    "tokenizer",
    "seq_len",
    "flops_convention",
    "params_convention",
    "cooled",
)
"""Columns in which one fit cannot have two values."""

_NUMERIC = [
    "params",
    "params_non_embedding",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "loss",
    "loss_stderr",
    "loss_stderr_paired",
    "train_loss",
    "lr",
    "batch_tokens",
    "seq_len",
    "warmup_tokens",
    "cooldown_tokens",
    "weight_decay",
    "flops_spent",
    "device_seconds",
]
_SHOWN = 5
_SMALLEST_COUNT = 50.0


def read_runs(
    paths: str | Path | Sequence[str | Path], columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Read one or several run tables (CSV or Parquet) into one.

    Args:
        paths: files; with several, their rows are joined.
        columns: names to take the schema's columns from, such as `{"loss": "val_loss"}`.

    Raises:
        RunTableError: a file is missing, unreadable or empty, or a named column is not there.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise RunTableError("no run table was given; name at least one CSV or Parquet file")
    tables = [_renamed(_read(Path(f)), Path(f), columns or {}) for f in files]
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def write_runs(runs: pd.DataFrame, path: str | Path) -> None:
    """Write a run table, CSV or Parquet by its suffix, whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    if target.suffix == ".parquet":
        runs.to_parquet(partial, index=False)
    else:
        runs.to_csv(partial, index=False)
    partial.replace(target)


def validate_runs(runs: pd.DataFrame, for_fit: bool = True) -> pd.DataFrame:
    """Check a run table, fill in what follows from other columns, and return it.

    Args:
        runs: the table; it is not changed.
        for_fit: keep only finished rows, and refuse tables that mix what cannot be compared.

    Returns:
        A copy with `params`, `tokens`, `flops` and `loss` as floats, and `epochs` where
        `unique_tokens` is known; the rows keep their index.

    Raises:
        RunTableError: names the rows and the remedy.
    """
    table = runs.copy()
    for column in _NUMERIC:
        if column in table:
            table[column] = _as_numbers(table, column)
    if for_fit and "status" in table:
        _check_status(table)
        table = table[(table["status"].isna() | (table["status"] == "finished")).to_numpy()]
        if table.empty:
            raise RunTableError("no row has status 'finished'; there is nothing to fit yet")
    table = _derive(table)
    if for_fit:
        _check_values(table)
        _check_repeats(table)
        _check_single_valued(table)
    return table


def count_rejected(runs: pd.DataFrame) -> dict[str, int]:
    """Return how many rows a fit leaves out, by status."""
    if "status" not in runs:
        return {}
    counts = runs["status"].value_counts()
    return {str(k): int(v) for k, v in counts.items() if k != "finished"}


def trajectory_index(runs: pd.DataFrame) -> np.ndarray:
    """Return the number of each row's trajectory, [R]; rows without one stand alone."""
    if "trajectory" not in runs:
        return np.arange(len(runs))
    names = [
        f"row {i}" if pd.isna(name) else f"trajectory {name}"
        for i, name in enumerate(runs["trajectory"])
    ]
    return pd.factorize(np.array(names, dtype=object))[0]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise RunTableError(f"{path}: no such file; name a CSV or Parquet run table")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise RunTableError(f"{path}: not a readable run table ({error})") from error
    if table.empty:
        raise RunTableError(f"{path}: the table has no rows")
    return table


def _renamed(table: pd.DataFrame, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    for target, source in columns.items():
        if target not in COLUMNS:
            raise RunTableError(
                f"--column {target}={source}: the run table has no column {target!r}; "
                f"it knows {', '.join(COLUMNS)}"
            )
        if source not in table:
            raise RunTableError(
                f"{path}: no column {source!r} to take {target!r} from; "
                f"there are {', '.join(map(str, table.columns))}"
            )
    replaced = [t for t, s in columns.items() if t in table and t != s]
    return table.drop(columns=replaced).rename(columns={s: t for t, s in columns.items()})


def _as_numbers(table: pd.DataFrame, column: str) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce").astype("float64")
    wrong = (numbers.isna() & table[column].notna()).to_numpy()
    if wrong.any():
        value = table[column][wrong].iloc[0]
        raise RunTableError(
            f"column {column!r} must hold numbers, but {_rows(table, wrong)} "
            f"(such as {value!r}); write plain numbers or leave the cell empty"
        )
    return numbers


def _check_status(table: pd.DataFrame) -> None:
    known = table["status"].isin(STATUSES) | table["status"].isna()
    if not known.all():
        wrong = (~known).to_numpy()
        raise RunTableError(
            f"status {table['status'][wrong].iloc[0]!r} is unknown in {_rows(table, wrong)}; "
            f"use one of {', '.join(STATUSES)}"
        )


def _derive(table: pd.DataFrame) -> pd.DataFrame:
    """Fill tokens, flops and epochs from each other, cell by cell."""
    missing = [c for c in ("params", "loss") if c not in table]
    if missing:
        raise RunTableError(
            f"the run table has no column {' and no '.join(map(repr, missing))}; it has "
            f"{', '.join(map(str, table.columns))}. Name the one to use, for example "
            f"--column {missing[0]}=NAME"
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
        raise RunTableError(
            f"tokens are missing and cannot be derived in {_rows(table, lacking)}; give two of "
            "tokens, flops, and epochs with unique_tokens"
        )
    table["flops"] = table["flops"].fillna((6.0 * table["params"] * tokens).where(~exact))
    table["epochs"] = table["epochs"].fillna(tokens / table["unique_tokens"])
    return table


def _is_exact(convention: object) -> bool:
    return isinstance(convention, str) and convention.lower() not in ("", "6nd")


def _check_values(table: pd.DataFrame) -> None:
    loss = table["loss"].to_numpy(dtype=float)
    wrong = ~(np.isfinite(loss) & (loss > 0))
    if wrong.any():
        raise RunTableError(
            f"the loss must be finite and positive, but is not in {_rows(table, wrong)}; remove "
            "these rows, or give them status 'diverged' or 'failed' so that they are counted"
        )
    for column in ("params", "tokens"):
        values = table[column].to_numpy(dtype=float)
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            raise RunTableError(f"{column} must be above 0, but is not in {_rows(table, wrong)}")
        wrong = values < _SMALLEST_COUNT
        if wrong.any():
            raise RunTableError(
                f"{column} is {values[wrong][0]:g} in {_rows(table, wrong)}: it looks like "
                f"millions or billions; multiply the column so that it counts {column}"
            )
    ratio = table["flops"] / (6.0 * table["params"] * table["tokens"])
    wrong = ((ratio > 1000) | (ratio < 1e-3)).to_numpy()
    if wrong.any():
        raise RunTableError(
            f"flops and 6 * params * tokens differ by more than a factor of 1000 in "
            f"{_rows(table, wrong)}; one of the three columns is in another unit"
        )


def _check_repeats(table: pd.DataFrame) -> None:
    """Refuse one observation twice. Rows without ids may repeat: those are replicates."""
    if "observation" in table:
        keys = table["observation"]
        named = keys.notna()
    elif "trajectory" in table:
        cooled = table["cooled"].astype(str) if "cooled" in table else ""
        keys = table["trajectory"].astype(str) + "@" + table["tokens"].astype(str) + cooled
        named = table["trajectory"].notna()
    else:
        return
    wrong = (keys.duplicated(keep=False) & named).to_numpy()
    if wrong.any():
        raise RunTableError(
            f"the same observation stands more than once in {_rows(table, wrong)}; keep one row "
            "of each, or give replicates different trajectory ids"
        )


def _check_single_valued(table: pd.DataFrame) -> None:
    for column in SINGLE_VALUED:
        if column not in table:
            continue
        known = table[column].dropna()
        values = known.unique()
        if len(values) > 1:
            minority = known.value_counts().index[-1]
            wrong = (table[column] == minority).to_numpy()
            listed = ", ".join(
                repr(v.item() if hasattr(v, "item") else v) for v in values[:_SHOWN]
            )
            raise RunTableError(
                f"one fit cannot mix {len(values)} values of {column!r} ({listed}); "
                f"for example {_rows(table, wrong)} differ from the rest. Fit them as separate "
                f"tables, one {column} each"
            )


def _rows(table: pd.DataFrame, wrong: Iterable[bool]) -> str:
    """Name rows by their number in the table (from 1, below the header) and their id."""
    picked = table[np.asarray(list(wrong), dtype=bool)]
    ids = next((c for c in ("observation", "trajectory", "run_id") if c in picked), None)
    names = []
    for index, row in picked.head(_SHOWN).iterrows():
        number = int(index) + 1 if isinstance(index, (int, np.integer)) else index
        label = "" if ids is None or pd.isna(row[ids]) else f" ({row[ids]})"
        names.append(f"{number}{label}")
    more = f" and {len(picked) - _SHOWN} more" if len(picked) > _SHOWN else ""
    return f"row{'s' if len(picked) > 1 else ''} {', '.join(names)}{more}"
