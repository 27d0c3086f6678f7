"""What runs take in device time: seconds per exact FLOP by model size, from the ledger.

Small models are slow per FLOP, so a rate is a line in ln N through what trials have measured. A
trial takes more than it trains: its process starts, loads its data, and reports.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from analysis.laws.base import FloatArray
from quokka_ray.campaign.budget import Account, projected_flops
from quokka_ray.campaign.trajectory_state import TrajectoryState


@dataclass(frozen=True)
class Speed:
    """ln of device seconds per exact FLOP = intercept + slope * ln N.

    Attributes:
        intercept, slope: Of the line.
        overhead: Seconds that a trial holds each of its devices without training.
    """

    intercept: float
    slope: float
    overhead: float = 0.0

    def seconds(self, params: float, flops: float) -> float:
        """Return the device time in which a model of N `params` trains `flops` exact FLOPs."""
        return flops * float(np.exp(self.intercept + self.slope * np.log(params)))

    def price(self, params: float, flops: float, workers: int = 1) -> float:
        """Return the device time of a whole trial, by so many workers."""
        return self.seconds(params, flops) + workers * self.overhead


def measured(state: TrajectoryState) -> tuple[float, float]:
    """Return the device seconds and exact FLOPs that a trajectory has reported last."""
    rows = [*state.observations, state.progress, state.ended]
    last = max(
        (row for row in rows if row and row.get("device_seconds")),
        key=lambda row: float(row["device_seconds"]),
        default=None,
    )
    return (0.0, 0.0) if last is None else (last["device_seconds"], last["flops_spent"])


def one_worker(params: float) -> int:
    """Return 1, the workers of a trial unless a cluster says otherwise."""
    return 1


def fit_speed(
    states: Iterable[TrajectoryState], workers: Callable[[float], int] = one_worker
) -> Speed | None:
    """Return what trials have measured; None where none has.

    Args:
        states: The trajectories.
        workers: Says how many workers a model of N parameters has.
    """
    states = list(states)
    known = [(state.config.params, *measured(state)) for state in states]
    rows = np.array([row for row in known if row[1] > 0 and row[2] > 0], dtype=float)
    if not len(rows):
        return None
    size, rate = np.log(rows[:, 0]), np.log(rows[:, 1] / rows[:, 2])
    spread = size - size.mean()
    # Sizes that hardly differ say nothing of a slope.
    slope = float(spread @ rate / (spread @ spread)) if np.ptp(size) > 0.2 else 0.0
    intercept = float(rate.mean()) - slope * float(size.mean())
    return Speed(intercept, slope, _overhead(states, workers))


def _overhead(states: Iterable[TrajectoryState], workers: Callable[[float], int]) -> float:
    """Return the median of what whole trials took beside what they trained, in seconds."""
    beside = [
        float(state.ended["time"]) - state.started_at - measured(state)[0] / count
        for state in states
        if state.ended is not None
        # Attempts before the last one have left no time of their own.
        and state.attempts == 1
        and state.started_at is not None
        and measured(state)[0] > 0
        for count in [workers(state.config.params)]
    ]
    return max(0.0, float(np.median(beside))) if beside else 0.0


def prices(
    speed: Speed,
    params: FloatArray,
    flops: FloatArray,
    workers: Callable[[float], int] = one_worker,
) -> FloatArray:
    """Return the device seconds of whole trials, [R], of N `params` and exact FLOPs, both [R]."""
    return np.array(
        [speed.price(n, c, workers(n)) for n, c in zip(params, flops, strict=True)],
        dtype=np.float64,
    )


def device_seconds_left(account: Account, states: Iterable[TrajectoryState]) -> float | None:
    """Return the device time of what a search has still to do; None before anything ran.

    Trajectories that go on are priced at their own size, what is not planned yet at the mean
    price of what was.
    """
    states = list(states)
    speed = fit_speed(states)
    if speed is None:
        return None
    seconds = flops = left = 0.0
    for state in states:
        projected = projected_flops(state)
        seconds += speed.seconds(state.config.params, projected)
        flops += projected
        if state.ended is None:
            left += speed.seconds(state.config.params, projected - state.flops_spent)
    return left + max(0.0, account.available) * seconds / flops
