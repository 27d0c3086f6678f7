"""Estimates with intervals, and how intervals are made."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

LEVEL = 0.90
"""Nominal coverage of every interval of this package."""

_NORMAL_QUANTILE = 1.6448536269514722
"""Of (1 + LEVEL) / 2."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @property
    def relative_width(self) -> float:
        """Half the interval's width in the logarithm; infinite where it reaches 0."""
        if self.low <= 0:
            return float("inf")
        return 0.5 * float(np.log(self.high / self.low))


@dataclass(frozen=True)
class Prediction:
    """The loss at several points, each field of shape [R]."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    extrapolation_decades: FloatArray
    """By how many powers of ten N, D, 6 N D or U leave the ranges seen, the largest of them."""


@dataclass(frozen=True)
class Allocation:
    """How to spend a compute budget."""

    flops: float
    params: Estimate
    tokens: Estimate
    loss: Estimate
    extrapolation_decades: float
    """How far the budget lies above the largest run, in powers of ten; 0 within the runs."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {
            "flops": self.flops,
            "params": self.params.as_dict(),
            "tokens": self.tokens.as_dict(),
            "loss": self.loss.as_dict(),
            "extrapolation_decades": self.extrapolation_decades,
        }


def interval_scores(
    observed: FloatArray, value: FloatArray, low: FloatArray, high: FloatArray
) -> dict[str, float]:
    """Return how predictions with intervals of `LEVEL` did, all in log loss, arrays [R].

    Returns:
        `rmse`; `coverage`; `half_width`, the median; `interval_score`, the mean width plus
        2 / (1 - LEVEL) times the distance outside (Gneiting and Raftery 2007, equation 43).
    """
    outside = np.maximum(low - observed, 0.0) + np.maximum(observed - high, 0.0)
    return {
        "rmse": float(np.sqrt(np.mean((observed - value) ** 2))),
        "coverage": float((outside == 0.0).mean()),
        "half_width": float(np.median(high - low) / 2.0),
        "interval_score": float((high - low + 2.0 / (1.0 - LEVEL) * outside).mean()),
    }


def combined_interval(
    value: FloatArray,
    samples: FloatArray | None,
    laplace_variance: FloatArray,
    extra_variance: FloatArray | float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Return the interval's ends about `value`, [...].

    The bootstrap gives the shape. Where the curvature of the fit says that the truth is less
    certain than the resamples do (few runs: a resample cannot show what no run saw), the
    bootstrap's quantiles are stretched to that spread. Noise that a new run would have adds in
    quadrature.

    Args:
        value: the estimates, [...].
        samples: of the bootstrap, [B, ...]; without any, the interval is a normal one.
        laplace_variance: from the curvature of the fit, [...].
        extra_variance: variance to add, such as the noise of one run, [...] or one for all.
    """
    wanted = np.sqrt(np.maximum(laplace_variance, 0.0))
    if samples is None or not len(samples):
        half = _NORMAL_QUANTILE * np.sqrt(wanted**2 + extra_variance)
        return value - half, value + half
    spread = samples.std(axis=0)
    stretch = np.maximum(1.0, wanted / np.maximum(spread, 1e-300))
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(samples, [tail, 100.0 - tail], axis=0)
    below = np.maximum(value - low, 0.0) * stretch
    above = np.maximum(high - value, 0.0) * stretch
    # Where the resamples all but agree, their quantiles are no shape to stretch.
    flat = spread < 0.05 * wanted
    below = np.where(flat, _NORMAL_QUANTILE * wanted, below)
    above = np.where(flat, _NORMAL_QUANTILE * wanted, above)
    noise = _NORMAL_QUANTILE**2 * extra_variance
    return value - np.sqrt(below**2 + noise), value + np.sqrt(above**2 + noise)
