"""Ray Tune's result folders, read without Ray: one trajectory a trial.

An experiment's folder holds `experiment_state-<time>.json` (with each trial's status) and a
folder a trial, with `params.json`, and results in `result.json` (JSON lines) and `progress.csv`.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.importers.finish import ALIASES
from analysis.importers.options import Imported, ImportOptions

_STATE = "experiment_state-*.json"
_STATUSES = {"TERMINATED": "finished", "ERROR": "failed"}
_OWN = (
    "timestamp",
    "checkpoint_dir_name",
    "should_checkpoint",
    "done",
    "training_iteration",
    "trial_id",
    "date",
    "time_this_iter_s",
    "time_total_s",
    "pid",
    "hostname",
    "node_ip",
    "time_since_restore",
    "iterations_since_restore",
    "experiment_tag",
)
"""What Ray adds to every result."""


def is_results(path: Path) -> bool:
    """Whether a folder is an experiment, holds experiments, or is one trial's."""
    return next(_experiments(path), None) is not None or (path / "params.json").is_file()


def read(source: str, options: ImportOptions) -> Imported:
    """Read all trials of the experiments in a folder, their last result or all.

    Raises:
        RunTableError: there is no trial, or no trial reported the metric.
    """
    root = Path(source)
    notes: list[str] = []
    rows: list[dict[str, Any]] = []
    metrics: set[str] = set()
    for experiment in list(_experiments(root)) or [root]:
        statuses = _statuses(experiment, notes)
        for folder in _trials(experiment):
            status = statuses.get(folder.name, _guessed_status(folder))
            row = {"study": experiment.name, "trajectory": _trial_id(folder), "status": status}
            row |= _params(folder, notes)
            results = _results(folder, notes)
            metrics.update(*results)
            if options.results != "all":
                results = results[-1:]
            rows += [{**row, **_observation(r, row, options)} for r in results or [{}]]
    if not rows:
        raise RunTableError(f"{source}: no trial there; a trial's folder holds params.json")
    table = pd.DataFrame(rows)
    if "loss" not in table and "loss" not in options.columns:
        asked = options.loss_metric or "loss"
        raise RunTableError(
            f"{source}: no trial reported {asked!r}; name the loss with --loss-metric, one of "
            f"{', '.join(sorted(metrics - set(_OWN))) or 'none'}"
        )
    if options.tokens_metric and options.tokens_metric not in metrics:
        raise RunTableError(
            f"{source}: no trial reported {options.tokens_metric!r} for --tokens-metric; there "
            f"are {', '.join(sorted(metrics - set(_OWN))) or 'none'}"
        )
    return Imported(table, tuple(notes))


def _observation(
    result: Mapping[str, Any], row: Mapping[str, Any], options: ImportOptions
) -> dict[str, Any]:
    found = {k: v for k, v in result.items() if k not in _OWN and not isinstance(v, (list, dict))}
    names = [options.loss_metric] if options.loss_metric else ["loss", *ALIASES["loss"]]
    name = next((n for n in names if n in found), None)
    if name is not None:
        found["loss"] = found[name]
    if options.tokens_metric in found:
        found["tokens"] = found[options.tokens_metric]
    if result:
        found["observation"] = f"{row['trajectory']}@{result.get('training_iteration', 'last')}"
    loss = found.get("loss")
    if row["status"] == "finished" and (loss is None or not np.isfinite(loss)):
        found["status"] = "diverged" if loss is not None else "failed"
    return found


def _experiments(root: Path) -> Iterator[Path]:
    yield from sorted({path.parent for path in root.glob(_STATE)} or set())
    if not any(root.glob(_STATE)):
        yield from sorted({path.parent for path in root.glob(f"*/{_STATE}")})


def _trials(experiment: Path) -> list[Path]:
    if (experiment / "params.json").is_file():
        return [experiment]
    return sorted(path.parent for path in experiment.glob("*/params.json"))


def _statuses(experiment: Path, notes: list[str]) -> dict[str, str]:
    """Return the status of each trial by its folder's name, from the newest state file."""
    files = sorted(experiment.glob(_STATE))
    if not files:
        return {}
    statuses = {}
    try:
        state = json.loads(files[-1].read_text(encoding="utf-8"))
        for text, _ in state["trial_data"]:
            trial = json.loads(text)
            statuses[str(trial["relative_logdir"])] = _STATUSES.get(trial["status"], "stopped")
    except (ValueError, KeyError, TypeError, OSError) as error:
        notes.append(
            f"{files[-1]}: not readable ({type(error).__name__}); a trial counts as failed where "
            "it left an error.txt, else as finished"
        )
        return {}
    return statuses


def _guessed_status(folder: Path) -> str:
    return "failed" if (folder / "error.txt").is_file() else "finished"


def _trial_id(folder: Path) -> str:
    """Return a trial's id out of its folder's name, `train_0a1cb_00002_2_x=1_<time>`."""
    parts = folder.name.split("_")
    for first, second in pairwise(parts):
        if len(first) >= 5 and len(second) == 5 and second.isdecimal() and first.isalnum():
            return f"{first}_{second}"
    return folder.name


def _params(folder: Path, notes: list[str]) -> dict[str, Any]:
    try:
        config = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        notes.append(f"{folder / 'params.json'}: not readable ({error})")
        return {}
    return {k: v for k, v in _flat(config).items() if not isinstance(v, list)}


def _results(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Return a trial's results in order; an iteration that was repeated counts as last told."""
    rows: list[dict[str, Any]] = []
    file = folder / "result.json"
    if file.is_file():
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
            if not line.strip():
                continue
            try:
                result = json.loads(line)
            except ValueError:
                notes.append(f"{file}: line {number} is damaged and was left out")
                continue
            result.pop("config", None)
            rows.append(_flat(result))
    elif (folder / "progress.csv").is_file() and (folder / "progress.csv").stat().st_size:
        table = pd.read_csv(folder / "progress.csv").astype("object")
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy()]
    last = {row.get("training_iteration", i): row for i, row in enumerate(rows)}
    return [last[key] for key in sorted(last)]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under names joined with `/`, as Ray's own tables have them."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = item
    return flat
