"""Jobs that may take only a share of the time that passes, however long they take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """Says when a job is due: one that took 0.4 s of a 5 % share is not due again for 8 s.

    Args:
        share: Of the elapsed time that the job may take.
        clock: Seconds. One that stands still makes the job due every time.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._next = float("-inf")

    @property
    def due(self) -> bool:
        """Whether the job may run now; it may the first time."""
        return self._clock() >= self._next

    @contextmanager
    def run(self) -> Iterator[None]:
        """Run the job inside; what it takes decides when it is due next."""
        start = self._clock()
        try:
            yield
        finally:
            self._next = start + (self._clock() - start) / self._share
