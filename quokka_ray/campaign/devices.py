"""The cluster as a campaign sees it: workers, how many each size takes, and when some are free.

A run whose workers are not free waits for them, and what is free meanwhile takes runs that are
done by then: the backfill of batch schedulers. So no device is idle where a smaller run is worth
having, and no large run is put off by the small ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from quokka_ray.campaign.budget import projected_flops
from quokka_ray.campaign.speed import Speed
from quokka_ray.campaign.trajectory_state import TrajectoryState

Fits = Callable[[float, float], bool]
"""Whether a run of N parameters and so many exact FLOPs may start now."""


def anything(params: float, flops: float) -> bool:
    """Of a cluster whose trials are all alike: whoever asks has room for one."""
    return True


@dataclass(frozen=True)
class Devices:
    """Workers that a cluster has room for, and those that each size takes.

    Attributes:
        total: Workers that run at once.
        workers: Of a run, by its N; a size that is not named takes one.
    """

    total: int = 1
    workers: Mapping[int, int] = field(default_factory=dict)

    def of(self, params: float) -> int:
        """Return the workers of a run of N parameters."""
        return self.workers.get(int(params), 1)

    @property
    def alike(self) -> bool:
        """Whether all runs take as many workers, so that none waits where another could start."""
        return len(set(self.workers.values())) < 2

    def free(self, live: Iterable[TrajectoryState]) -> int:
        """Return the workers that `live`, the runs in flight, leave free."""
        return self.total - sum(self.of(state.config.params) for state in live)

    def backfill(
        self, wanted: float, live: Iterable[TrajectoryState], speed: Speed | None
    ) -> Fits:
        """Return which runs may start now without putting off one that waits for its workers.

        Args:
            wanted: N of the run that waits.
            live: The runs in flight.
            speed: What has been measured; None: nothing, and nothing is let in.
        """
        live = list(live)
        free, need = self.free(live), self.of(wanted)
        if speed is None:
            return lambda params, flops: False
        ends = sorted(
            (_seconds_left(state, speed) / takes, takes)
            for state in live
            for takes in [self.of(state.config.params)]
        )
        start, there = 0.0, free
        for end, workers in ends:
            if there >= need:
                break
            start, there = end, there + workers
        spare = there - need

        def fits(params: float, flops: float) -> bool:
            takes = self.of(params)
            if takes > free:
                return False
            return takes <= spare or speed.price(params, flops, takes) / takes <= start

        return fits


def _seconds_left(state: TrajectoryState, speed: Speed) -> float:
    """Return the device seconds that a run in flight has still to take."""
    left = projected_flops(state) - state.flops_spent
    return speed.seconds(state.config.params, max(left, 0.0))
