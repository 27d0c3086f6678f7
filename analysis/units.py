"""Quantities with units, as people write them: `1e18`, `300M`, `20B`, `1.5k`."""

import math
import re

_SUFFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "P": 1e15}
_SHOWN_AS_FACTOR = 0.25
"""Half widths in the logarithm from which on a factor says more than a percentage."""

_PATTERN = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKMBGTP]?)\s*$")


def parse_quantity(text: str | float) -> float:
    """Return the number that `text` stands for: `"300M"` is 3e8, `"1e18"` is 1e18.

    Raises:
        ValueError: `text` is no finite number with an optional suffix k, M, B (or G), T, P.
    """
    if isinstance(text, bool):
        raise ValueError(f"{text!r} is not a quantity; write a number such as 300M or 1e18")
    if isinstance(text, (int, float)):
        value = float(text)
    else:
        match = _PATTERN.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not a quantity; write a number such as 300M or 1e18")
        value = float(match.group(1).replace("_", "")) * _SUFFIXES[match.group(2)]
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite quantity")
    return value


def format_quantity(value: float, digits: int = 3) -> str:
    """Return `value` with a suffix, to `digits` significant digits: 3.1e8 is `310M`.

    Values beyond a thousand trillion, or under a hundredth, are shown as powers of ten: `1e+21`.
    """
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if value == 0:
        return "0"
    if magnitude >= 1e15 or magnitude < 1e-2:
        return f"{value:.{digits}g}"
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        # Compare after rounding, so that 999,950 reads 1M rather than 1e+03k.
        if float(f"{magnitude:.{digits}g}") >= scale:
            scaled = float(f"{value / scale:.{digits}g}")
            return f"{scaled:g}{suffix}"
    return f"{value:.{digits}g}"


def format_flops(value: float, digits: int = 3) -> str:
    """Return FLOPs to `digits` significant digits as study files write them: `4.2e11`.

    All amounts have one form, so that they compare at a glance.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def format_half_width(half_width: float) -> str:
    """Return a half width in the logarithm as people say it: `±5.1 %`, `a factor of 2.2`."""
    if half_width < _SHOWN_AS_FACTOR:
        return f"±{100.0 * math.expm1(half_width):.2g} %"
    return f"a factor of {math.exp(min(half_width, 700.0)):.2g}"
