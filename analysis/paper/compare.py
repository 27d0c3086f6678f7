"""Comparing a recomputed number with a printed one, as far as the printed digits go."""

import re
from dataclasses import dataclass

from analysis.units import parse_quantity

_DIGITS = re.compile(r"^(\d+)(?:\.(\d+))?(?:e[+-]?\d+)?([kKMBGTP]?)$")


@dataclass(frozen=True)
class Cell:
    """A printed number beside its recomputation.

    Attributes:
        printed: the text.
        recomputed: the number.
        tolerance: relative difference that is expected beyond the printed digits.
    """

    printed: str
    recomputed: float
    tolerance: float = 0.0

    @property
    def difference(self) -> float:
        """Recomputed over printed, less 1."""
        return self.recomputed / parse_quantity(self.printed) - 1.0

    @property
    def allowed(self) -> float:
        """The tolerance, and half a unit of the last printed digit relative to the number."""
        return self.tolerance + half_digit(self.printed)

    @property
    def agrees(self) -> bool:
        """Whether the difference is no more than allowed."""
        return abs(self.difference) <= self.allowed


def half_digit(text: str) -> float:
    """Return half a unit of the last digit of `text`, relative to its value.

    Raises:
        ValueError: `text` is no printed number such as `39.3B`, `9.46e19` or `0.514`.
    """
    match = _DIGITS.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a printed number")
    whole, fraction, _ = match.groups(default="")
    return 0.5 / float(whole + fraction)
