"""How far a preparation is, and how long it will take."""

import time
from collections.abc import Callable

_EVERY = 0.5


class Meter:
    """Says where a preparation stands, twice a second at most.

    Args:
        say: Told the line that replaces the one before.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begun = self._said = time.monotonic()

    def tell(self, documents: int, text: int, fresh: int, done: int, size: int | None) -> None:
        """Say it, if it was not said just now.

        Args:
            documents: Documents so far.
            text: Bytes of their text.
            fresh: Bytes of the text that was tokenized in this attempt.
            done: Bytes of input read.
            size: Bytes of input in all, or None.
        """
        now = time.monotonic()
        if now - self._said < _EVERY:
            return
        self._said = now
        rate = fresh / (now - self._begun)
        line = f"{documents:,} documents, {text / 1e6:,.0f} MB of text, {rate / 1e6:,.1f} MB/s"
        if size and text and done and rate:
            left = (size - done) * text / done / rate
            line += f", {min(1.0, done / size):.0%}, {_duration(left)} left"
        self._say(line)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
