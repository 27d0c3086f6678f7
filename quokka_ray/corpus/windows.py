"""The order in which a run reads its windows: seeded, endless, and open at any place."""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.shuffle import Permutation, permutation, seeded

# Keeps the draw of offsets apart from the permutations of the same seed.
_OFFSET = 0x6F6666


class Windows(Protocol):
    """What a run reads from: an endless stream of windows.

    Attributes:
        windows: Windows of one epoch.
        seq_len: Tokens of a window.
    """

    windows: int
    seq_len: int

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Return windows first to first + count - 1 of the endless stream, [count, seq_len]."""
        ...


class WindowOrder:
    """Windows of a token prefix, cut and shuffled anew each epoch.

    An epoch is one pass over the prefix of U tokens. It cuts the prefix, closed to a ring, into
    n = floor(U / seq_len) windows that begin at an offset of its own: 0 in epoch 0, afterwards
    one that (seed, epoch) draws from 0 .. U - 1. The remaining U mod seq_len tokens lie before
    that offset and are not read in this epoch; every other token is read exactly once. After
    epoch 0 the window that lies over the ring's seam joins the end of the prefix to its
    beginning. The windows of an epoch come in the permutation that (seed, epoch) draws.

    Window i of the endless stream is window i mod n of epoch i div n, so "epoch 2.5" is the place
    after 2.5 n windows: two whole passes and half of the windows of the third, every token having
    been read two or three times (fewer where an epoch's remainder fell on it). Where a run table
    says `epochs` it means D / U, tokens processed over unique tokens; the two differ by the
    factor n seq_len / U, which is 1 up to one window in n.

    The stream is a function of (prefix, seq_len, seed) alone. A run that resumes asks for the
    place where it stopped, and workers of any number ask for their part of each batch.

    Args:
        tokens: The prefix, [U] of any integer type, usually memory-mapped.
        seq_len: Tokens of a window, at most U.
        seed: What offsets and permutations are drawn from.
    """

    def __init__(self, tokens: NDArray[np.integer], seq_len: int, seed: int) -> None:
        self.windows = len(tokens) // seq_len
        self.seq_len = seq_len
        self._tokens = np.asarray(tokens)  # slices of a memmap are slow
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._drawn)

    def _drawn(self, epoch: int) -> tuple[int, Permutation]:
        offset = 0
        if epoch:
            offset = int(seeded(self._seed, epoch, _OFFSET).integers(len(self._tokens)))
        return offset, permutation(self.windows, self._seed, epoch)

    def starts(self, first: int, count: int) -> NDArray[np.int64]:
        """Return where windows first to first + count - 1 begin in the prefix, [count]."""
        starts = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, place = divmod(first + done, self.windows)
            taken = min(count - done, self.windows - place)
            offset, order = self._epoch(epoch)
            chosen = order(np.arange(place, place + taken))
            starts[done : done + taken] = (offset + chosen * self.seq_len) % len(self._tokens)
            done += taken
        return starts

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Return windows first to first + count - 1 of the endless stream, [count, seq_len]."""
        rows = np.empty((count, self.seq_len), dtype=np.int64)
        for row, start in zip(rows, self.starts(first, count).tolist(), strict=True):
            part = self._tokens[start : start + self.seq_len]
            row[: len(part)] = part
            row[len(part) :] = self._tokens[: self.seq_len - len(part)]
        return rows
