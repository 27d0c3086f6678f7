"""Chinchilla's law with one more parameter, last of its coordinates: what such laws share."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from analysis.laws.base import FloatArray, Law, Points, Prior
from analysis.laws.chinchilla import CHINCHILLA


class Range(NamedTuple):
    """The prior's mean and spread of one coordinate, and the box that a fit stays in."""

    mean: float
    spread: float
    low: float
    high: float


class Extended(Law):
    """A law of six parameters; a new one gives names, its formula, and the last one's range."""

    @abstractmethod
    def last(self, log_loss: FloatArray) -> Range:
        """Return the range of the last coordinate for runs of these ln L."""

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(6)
        transform[:5, :5] = CHINCHILLA.centring(log_params, log_tokens)
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = CHINCHILLA.bounds(log_loss)
        last = self.last(log_loss)
        return np.append(low, last.low), np.append(high, last.high)

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        found = CHINCHILLA.starts(points, log_loss)
        last = np.full((len(found), 1), self.last(log_loss).mean)
        return np.concatenate([found, last], axis=1)

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        five, last = CHINCHILLA.prior(points, log_loss, weak=weak), self.last(log_loss)
        return Prior(np.append(five.mean, last.mean), np.append(five.spread, last.spread))
