"""The ledger: what a study has planned, started, observed and ended, as JSON lines.

The ledger is the study's one source of truth. The driver alone writes it; a record is appended
once, under an id that follows from what it says, so that a record which arrives twice (a trial
that reports again after a resume) is stored once. Nothing in it is ever rewritten.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.laws.mixture import PREFIX
from quokka_ray.campaign.run_rows import RUN_COLUMNS, run_rows
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.trajectory import TrajectoryConfig

logger = logging.getLogger(__name__)


def record_id(record: Mapping[str, Any]) -> str:
    """Return the id under which a record is stored once."""
    kind, trajectory = record["kind"], record["trajectory"]
    if kind == "observation":
        return f"observation:{record['observation']}"
    if kind == "started":
        return f"started:{trajectory}#{record['attempt']}"
    return f"{kind}:{trajectory}"


class Ledger:
    """An append-only file of records, and the trajectories that they add up to.

    Args:
        path: The JSON lines file; made when missing.
        read_only: Look without touching the file, which a driver may be writing: what is
            appended is known to this object alone.

    Raises:
        ConfigurationError: A line other than a torn last one is not a record.
        MachineError: The file cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self.trajectories: dict[str, TrajectoryState] = {}
        self._ids: set[str] = set()
        self._rows: dict[str, list[dict[str, Any]]] = {}
        for record in self._read():
            self._apply(record)
        if read_only:
            return
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise MachineError(f"cannot write the ledger {path}: {error.strerror}") from error

    def append(self, record: Record, *, durable: bool = True) -> bool:
        """Store `record` unless its id is known; return whether it was new.

        Args:
            record: What to store.
            durable: Wait until it is on the disk. A record that is not waited for gets there with
                the next one that is.
        """
        if record_id(record) in self._ids:
            return False
        record = {**record, "time": record.get("time", round(time.time(), 3))}
        if not self._read_only:
            self._write(json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n", durable)
        self._apply(record)
        return True

    def close(self) -> None:
        """Close the file, all records on the disk."""
        if not self._read_only:
            self._sync()
            self._file.close()

    def unfinished(self) -> list[TrajectoryState]:
        """Return the trajectories that were planned and have not ended, oldest first."""
        return [state for state in self.trajectories.values() if state.ended is None]

    def merge_metrics(self, folders: Iterable[Path]) -> int:
        """Append what trajectories' own `metrics.jsonl` hold and the ledger lacks.

        Args:
            folders: Trajectory folders; those that the ledger never planned are left alone.

        Returns:
            The number of records that were new.
        """
        new = 0
        for folder in folders:
            state = self.trajectories.get(folder.name)
            if state is None:
                continue
            for row in read_rows(folder / "metrics.jsonl"):
                if row["kind"] == "progress":
                    state.advance(row)
                elif row["kind"] in ("observation", "ended"):
                    new += self.append(row)
        return new

    def runs(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the run table: one observation a row; a run without one keeps a row of its own.

        What diverged, was hopeless, failed or was stopped before its last observation appears with
        its status, so that the report can count it; only `finished` rows carry a loss.
        `flops_spent` and `device_seconds` are marginal: they add up to what the trajectories have
        cost. Where weights of a mixture are searched, a column `share_<part>` for each of its
        parts.

        Args:
            columns: Some of `RUN_COLUMNS`, where not all are needed; shares are always there.
        """
        rows = []
        for name, state in self.trajectories.items():
            if name not in self._rows:
                self._rows[name] = run_rows(state)
            rows += self._rows[name]
        # Columns of lists: pandas takes several times as long over rows of dictionaries.
        shares = [name for name in rows[0] if name.startswith(PREFIX)] if rows else []
        wanted = [*(columns or RUN_COLUMNS), *shares]
        return pd.DataFrame({name: [row[name] for row in rows] for name in wanted})

    def _write(self, line: str, durable: bool) -> None:
        try:
            self._file.write(line.encode())
            self._file.flush()
        except OSError as error:
            raise MachineError(f"cannot write the ledger {self.path}: {error.strerror}") from error
        if durable:
            self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise MachineError(f"cannot write the ledger {self.path}: {error.strerror}") from error

    def _apply(self, record: Record) -> None:
        self._ids.add(record_id(record))
        kind, trajectory = record["kind"], record["trajectory"]
        self._rows.pop(trajectory, None)
        if kind == "planned":
            config = self._shared(TrajectoryConfig.model_validate(record["config"]))
            # The configuration is known; without its text a trajectory takes a third of the room.
            planned = {name: value for name, value in record.items() if name != "config"}
            self.trajectories[trajectory] = TrajectoryState(config, planned)
            return
        state = self.trajectories.get(trajectory)
        if state is None:
            raise ConfigurationError(f"{self.path}: {kind} of {trajectory}, which was not planned")
        if kind == "started":
            state.attempts = max(state.attempts, int(record["attempt"]))
            state.started_at = record.get("time")
        elif kind == "observation":
            state.observe(record)
        elif kind == "ended":
            state.ended = record

    def _shared(self, config: TrajectoryConfig) -> TrajectoryConfig:
        """Return `config` with the sections that equal those of the trajectory before it."""
        if not self.trajectories:
            return config
        before = next(reversed(self.trajectories.values())).config
        equal = {
            name: getattr(before, name)
            for name in ("model", "diffusion", "training", "evaluation")
            if getattr(before, name) == getattr(config, name)
        }
        return config.model_copy(update=equal)

    def _read(self) -> Iterator[Record]:
        """Yield the file's records; cut off a last line that a crash left unfinished."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            logger.warning("%s: dropping an unfinished last line", self.path)
            if not self._read_only:
                with self.path.open("r+b") as file:
                    file.truncate(complete)
        for number, line in enumerate(data[:complete].splitlines(), 1):
            try:
                record = json.loads(line)
                record_id(record)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(
                    f"{self.path}, line {number} is not a ledger record ({error}); "
                    "restore the file from a copy, or start a new study"
                ) from error
            yield record


def read_rows(path: Path) -> list[Record]:
    """Return the rows of a trajectory's `metrics.jsonl`, without a torn last line."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except ValueError:
            # Two attempts can leave a torn line between them; what it said was said again.
            logger.warning("%s: skipping a line that is not JSON", path)
    return rows
