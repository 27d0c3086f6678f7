"""Noise schedules given as sigma = -log alpha, of SEDD and mdlm."""

import math
from abc import abstractmethod
from dataclasses import dataclass

from quokka_ray.diffusion.schedule import NoiseSchedule, Time, divide, elementwise, log, log1p


@dataclass(frozen=True)
class Sigma(NoiseSchedule):
    """alpha = exp(-sigma) for a sigma that rises from `sigma_min` to `sigma_max`.

    As published alpha runs from exp(-sigma_min) to exp(-sigma_max), so that the integral over t
    leaves out what lies beyond. `spanning` stretches it to run from 1 to 0: the NELBO is then
    whole. The weight of a masked token, sigma' / (e^sigma - 1), changes little: sigma is counted
    from sigma_min.

    Attributes:
        sigma_min: sigma at t = 0.
        sigma_max: sigma at t = 1.
        spanning: Whether alpha is stretched to run from 1 to 0; False is as published.

    Raises:
        ValueError: Not 0 < sigma_min < sigma_max.
    """

    sigma_min: float
    sigma_max: float
    spanning: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma runs from {self.sigma_min} to {self.sigma_max}; "
                "it must rise from a positive value"
            )

    @abstractmethod
    def rise(self, t: Time) -> Time:
        """Return sigma(t) - sigma_min."""

    @abstractmethod
    def fall(self, t: Time) -> Time:
        """Return sigma_max - sigma(t)."""

    @abstractmethod
    def sigma_prime(self, t: Time) -> Time:
        """Return d sigma / d t."""

    @abstractmethod
    def time_of_rise(self, rise: Time) -> Time:
        """Return the t at which sigma(t) - sigma_min is `rise`."""

    @property
    def _span(self) -> float:
        return self.sigma_max - self.sigma_min

    def _start(self) -> float:
        """What to add to the rise to get the sigma that alpha is computed with."""
        return 0.0 if self.spanning else self.sigma_min

    def _whole(self) -> float:
        """What 1 - exp(-sigma) is at the end, which a stretched schedule is divided by."""
        return -math.expm1(-self._span) if self.spanning else 1.0

    def alpha(self, t: Time) -> Time:
        """Return P(clean) at t."""
        value: Time = elementwise(t).exp(self.log_alpha(t))
        return value

    def alpha_prime(self, t: Time) -> Time:
        """Return -sigma' exp(-sigma), stretched if spanning."""
        sigma = self.rise(t) + self._start()
        value: Time = -self.sigma_prime(t) * elementwise(t).exp(-sigma) / self._whole()
        return value

    def log_alpha(self, t: Time) -> Time:
        """Return log alpha: -sigma, or log of (e^(sigma_max - sigma) - 1) / (e^span - 1)."""
        value: Time
        if not self.spanning:
            value = -(self.rise(t) + self.sigma_min)
            return value
        rest = self.fall(t)
        ratio = log(-elementwise(t).expm1(-rest)) - math.log(self._whole())
        # Rounding may leave it above 0 at t = 0.
        value = elementwise(ratio).clip(ratio + rest - self._span, None, 0.0)
        return value

    def log1m_alpha(self, t: Time) -> Time:
        """Return log(1 - e^-sigma), stretched if spanning."""
        sigma = self.rise(t) + self._start()
        value: Time = log(-elementwise(t).expm1(-sigma)) - math.log(self._whole())
        return value

    def inverse(self, mask_rate: Time) -> Time:
        """Return the t of a mask rate; clipped to [0, 1] where as published none is so low."""
        sigma = -log1p(-mask_rate * self._whole())
        t: Time = self.time_of_rise(elementwise(sigma).clip(sigma - self._start(), 0, self._span))
        return t

    def weight(self, t: Time) -> Time:
        """Return sigma' / (e^sigma - 1)."""
        sigma = self.rise(t) + self._start()
        weight: Time = divide(self.sigma_prime(t), elementwise(t).expm1(sigma))
        return weight


@dataclass(frozen=True)
class Geometric(Sigma):
    """sigma = sigma_min^(1-t) sigma_max^t, of SEDD and mdlm."""

    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    @property
    def _ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def rise(self, t: Time) -> Time:
        """Return sigma(t) - sigma_min."""
        value: Time = self.sigma_min * elementwise(t).expm1(self._ratio * t)
        return value

    def fall(self, t: Time) -> Time:
        """Return sigma_max - sigma(t)."""
        value: Time = -self.sigma_max * elementwise(t).expm1(self._ratio * (t - 1))
        return value

    def sigma_prime(self, t: Time) -> Time:
        """Return sigma ln(sigma_max / sigma_min)."""
        value: Time = self._ratio * self.sigma_min * elementwise(t).exp(self._ratio * t)
        return value

    def time_of_rise(self, rise: Time) -> Time:
        """Return ln(1 + rise / sigma_min) / ln(sigma_max / sigma_min)."""
        value: Time = log1p(rise / self.sigma_min) / self._ratio
        return value


@dataclass(frozen=True)
class SigmaLinear(Sigma):
    """sigma = sigma_min + t (sigma_max - sigma_min), mdlm's "linear"."""

    sigma_min: float = 1e-3
    sigma_max: float = 7.0

    def rise(self, t: Time) -> Time:
        """Return sigma(t) - sigma_min."""
        return t * self._span

    def fall(self, t: Time) -> Time:
        """Return sigma_max - sigma(t)."""
        return (1 - t) * self._span

    def sigma_prime(self, t: Time) -> Time:
        """Return sigma_max - sigma_min."""
        return 0 * t + self._span

    def time_of_rise(self, rise: Time) -> Time:
        """Return rise / (sigma_max - sigma_min)."""
        return rise / self._span
