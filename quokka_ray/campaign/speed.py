"""How long what is left will take: seconds per exact FLOP by model size, from the ledger.

Small models are slow per FLOP, so a rate is a line in ln N through what trials have measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from quokka_ray.campaign.budget import Account, projected_flops
from quokka_ray.campaign.ledger import TrajectoryState


@dataclass(frozen=True)
class Speed:
    """ln of device seconds per exact FLOP = intercept + slope * ln N."""

    intercept: float
    slope: float

    def seconds(self, params: float, flops: float) -> float:
        """Return the device time of `flops` exact FLOPs by a model of N `params`."""
        return flops * float(np.exp(self.intercept + self.slope * np.log(params)))


def measured(state: TrajectoryState) -> tuple[float, float]:
    """Return the device seconds and exact FLOPs that a trajectory has reported last."""
    rows = [*state.observations, state.progress, state.ended]
    last = max(
        (row for row in rows if row and row.get("device_seconds")),
        key=lambda row: float(row["device_seconds"]),
        default=None,
    )
    return (0.0, 0.0) if last is None else (last["device_seconds"], last["flops_spent"])


def fit_speed(states: Iterable[TrajectoryState]) -> Speed | None:
    """Return the line through all trajectories that have measured something; None without any."""
    known = [(state.config.params, *measured(state)) for state in states]
    rows = np.array([row for row in known if row[1] > 0 and row[2] > 0], dtype=float)
    if not len(rows):
        return None
    size, rate = np.log(rows[:, 0]), np.log(rows[:, 1] / rows[:, 2])
    spread = size - size.mean()
    # Sizes that hardly differ say nothing of a slope.
    slope = float(spread @ rate / (spread @ spread)) if np.ptp(size) > 0.2 else 0.0
    return Speed(float(rate.mean()) - slope * float(size.mean()), slope)


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
