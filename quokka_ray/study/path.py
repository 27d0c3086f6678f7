"""The path of a trajectory that is observed at several token counts.

Under warmup-stable-decay one trunk at a constant rate serves all of them. To be observed at s
optimiser steps, a branch leaves the trunk at s less its cooldown, cools down, and is observed; the
trunk goes on as if it had not been left:

    trunk   0 ---- 60 ---- 120 ---------- 240
                    \\       \\               \\
    branch           100     200             400, where the trunk itself cools down

Every step has its number along its own path from 0, and the number decides what it reads: windows,
noise, rate. So a branch to s steps does what a run of s steps with the same warmup does, to the
bit. Warmup is `warmup_fraction` of the *first* observation, whose run is therefore the study's own
run of that length, and which no branch can leave the trunk before. A schedule without a cooldown
is observed as it passes; cosine has no trunk, and can be observed at its end only.

What a step cost counts along the whole path, branches included: the sum of all legs' steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from quokka_ray.study.config import LRScheduleName, TrainingConfig


@dataclass(frozen=True)
class Leg:
    """A stretch of the path that one learning-rate schedule governs.

    Attributes:
        first: Steps taken along its own path when it begins.
        last: Steps taken when it ends.
        observed: Whether the loss is measured at its end.
        branch: Whether the trunk's state comes back after it.
    """

    first: int
    last: int
    observed: bool = True
    branch: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps of the leg itself."""
        return self.last - self.first


def warmup_steps(points: Sequence[int], training: TrainingConfig) -> int:
    """Return the steps of warmup of a trajectory that is observed after `points` steps."""
    return round(training.warmup_fraction * points[0])


def cooldown_steps(point: int, lr_schedule: LRScheduleName, training: TrainingConfig) -> int:
    """Return the steps of the cooldown that ends after `point` steps."""
    return round(training.cooldown_fraction * point) if lr_schedule == "wsd" else 0


def legs(
    points: Sequence[int], lr_schedule: LRScheduleName, training: TrainingConfig
) -> tuple[Leg, ...]:
    """Return the legs of a trajectory in the order in which they are trained.

    Args:
        points: Optimiser steps after which it is observed, ascending.
        lr_schedule: Its schedule.
        training: Its recipe.
    """
    result = []
    trunk = 0
    for point in points[:-1]:
        leaves = point - cooldown_steps(point, lr_schedule, training)
        if leaves == point:
            result.append(Leg(trunk, point))
        else:
            if leaves > trunk:
                result.append(Leg(trunk, leaves, observed=False))
            result.append(Leg(leaves, point, branch=True))
        trunk = leaves
    return (*result, Leg(trunk, points[-1]))


def path_steps(
    points: Sequence[int], lr_schedule: LRScheduleName, training: TrainingConfig
) -> int:
    """Return the optimiser steps of a whole trajectory, its branches included."""
    branches = sum(cooldown_steps(point, lr_schedule, training) for point in points[:-1])
    return points[-1] + branches


def spaced_points(steps: int, count: int, ratio: float) -> tuple[int, ...]:
    """Return `count` points that end with `steps`, each about `ratio` times the one before."""
    return tuple(round(steps / ratio**back) for back in reversed(range(count)))


def path_problem(
    points: Sequence[int], lr_schedule: LRScheduleName, training: TrainingConfig
) -> str | None:
    """Return what is wrong with observing at these steps, or None."""
    if points[0] < 1 or any(later <= earlier for earlier, later in pairwise(points)):
        return f"it is observed at {list(points)} steps, which must ascend from at least 1"
    if len(points) == 1:
        return None
    if lr_schedule == "cosine":
        return (
            "a cosine schedule comes down once, at its end, so it can be observed at one token "
            "count only; take lr_schedule wsd or constant"
        )
    leaves = points[0] - cooldown_steps(points[0], lr_schedule, training)
    if leaves < max(1, warmup_steps(points, training)):
        return (
            f"the branch to {points[0]} steps would leave the trunk after {leaves}, before the "
            f"warmup of {warmup_steps(points, training)} steps has ended; lower "
            "training.cooldown_fraction or observe later"
        )
    return None
