"""One trajectory as the ledger knows it: what was planned of it, what it showed, what it spent."""

from dataclasses import dataclass, field
from typing import Any

from quokka_ray.study.trajectory import TrajectoryConfig

Record = dict[str, Any]


@dataclass
class TrajectoryState:
    """One trajectory as the ledger knows it, with the progress that its trial last reported.

    Progress is not in the ledger: it is rebuilt from the trajectory's own `metrics.jsonl`.
    """

    config: TrajectoryConfig
    planned: Record
    """What was written when it was planned, without the configuration."""
    attempts: int = 0
    started_at: float | None = None
    """When its latest attempt was started, seconds since the epoch."""
    observations: list[Record] = field(default_factory=list)
    """Those that have a loss, in the order of their token counts."""
    diverged: list[Record] = field(default_factory=list)
    """Observations that their branch's divergence cost."""
    ended: Record | None = None
    progress: Record | None = None
    processed: int = 0
    """Tokens of the whole path that lie behind the latest attempt, branches included."""
    _spent: tuple[tuple[int, Record | None, Record | None], float] | None = field(
        default=None, repr=False, compare=False
    )

    def advance(self, row: Record) -> None:
        """Take a row of kind `progress`."""
        self.progress = row
        # Rows of older trials count along one path, which had no branches.
        self.processed = int(row["processed_tokens" if "processed_tokens" in row else "tokens"])

    def observe(self, record: Record) -> None:
        """Take an observation, or what a branch that diverged left in its place."""
        branch_diverged = record.get("status") == "diverged"
        (self.diverged if branch_diverged else self.observations).append(record)
        behind = record.get("processed_tokens") or tokens_of(self.config, record)
        self.processed = max(self.processed, int(behind))

    @property
    def place(self) -> tuple[int, int]:
        """N and D that the menu has it under: its own may differ from them with its recipe."""
        own = self.config.params, self.config.tokens
        params, tokens = self.planned.get("place") or own
        return int(params), int(tokens)

    @property
    def last_observation(self) -> Record | None:
        """The observation at the trajectory's last point, or at which it ended early."""
        last = self.observations[-1] if self.observations else None
        at_the_end = last is not None and tokens_of(self.config, last) == self.config.tokens
        finished = self.ended is not None and self.ended["status"] == "finished"
        return last if at_the_end or finished else None

    @property
    def hopeless_excess(self) -> float | None:
        """Excess of ln loss that it would have ended with at least; None: it was not hopeless."""
        if self.ended is None or self.ended["status"] != "hopeless":
            return None
        return float(self.ended["excess"])

    @property
    def flops_spent(self) -> float:
        """Exact FLOPs of all attempts, as last reported."""
        # The budget adds up all trajectories several times for each record.
        if self._spent is not None:
            (count, progress, ended), spent = self._spent
            if (
                count == len(self.observations) + len(self.diverged)
                and progress is self.progress
                and ended is self.ended
            ):
                return spent
        rows = [*self.observations, *self.diverged, self.progress, self.ended]
        spent = max((float(row["flops_spent"]) for row in rows if row), default=0.0)
        seen = len(self.observations) + len(self.diverged)
        self._spent = (seen, self.progress, self.ended), spent
        return spent


def tokens_of(config: TrajectoryConfig, record: Record) -> int:
    """Return the token count that a record is of; one that does not say is of the last."""
    return int(record.get("tokens") or config.tokens)
