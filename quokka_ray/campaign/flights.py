"""The trajectories that are not over: which wait, which are in flight, what became of the lost.

A trajectory waits from its plan, or from the death of its process, until an executor asks for it;
then it is in flight until it ends or its process is gone. Who waits follows from the ledger, and
how far a waiting one has come from its checkpoints on the disk.
"""

from collections.abc import Callable

from quokka_ray.campaign.budget import account, projected_flops
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

MAX_ATTEMPTS = 3
"""Times that a trajectory is started before it is given up as failed."""


class Flights:
    """What is not over of one search.

    Args:
        ledger: What has happened so far.
        folder: The study's, where trajectories keep their checkpoints.
        budget: Exact FLOPs of the whole search.
        announce: Called with the row of each end that is written here.

    Attributes:
        waiting: Trajectories to run, the first one first.
        live: Those in flight.
    """

    def __init__(
        self,
        ledger: Ledger,
        folder: StudyFolder,
        budget: float,
        announce: Callable[[Record], None],
    ) -> None:
        self._ledger = ledger
        self._folder = folder
        self._budget = budget
        self._announce = announce
        self.waiting: list[str] = []
        self.live: set[str] = set()

    @property
    def states(self) -> list[TrajectoryState]:
        """The trajectories in flight."""
        return [self._ledger.trajectories[name] for name in self.live]

    def take_up(self) -> None:
        """Let wait what an earlier driver left unfinished, as far as the budget still holds it.

        Work that a kill destroyed is charged; so what is left may not hold every trajectory's
        remainder. Those that it does not hold end as `stopped`.
        """
        unfinished = self._ledger.unfinished()
        for state in unfinished:
            self._rewind(state)
        room = self._available
        for state in reversed(unfinished):
            if room >= 0:
                break
            room += projected_flops(state) - state.flops_spent
            self._end(state, "stopped", "the budget does not hold its remainder")
        self.waiting = [state.config.id for state in unfinished if state.ended is None]

    def start(self, trajectory: str) -> TrajectoryConfig:
        """Write that a waiting trajectory starts; return it."""
        state = self._ledger.trajectories[trajectory]
        self.waiting.remove(trajectory)
        self.live.add(trajectory)
        self._ledger.append(
            {"kind": "started", "trajectory": trajectory, "attempt": state.attempts + 1}
        )
        return state.config

    def again(self, trajectory: str, reason: str) -> None:
        """Let a trajectory wait whose process died, or give it up after `MAX_ATTEMPTS`."""
        state = self._ledger.trajectories[trajectory]
        self._rewind(state)
        if state.attempts >= MAX_ATTEMPTS:
            self._end(state, "failed", f"{state.attempts} attempts; the last: {reason}")
        elif self._available < 0:
            self._end(state, "failed", f"no budget left to run it again; {reason}")
        else:
            self.waiting.append(trajectory)

    @property
    def _available(self) -> float:
        return account(self._budget, self._ledger.trajectories.values()).available

    def _rewind(self, state: TrajectoryState) -> None:
        """Set a trajectory's position back to its last complete checkpoint."""
        checkpoints = self._folder.trajectory(state.config.id).glob("checkpoints/*/COMPLETE")
        state.processed = max((int(path.parent.name) for path in checkpoints), default=0)

    def _end(self, state: TrajectoryState, status: str, reason: str) -> None:
        row = {
            "kind": "ended",
            "trajectory": state.config.id,
            "status": status,
            "reason": reason,
            "flops_spent": state.flops_spent,
        }
        self._ledger.append(row)
        self._announce(row)
