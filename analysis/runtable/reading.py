"""Run tables from files and back: CSV in the encodings that people meet, and Parquet."""

import csv
import gzip
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.errors import RunTableError
from analysis.runtable.schema import COLUMNS

_RUNS_NAME = "runs.csv"
_SEPARATORS = ",;\t"


def read_runs(
    paths: str | Path | Sequence[str | Path], columns: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Read one or several run tables (CSV or Parquet) into one.

    Args:
        paths: files, or folders that hold a `runs.csv`, such as a study's; with several, their
            rows are joined.
        columns: names to take the schema's columns from, such as `{"loss": "val_loss"}`.

    Raises:
        RunTableError: a file is missing, unreadable or empty, or a named column is not there.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise RunTableError("no run table was given; name at least one CSV or Parquet file")
    tables = [renamed(read_table(f), columns or {}, f"{f}") for f in files]
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


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table as it is, CSV or Parquet by its content.

    CSV may be separated by commas, semicolons or tabs, and be UTF-8 or, with a byte order mark,
    UTF-16; either may be compressed with gzip.

    Raises:
        RunTableError: the file is missing, empty, or no table; the message says what to do.
    """
    file = Path(path)
    if file.is_dir() and (file / _RUNS_NAME).is_file():
        file = file / _RUNS_NAME
    if not file.is_file():
        raise RunTableError(f"{file}: no such file; name a CSV or Parquet run table")
    try:
        content = file.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise RunTableError(f"{file}: not a readable run table ({error})") from error
    if not content.strip():
        raise RunTableError(f"{file}: not a readable run table (the file is empty)")
    if content.startswith(b"PAR1") or ".parquet" in file.suffixes:
        table = _parquet(content, file)
    else:
        table = _csv(_decoded(content, file), file)
    if table.empty:
        raise RunTableError(f"{file}: the table has no rows")
    return table


def renamed(table: pd.DataFrame, columns: Mapping[str, str], source: str) -> pd.DataFrame:
    """Return the table with schema columns taken from other names.

    Raises:
        RunTableError: the schema or the table has no column of that name.
    """
    for target, name in columns.items():
        if target not in COLUMNS:
            raise RunTableError(
                f"--column {target}={name}: the run table has no column {target!r}; "
                f"it knows {', '.join(COLUMNS)}"
            )
        if name not in table:
            raise RunTableError(
                f"{source}: no column {name!r} to take {target!r} from; "
                f"there are {', '.join(map(str, table.columns))}"
            )
    replaced = [t for t, s in columns.items() if t in table and t != s]
    return table.drop(columns=replaced).rename(columns={s: t for t, s in columns.items()})


def _parquet(content: bytes, file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(content))
    except (ValueError, OSError) as error:
        text = not content.startswith(b"PAR1") and b"\0" not in content[:1000]
        hint = "; it looks like text: name it .csv" if text else ""
        raise RunTableError(f"{file}: not a readable run table ({error}){hint}") from error


def _decoded(content: bytes, file: Path) -> str:
    if content.startswith(b"PK\x03\x04"):
        raise RunTableError(
            f"{file}: not a readable run table, but a workbook or an archive; save it as CSV"
        )
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            where = "its UTF-16 text is damaged"
        else:
            line = content[: error.start].count(b"\n") + 1
            where = f"line {line} holds a byte ({content[error.start]:#x}) that is no UTF-8"
        raise RunTableError(
            f"{file}: not a readable run table ({where}, as in Latin-1 or binary files); save "
            "it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise RunTableError(
            f"{file}: not a readable run table (it holds NUL characters, as in UTF-16 without "
            "a byte order mark, or in binary files); save it as CSV in UTF-8"
        )
    return text


def _csv(text: str, file: Path) -> pd.DataFrame:
    first = next(line for line in text.splitlines() if line.strip())
    separator = max(_SEPARATORS, key=first.count)
    header = [name.strip() for name in next(csv.reader([first], delimiter=separator))]
    named = [name for name in header if name]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise RunTableError(
            f"{file}: the header names {', '.join(map(repr, twice))} more than once; rename all "
            "but the one that is meant"
        )
    try:
        with warnings.catch_warnings():
            # Rows that are longer than the header would lose their last cells.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                index_col=False,
                low_memory=False,
            )
    except (ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise RunTableError(f"{file}: not a readable run table ({str(error).strip()})") from error
    return table.rename(columns=lambda name: str(name).strip())
