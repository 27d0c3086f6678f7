"""Differences of independent estimates, from the intervals of each."""

import numpy as np

from analysis.uncertainty import Estimate

NORMAL_QUANTILE = 1.6448536269514722
"""Of 0.95: a 90 % interval reaches this many standard errors to either side."""


def log_difference(second: Estimate, first: Estimate) -> Estimate:
    """Return ln(second / first), with the interval of two estimates that err independently.

    The arms of the two intervals add in quadrature, each arm with the one that moves the
    difference the same way.
    """
    a, b = (
        [float(np.log(max(getattr(e, k), 1e-300))) for k in ("low", "value", "high")]
        for e in (first, second)
    )
    value = b[1] - a[1]
    below = np.hypot(b[1] - b[0], a[2] - a[1])
    above = np.hypot(b[2] - b[1], a[1] - a[0])
    return Estimate(value, value - float(below), value + float(above))


def differs(difference: Estimate) -> bool:
    """Whether the interval of a difference leaves out zero."""
    return difference.low > 0 or difference.high < 0


def as_ratio(difference: Estimate) -> Estimate:
    """Return the ratio that a difference of logarithms is."""
    return Estimate(*(float(np.exp(v)) for v in difference.as_dict().values()))
