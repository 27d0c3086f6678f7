"""The text and the noise of each step, ready when the step begins.

What a step gets depends on (seed, step) alone, so steps may be drawn ahead, in another thread,
and the feed may be asked for any step next: a resumed run, or a branch, asks for its own.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Drawn = TypeVar("Drawn")

_AHEAD = 3


def steps_ahead(device: str) -> int:
    """Return how many steps to draw ahead.

    None on a CPU: a second thread would take the core that the step runs on, for what is less
    than a thousandth of a step of 13M parameters (docs/log.md). A GPU leaves the host idle.
    """
    return 0 if torch.device(device).type == "cpu" else _AHEAD


class Feed(Generic[Drawn]):
    """Steps in any order, the ones that follow drawn in advance.

    Args:
        draw: Maps a step to what it needs; a pure function, called from one thread at a time.
        ahead: Steps that are drawn while others run; 0: no thread.
        last: The step after the last one that anybody will ask for.

    Attributes:
        seconds: Time that steps have waited for their data.
    """

    def __init__(self, draw: Callable[[int], Drawn], ahead: int, last: int) -> None:
        self.seconds = 0.0
        self._draw = draw
        self._ahead = ahead
        self._last = last
        self._pending: dict[int, Future[Drawn]] = {}
        self._thread = ThreadPoolExecutor(1, "feed") if ahead else None

    def take(self, step: int) -> Drawn:
        """Return what `draw` says of a step, or raise what it raised."""
        begun = time.perf_counter()
        try:
            if self._thread is None:
                return self._draw(step)
            wanted = range(step, max(step + 1, min(step + 1 + self._ahead, self._last)))
            for other in [known for known in self._pending if known not in wanted]:
                self._pending.pop(other).cancel()
            for next_step in wanted:
                if next_step not in self._pending:
                    self._pending[next_step] = self._thread.submit(self._draw, next_step)
            return self._pending.pop(step).result()
        finally:
            self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        """Draw no more, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
