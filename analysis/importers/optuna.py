"""Optuna's studies: one trajectory a trial."""

import sqlite3
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.importers.options import STEPS, Imported, ImportOptions

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_SQLITE = b"SQLite format 3\0"
_STATUSES = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed"}


def is_storage(path: Path) -> bool:
    """Whether a file is an Optuna journal or an SQLite database."""
    with path.open("rb") as stream:
        start = stream.read(200)
    return start.startswith(_SQLITE) or (start.startswith(b"{") and b'"op_code"' in start)


def read(source: str, options: ImportOptions) -> Imported:
    """Read a study's trials: parameters, user attributes and values.

    With `options.step` each intermediate value is an observation of its trial's trajectory.

    Raises:
        RunTableError: no such storage or study, or its values are no losses.
    """
    study = _study(source, options)
    if "loss" not in options.columns:
        _check_minimised(study, source)
    trials = study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state.name in _STATUSES]
    rows = [row for trial in ended for row in _rows(trial, study.study_name, options.step)]
    if not rows:
        what = f"no trial with values at steps ({options.step})" if options.step else "no trial"
        raise RunTableError(f"{source}: study {study.study_name!r} has {what} that ended")
    notes = []
    counts = Counter(t.state.name for t in ended)
    open_trials = len(trials) - len(ended)
    if open_trials:
        notes.append(f"{source}: trials that still run or wait were left out: {open_trials}")
    listed = ", ".join(f"{count} {_STATUSES[state]}" for state, count in counts.items())
    notes.append(f"{source}: study {study.study_name!r}, trials {listed}")
    return Imported(pd.DataFrame(rows), tuple(notes))


def _rows(trial: "FrozenTrial", study: str, step: str | None) -> list[dict[str, Any]]:
    named = {k: v for k, v in {**trial.user_attrs, **trial.params}.items() if _plain(v)}
    row: dict[str, Any] = {
        "study": study,
        "trajectory": f"{study}/{trial.number}",
        "status": _STATUSES[trial.state.name],
        **named,
    }
    values = trial.values or []
    if len(values) > 1:
        row |= {f"value_{i}": v for i, v in enumerate(values)}
    if step is None:
        row.setdefault("loss", values[0] if len(values) == 1 else np.nan)
        row["observation"] = row["trajectory"]
        return [row]
    own = {k: v for k, v in row.items() if k not in STEPS}
    return [
        {**own, step: float(at), "loss": value, "observation": f"{row['trajectory']}@{at}"}
        for at, value in sorted(trial.intermediate_values.items())
    ]


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _check_minimised(study: "Study", source: str) -> None:
    directions = [d.name.lower() for d in study.directions]
    if len(directions) > 1:
        raise RunTableError(
            f"{source}: study {study.study_name!r} has {len(directions)} objectives; name the "
            "loss, for example with --column loss=value_0"
        )
    if directions != ["minimize"]:
        raise RunTableError(
            f"{source}: study {study.study_name!r} maximises its value, so that it is no loss; "
            "name a user attribute that is, with --column loss=NAME"
        )


def _study(source: str, options: ImportOptions) -> "Study":
    try:
        import optuna
    except ImportError as error:
        raise RunTableError(
            "reading an Optuna study needs optuna: pip install 'quokka-ray[search]', or pip "
            "install optuna"
        ) from error

    # A storage that cannot be read fails in the errors of its database's driver.
    try:
        storage = _storage(source)
        names = sorted(optuna.get_all_study_names(storage))
        wanted = options.study_name or (names[0] if len(names) == 1 else None)
        if wanted in names:
            return optuna.load_study(study_name=wanted, storage=storage)
    except RunTableError:
        raise
    except Exception as error:
        raise RunTableError(
            f"{source}: not a readable Optuna storage ({type(error).__name__}: {error})"
        ) from error
    listed = ", ".join(map(repr, names)) or "none"
    if wanted is None:
        raise RunTableError(
            f"{source}: {len(names)} studies ({listed}); choose one with --study-name"
        )
    raise RunTableError(f"{source}: no study is called {wanted!r}; there are {listed}")


def _storage(source: str) -> "BaseStorage":
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in source:
        return RDBStorage(source)
    path = Path(source)
    if not path.is_file():
        raise RunTableError(f"{source}: no such file; name an Optuna journal or database")
    with path.open("rb") as stream:
        is_sqlite = stream.read(len(_SQLITE)) == _SQLITE
    if not is_sqlite:
        if not is_storage(path):
            raise RunTableError(f"{source}: neither an Optuna journal nor an SQLite database")
        return JournalStorage(JournalFileBackend(source))
    # Optuna would make its tables in any database.
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as database:
        found = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    database.close()
    if not {"studies", "trials"} <= found:
        raise RunTableError(f"{source}: an SQLite database, but without Optuna's tables")
    return RDBStorage(f"sqlite:///{path.absolute()}")
