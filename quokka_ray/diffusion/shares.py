"""Which validation sequences are evaluated where: all of them here, or each rank its share."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

_ROWS_OF_TOKENS = 1 << 14
_LOGITS_AT_ONCE = 1 << 25


class Peers(Protocol):
    """Ranks that share an evaluation: `training/world.py`."""

    def rows(self, count: int) -> tuple[slice, int]:
        """Return which of `count` rows this rank evaluates, and how many of the first of them
        are another rank's too."""

    def total(self, array: np.ndarray, device: str) -> np.ndarray:
        """Return the sum of a float64 array over ranks."""


class Share:
    """The sequences that are evaluated here.

    Args:
        windows: int64 [S, L], the sequences of all ranks.
        vocab_size: Real tokens K; bounds the memory that logits take.
        device: Where they are evaluated.
        peers: The ranks that share them; None: all are evaluated here.
    """

    def __init__(
        self, windows: np.ndarray, vocab_size: int, device: str, peers: Peers | None = None
    ) -> None:
        sequences, seq_len = windows.shape
        self._peers, self._device = peers, device
        self._rows, self._others = slice(0, sequences), 0
        if peers is not None:
            self._rows, self._others = peers.rows(sequences)
        at_once = min(_ROWS_OF_TOKENS // seq_len, _LOGITS_AT_ONCE // (seq_len * vocab_size))
        self._at_once = max(1, at_once)

    def parts(self) -> Iterator[slice]:
        """Yield rows that are evaluated at once."""
        for first in range(self._rows.start, self._rows.stop, self._at_once):
            yield slice(first, min(first + self._at_once, self._rows.stop))

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Return values [..., S] of all sequences, from those of the sequences here."""
        if self._peers is None:
            return values
        mine = np.zeros_like(values)
        own = slice(self._rows.start + self._others, self._rows.stop)
        mine[..., own] = values[..., own]
        return self._peers.total(mine, self._device)
