"""Whose turn it is: weights to an order in which several streams are read together."""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.windows import Windows

# Shares are multiples of one in so many: then a pattern repeats, and any place of it is known.
RESOLUTION = 10_000


@lru_cache(maxsize=64)
def shares(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Return the weights as parts of RESOLUTION, by largest remainder; at least one each.

    A weight of zero keeps no part.
    """
    total = sum(map(Fraction, weights))
    exact = [Fraction(weight) * RESOLUTION / total for weight in weights]
    parts = [max(math.floor(one), 1 if one else 0) for one in exact]
    by_remainder = sorted(range(len(parts)), key=lambda n: (parts[n] - exact[n], n))
    place = 0
    while sum(parts) != RESOLUTION:
        step = 1 if sum(parts) < RESOLUTION else -1
        number = by_remainder[place % len(parts)] if step > 0 else int(np.argmax(parts))
        if exact[number]:
            parts[number] += step
        place += 1
    return tuple(parts)


def share_bounds(ranges: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Return the fewest and the most parts of RESOLUTION that any weights within `ranges` give."""
    bounds = []
    for number, (low, high) in enumerate(ranges):
        others = [one for place, one in enumerate(ranges) if place != number]
        fewest = low / (low + sum(most for _, most in others))
        most = high / (high + sum(least for least, _ in others))
        # Rounding to whole parts moves a share by one, and by more where many are tiny.
        slack = len(ranges)
        bounds.append((max(1, int(fewest * RESOLUTION) - slack), int(most * RESOLUTION) + slack))
    return bounds


@lru_cache(maxsize=64)
def pattern(parts: tuple[int, ...]) -> NDArray[np.int64]:
    """Return whose turn each window of a period is, [period].

    After any number of windows each part has had its exact share within less than one window
    (Tijdeman 1980, the chairman assignment: at most 1 - 1 / (2k - 2) for k parts).
    """
    divisor = math.gcd(*parts)
    turns = [part // divisor for part in parts]
    period, alive = sum(turns), [number for number, turn in enumerate(turns) if turn]
    chosen = np.empty(period, dtype=np.int64)
    had = [0] * len(turns)
    unit = max(2, 2 * len(alive) - 2)
    for step in range(1, period + 1):
        number, deadline = -1, 0
        for candidate in alive:
            # How much its share is ahead of what it had, times period and unit.
            lag = (turns[candidate] * step - had[candidate] * period) * unit
            if lag < period:
                continue
            # By how many steps it can wait until the lag is 1 - 1/unit, times its turns.
            wait = period * (unit - 1) - lag
            if number < 0 or wait * turns[number] < deadline * turns[candidate]:
                number, deadline = candidate, wait
        chosen[step - 1] = number
        had[number] += 1
    return chosen


class MixtureOrder:
    """The windows of several orders, taken in turns.

    Window i of the endless stream is the next unread window of the order whose turn it is, so any
    prefix of the stream holds a prefix of each order's stream. Each order goes through its own
    epochs, which end within two windows of one another.

    Args:
        orders: One for each part.
        parts: Their shares.
    """

    def __init__(self, orders: Sequence[Windows], parts: tuple[int, ...]) -> None:
        self.seq_len = orders[0].seq_len
        self.windows = sum(order.windows for order in orders)
        self._orders = orders
        self._turns = pattern(parts)
        # How many turns of each part lie before each place of a period, [parts, period + 1].
        own = self._turns[None, :] == np.arange(len(orders))[:, None]
        self._before = np.concatenate(
            [np.zeros((len(orders), 1), dtype=np.int64), own.cumsum(axis=1)], axis=1
        )

    def taken(self, windows: int) -> NDArray[np.int64]:
        """Return how many windows of each part are among the first `windows`, [parts]."""
        periods, place = divmod(windows, len(self._turns))
        taken: NDArray[np.int64] = periods * self._before[:, -1] + self._before[:, place]
        return taken

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Return windows first to first + count - 1 of the endless stream, [count, seq_len]."""
        turns = self._turns[np.arange(first, first + count) % len(self._turns)]
        rows = np.empty((count, self.seq_len), dtype=np.int64)
        for number, start in enumerate(self.taken(first).tolist()):
            own = np.flatnonzero(turns == number)
            if len(own):
                rows[own] = self._orders[number].batch(start, len(own))
        return rows
