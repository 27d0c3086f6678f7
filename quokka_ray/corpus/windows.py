"""The order in which a run reads its windows: seeded, endless, and open at any place."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class WindowOrder:
    """Windows of a token prefix, reshuffled each epoch.

    The first U tokens are cut into floor(U / seq_len) windows, at the same places in every
    epoch; the rest of U, less than a window, is never read. Epoch e goes through all of them in
    the permutation that (seed, e) draws. Window i of the endless stream is window i mod n of
    epoch i div n, so a run that resumes asks for the place where it stopped.

    A permutation takes 8 bytes a window, and two are kept: fine to some ten million windows.

    Args:
        tokens: The prefix, [U] of any integer type, usually memory-mapped.
        seq_len: Tokens of a window.
        seed: What the permutations are drawn from.
    """

    def __init__(self, tokens: NDArray[np.integer], seq_len: int, seed: int) -> None:
        self.windows = len(tokens) // seq_len
        self.seq_len = seq_len
        self._rows = tokens[: self.windows * seq_len].reshape(self.windows, seq_len)
        self._permutation = lru_cache(maxsize=2)(
            lambda epoch: seeded(seed, epoch).permutation(self.windows)
        )

    def batch(self, first: int, count: int) -> NDArray[np.int64]:
        """Return windows first to first + count - 1 of the endless stream, [count, seq_len]."""
        indices = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, place = divmod(first + done, self.windows)
            taken = self._permutation(epoch)[place : place + count - done]
            indices[done : done + len(taken)] = taken
            done += len(taken)
        return self._rows[indices].astype(np.int64)


def seeded(*keys: int) -> np.random.Generator:
    """Return a generator that depends on all of `keys`, negative ones too."""
    return np.random.default_rng([key % 2**64 for key in keys])
