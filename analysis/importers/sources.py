"""From sources of any kind to one checked run table."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from analysis.errors import RunTableError
from analysis.importers import optuna, ray, tables, tensorboard
from analysis.importers.finish import finished
from analysis.importers.options import Imported, ImportOptions
from analysis.runs import validate_runs

_READERS: dict[str, Callable[[str, ImportOptions], Imported]] = {
    "csv": tables.read,
    "tensorboard": tensorboard.read,
    "optuna": optuna.read,
    "ray": ray.read,
}


def import_runs(
    sources: Sequence[str | Path], kind: str = "auto", options: ImportOptions | None = None
) -> Imported:
    """Read sources of any kind into one run table.

    Args:
        sources: run tables (CSV, Parquet), folders of TensorBoard event files, Optuna's journals
            or databases (paths or URLs), Ray Tune's result folders.
        kind: one of `KINDS`, or `auto`.
        options: what the sources do not say themselves.

    Returns:
        The table, which `validate_runs` accepts, and notes.

    Raises:
        RunTableError: a source is of no known kind or damaged, or what it lacks must be given.
    """
    asked = options or ImportOptions()
    parts: list[pd.DataFrame] = []
    notes: list[str] = []
    for source in map(str, sources):
        found = detect(source) if kind == "auto" else kind
        part = _READERS[found](source, asked)
        part = finished(part, asked, source)
        parts.append(part.table)
        notes += part.notes
    if not parts:
        raise RunTableError("nothing to import; name at least one source")
    table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    table = validate_runs(table, for_fit=False)
    empty = [c for c in ("flops", "epochs", "unique_tokens") if table[c].isna().all()]
    return Imported(table.drop(columns=empty), tuple(dict.fromkeys(notes)))


def detect(source: str) -> str:
    """Return what kind of source this is, one of `KINDS`.

    Raises:
        RunTableError: there is nothing, or nothing that is known.
    """
    if "://" in source:
        return "optuna"
    path = Path(source)
    if path.is_file():
        if tensorboard.is_event_file(path):
            return "tensorboard"
        return "optuna" if optuna.is_storage(path) else "csv"
    if not path.is_dir():
        raise RunTableError(f"{source}: no such file or folder")
    # Ray's folders hold event files too, and a study's folder holds all of these.
    if (path / "runs.csv").is_file():
        return "csv"
    if ray.is_results(path):
        return "ray"
    if next(tensorboard.event_files(path), None) is not None:
        return "tensorboard"
    raise RunTableError(
        f"{source}: holds neither a runs.csv, nor TensorBoard's event files, nor Ray Tune's "
        "experiment_state-*.json; name one of these, a table, or an Optuna journal or database"
    )
