"""Learning-rate schedules: pure functions from an optimiser step to a share of the peak rate.

Steps count from 0; the update of step s uses the multiplier of s. Warmup rises linearly and
reaches the peak with its last step, and a cooldown ends where the next step would be at its floor,
so that no step of either is spent at a rate of zero.
"""

import math
from collections.abc import Callable

from quokka_ray.study.config import LRScheduleName, TrainingConfig
from quokka_ray.study.path import Leg, cooldown_steps, warmup_steps
from quokka_ray.study.trajectory import TrajectoryConfig

Multiplier = Callable[[int], float]


def wsd(step: int, *, steps: int, warmup: int, cooldown: int) -> float:
    """Warmup, stable, then a linear decay to zero over the last `cooldown` steps."""
    rising = (step + 1) / warmup if step < warmup else 1.0
    falling = (steps - step) / cooldown if step > steps - cooldown else 1.0
    return min(rising, falling)


def cosine(step: int, *, steps: int, warmup: int, floor: float) -> float:
    """Warmup, then half a cosine from the peak down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(step: int, *, warmup: int) -> float:
    """Warmup, then the peak for ever."""
    return (step + 1) / warmup if step < warmup else 1.0


def lr_schedule(
    name: LRScheduleName, steps: int, training: TrainingConfig, warmup: int | None = None
) -> Multiplier:
    """Return the multiplier of one run.

    Args:
        name: The schedule.
        steps: Optimiser steps of the run.
        training: Its recipe.
        warmup: Steps of warmup; unset: the recipe's share of `steps`.
    """
    if warmup is None:
        warmup = warmup_steps((steps,), training)
    if name == "wsd":
        cooldown = cooldown_steps(steps, name, training)
        return lambda step: wsd(step, steps=steps, warmup=warmup, cooldown=cooldown)
    if name == "cosine":
        floor = training.min_lr_ratio
        return lambda step: cosine(step, steps=steps, warmup=warmup, floor=floor)
    return lambda step: constant(step, warmup=warmup)


def leg_schedule(config: TrajectoryConfig, leg: Leg) -> Multiplier:
    """Return the multiplier of a leg: the trunk's, or that of a run which ends where it ends."""
    name = config.lr_schedule if leg.observed else "constant"
    return lr_schedule(name, leg.last, config.training, config.warmup_steps)


def is_cooled(name: LRScheduleName, training: TrainingConfig) -> bool:
    """Return whether a run of this schedule ends with its rate brought down."""
    return name == "cosine" or (name == "wsd" and training.cooldown_fraction > 0)
