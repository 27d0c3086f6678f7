"""A trajectory's own record: `metrics.jsonl`, one JSON object a line, appended and flushed.

It is what survives a kill: the driver merges it into the ledger, and the run reads back from it
what earlier attempts have spent and whether it has already ended.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quokka_ray.training.world import ALONE, World

Row = dict[str, Any]


class Metrics:
    """The record of one trajectory. Each row goes to the file first and then to `report`.

    Every rank knows the rows of earlier attempts; rank 0 alone writes and reports.
    """

    def __init__(self, path: Path, report: Callable[[Row], None], world: World = ALONE) -> None:
        self._path = path
        self._report = report
        self.earlier = world.agree(self._recover)
        self._file = path.open("a", encoding="utf-8") if world.first else None

    def _recover(self) -> list[Row]:
        """Return the rows of earlier attempts, cutting off a line that a kill left unfinished."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return [json.loads(line) for line in whole.splitlines() if line.strip()]

    def append(self, row: Row, *, durable: bool = False) -> None:
        """Write a row, and pass it on. `durable`: wait until it is on the disk."""
        if self._file is None:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
        self._report(row)

    def repeat(self, row: Row) -> None:
        """Pass on a row that the file already holds."""
        if self._file is not None:
            self._report(row)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @property
    def spent(self) -> float:
        """FLOPs of all earlier attempts, the work that was lost with them included."""
        return max((row.get("flops_spent", 0.0) for row in self.earlier), default=0.0)

    @property
    def device_seconds(self) -> float:
        """Device time of all earlier attempts."""
        return max((row.get("device_seconds", 0.0) for row in self.earlier), default=0.0)

    @property
    def attempts(self) -> int:
        """Number of earlier attempts."""
        return max((row.get("attempt", 0) for row in self.earlier), default=0)

    def of_kind(self, kind: str) -> list[Row]:
        """Return the earlier rows of one kind."""
        return [row for row in self.earlier if row["kind"] == kind]
