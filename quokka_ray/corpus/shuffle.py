"""Seeded permutations that are open at any place, without a table where one would be large."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Up to here a permutation is a table: some ten milliseconds and 8 MB.
TABLE_LIMIT = 1 << 20

_ROUNDS = 8
# Constants of a 64-bit mixer: xor-shift and odd multiplication, each a bijection.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)


class Permutation(Protocol):
    """A bijection of 0 .. count - 1."""

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what stands at `places`, [count of places]."""
        ...


def seeded(*keys: int) -> np.random.Generator:
    """Return a generator that depends on all of `keys`, negative ones too."""
    return np.random.default_rng([key % 2**64 for key in keys])


def permutation(count: int, *keys: int) -> Permutation:
    """Return a permutation of 0 .. count - 1 that `keys` decide.

    Up to `TABLE_LIMIT` it is one drawn uniformly from all; beyond, a Feistel network, which costs
    no memory and starts at once.
    """
    generator = seeded(*keys)
    if count > TABLE_LIMIT:
        return Feistel(count, generator)
    table = generator.permutation(count)
    return lambda places: table[places]


class Feistel:
    """A pseudo-random permutation of 0 .. count - 1 in constant memory.

    A number is cut into two halves of bits; round by round one half is changed by a keyed hash of
    the other, which is a bijection of [0, 2^bits) whatever the hash (Luby and Rackoff 1988).
    Numbers that land at or above `count` walk on along their cycle until they come back below
    (Black and Rogaway 2002): as 2^bits < 2 count, two steps on average at most.

    Args:
        count: How many numbers, at least 1.
        generator: Draws the keys.
    """

    def __init__(self, count: int, generator: np.random.Generator) -> None:
        bits = max(2, (count - 1).bit_length())
        self._count = np.uint64(count)
        self._low = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << (bits // 2)) - 1)
        self._high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self._keys = generator.integers(2**64, size=_ROUNDS, dtype=np.uint64)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what stands at `places`, each below count."""
        values = self._once(places.astype(np.uint64))
        outside = np.flatnonzero(values >= self._count)
        while len(outside):
            values[outside] = self._once(values[outside])
            outside = outside[values[outside] >= self._count]
        return values.astype(np.int64)

    def _once(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        low, high = values & self._low_mask, values >> self._low
        for number, key in enumerate(self._keys):
            if number % 2:
                high = high ^ (_hashed(low, key) & self._high_mask)
            else:
                low = low ^ (_hashed(high, key) & self._low_mask)
        return (high << self._low) | low


def _hashed(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Return 64 mixed bits for each value; arithmetic is modulo 2^64 on purpose."""
    mixed = (values + _GOLDEN) * _MIX ^ key
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX
    mixed = (mixed ^ (mixed >> _SHIFT)) * _GOLDEN
    return mixed ^ (mixed >> _SHIFT)
