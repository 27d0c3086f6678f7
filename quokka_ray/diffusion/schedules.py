"""The noise schedules by name: linear, cosine, poly2, poly, geometric, sigma_linear."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from quokka_ray.diffusion.schedule import (
    NoiseSchedule,
    Time,
    divide,
    elementwise,
    log,
    log1p,
    power,
)
from quokka_ray.diffusion.sigma_schedules import Geometric, SigmaLinear

__all__ = [
    "SCHEDULES",
    "Cosine",
    "Geometric",
    "Linear",
    "NoiseSchedule",
    "Poly",
    "SigmaLinear",
    "Time",
    "noise_schedule",
]


@dataclass(frozen=True)
class Linear(NoiseSchedule):
    """alpha = 1 - t: the mask rate is t itself, the weight 1 / t. Quokka's choice."""

    def alpha(self, t: Time) -> Time:
        """Return 1 - t."""
        return 1 - t

    def alpha_prime(self, t: Time) -> Time:
        """Return -1."""
        return 0 * t - 1

    def log_alpha(self, t: Time) -> Time:
        """Return log(1 - t)."""
        value: Time = log1p(-t)
        return value

    def log1m_alpha(self, t: Time) -> Time:
        """Return log t."""
        value: Time = log(t)
        return value

    def inverse(self, mask_rate: Time) -> Time:
        """Return the mask rate."""
        return mask_rate

    def weight(self, t: Time) -> Time:
        """Return 1 / t."""
        weight: Time = divide(1, t)
        return weight


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha = 1 - cos(pi/2 (1 - t)), of md4 and Quokka: the mask rate is sin(pi t / 2)."""

    def alpha(self, t: Time) -> Time:
        """Return 2 sin^2(pi/4 (1 - t)), which is 1 - cos(pi/2 (1 - t)) without cancellation."""
        value: Time = 2 * elementwise(t).sin(math.pi / 4 * (1 - t)) ** 2
        return value

    def alpha_prime(self, t: Time) -> Time:
        """Return -(pi/2) cos(pi t / 2), written to be exactly 0 at t = 1."""
        value: Time = -math.pi / 2 * elementwise(t).sin(math.pi / 2 * (1 - t))
        return value

    def log_alpha(self, t: Time) -> Time:
        """Return log 2 + 2 log sin(pi/4 (1 - t))."""
        value: Time = math.log(2) + 2 * log(elementwise(t).sin(math.pi / 4 * (1 - t)))
        return value

    def log1m_alpha(self, t: Time) -> Time:
        """Return log sin(pi t / 2)."""
        value: Time = log(elementwise(t).sin(math.pi / 2 * t))
        return value

    def inverse(self, mask_rate: Time) -> Time:
        """Return (2 / pi) arcsin(mask rate)."""
        value: Time = 2 / math.pi * elementwise(mask_rate).asin(mask_rate)
        return value


@dataclass(frozen=True)
class Poly(NoiseSchedule):
    """alpha = 1 - t^p, weight p / t. Quokka's poly2 is p = 2.

    Attributes:
        power: p, above 0. More than 1 visits low mask rates more often.

    Raises:
        ValueError: The power is not above 0.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise ValueError(f"the noise schedule's power is {self.power}; it must be above 0")

    def alpha(self, t: Time) -> Time:
        """Return 1 - t^p."""
        value: Time = -elementwise(t).expm1(self.power * log(t))
        return value

    def alpha_prime(self, t: Time) -> Time:
        """Return -p t^(p - 1), minus infinity at t = 0 if p is below 1."""
        value: Time = -self.power * power(t, self.power - 1)
        return value

    def log_alpha(self, t: Time) -> Time:
        """Return log(1 - t^p)."""
        value: Time = log(self.alpha(t))
        return value

    def log1m_alpha(self, t: Time) -> Time:
        """Return p log t."""
        value: Time = self.power * log(t)
        return value

    def inverse(self, mask_rate: Time) -> Time:
        """Return the mask rate to the power 1 / p."""
        value: Time = power(mask_rate, 1 / self.power)
        return value

    def weight(self, t: Time) -> Time:
        """Return p / t."""
        weight: Time = divide(self.power, t)
        return weight


SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "poly2": Poly,
    "poly": Poly,
    "geometric": Geometric,
    "sigma_linear": SigmaLinear,
}
"""The names that a study file may give as `diffusion.noise_schedule`."""


def noise_schedule(name: str, **settings: float) -> NoiseSchedule:
    """Return a schedule by name.

    Args:
        name: One of `SCHEDULES`.
        settings: The schedule's own: `power` of poly, `sigma_min` and `sigma_max` of geometric
            and sigma_linear.

    Raises:
        ValueError: No such schedule, or a setting that it has not or does not allow.
    """
    if name not in SCHEDULES:
        raise ValueError(f"no noise schedule {name!r}; there are {', '.join(SCHEDULES)}")
    if name == "poly2" and settings:
        raise ValueError("poly2 has no settings; poly takes a power")
    try:
        return SCHEDULES[name](**settings)
    except TypeError as error:
        raise ValueError(f"noise schedule {name!r} does not take {settings}: {error}") from None
