"""Noise schedules: how much of the text is still clean at time t.

A schedule is a pure object of three functions on [0, 1]: alpha(t), the probability that a token
is clean; its derivative; and the ELBO's weight -alpha' / (1 - alpha) of a masked token's
cross-entropy. They take a float, an array or a tensor, and return the like.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

Time = TypeVar("Time", float, np.ndarray, Tensor)


class NoiseSchedule(ABC):
    """What a schedule must tell: alpha falls from 1 at t = 0 to 0 at t = 1."""

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """Return P(clean) at t."""

    @abstractmethod
    def alpha_prime(self, t: Time) -> Time:
        """Return d alpha / d t, never positive."""

    def weight(self, t: Time) -> Time:
        """Return -alpha' / (1 - alpha) for t > 0."""
        return -self.alpha_prime(t) / (1 - self.alpha(t))


@dataclass(frozen=True)
class Linear(NoiseSchedule):
    """alpha = 1 - t: the mask rate is t itself, the weight 1 / t. Quokka's choice."""

    def alpha(self, t: Time) -> Time:
        """Return 1 - t."""
        return 1 - t

    def alpha_prime(self, t: Time) -> Time:
        """Return -1."""
        return 0 * t - 1
