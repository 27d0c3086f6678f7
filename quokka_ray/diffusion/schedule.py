"""What a noise schedule is: how much of the text is still clean at time t.

A schedule is a pure object of functions on [0, 1]: alpha(t), the probability that a token is
clean; its derivative; the ELBO's weight -alpha' / (1 - alpha) of a masked token's cross-entropy;
the logarithms of alpha and 1 - alpha, exact near both ends; and the time of a given mask rate.
They take a float, a float array or a float tensor of any shape, on any device, and return the
like: same shape, dtype and device. No function raises inside [0, 1]; at an end where a value is
infinite they return an infinity.

Substituting a = alpha(t), the NELBO does not depend on the schedule: a schedule is a choice of
how often each mask rate is visited (Quokka, section 5.2; md4; mdlm). To add one, subclass
`NoiseSchedule` and give `alpha`, `alpha_prime`, `log_alpha`, `log1m_alpha` and `inverse`.
"""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Time = TypeVar("Time", float, np.ndarray, Tensor)


def elementwise(t: Any) -> Any:
    """Return the module, torch or numpy, whose elementwise functions take `t`."""
    return torch if isinstance(t, Tensor) else np


def log(x: Any) -> Any:
    """Return log(x) of a float, array or tensor: minus infinity at 0, without a warning."""
    return x.log() if isinstance(x, Tensor) else _silent(np.log, x)


def log1p(x: Any) -> Any:
    """Return log(1 + x) of a float, array or tensor: minus infinity at -1, without a warning."""
    return x.log1p() if isinstance(x, Tensor) else _silent(np.log1p, x)


def power(x: Any, exponent: float) -> Any:
    """Return x to a power of a float, array or tensor: infinite at 0 if the power is negative."""
    return x.pow(exponent) if isinstance(x, Tensor) else _silent(np.power, x, exponent)


def divide(a: Any, b: Any) -> Any:
    """Return a / b of floats, arrays or tensors, infinite where b is 0, without a warning."""
    return a / b if isinstance(b, Tensor) else _silent(np.divide, a, b)


def _silent(function: Any, *arguments: Any) -> Any:
    with np.errstate(divide="ignore"):
        return function(*arguments)


class NoiseSchedule(ABC):
    """What a schedule must tell: alpha falls from 1 at t = 0 to 0 at t = 1."""

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """Return P(clean) at t."""

    @abstractmethod
    def alpha_prime(self, t: Time) -> Time:
        """Return d alpha / d t, never positive."""

    @abstractmethod
    def log_alpha(self, t: Time) -> Time:
        """Return log alpha, to full relative precision near t = 1 too."""

    @abstractmethod
    def log1m_alpha(self, t: Time) -> Time:
        """Return log(1 - alpha), the log mask rate, to full relative precision near t = 0."""

    @abstractmethod
    def inverse(self, mask_rate: Time) -> Time:
        """Return the t at which 1 - alpha(t) is `mask_rate`, in [0, 1]."""

    def weight(self, t: Time) -> Time:
        """Return -alpha' / (1 - alpha), at least 0; infinite at t = 0 (Quokka eq. 9)."""
        rate: Time = elementwise(t).exp(self.log1m_alpha(t))
        weight: Time = divide(-self.alpha_prime(t), rate)
        return weight
