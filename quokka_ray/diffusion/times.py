"""How the noise level t of each row is drawn, where masks are not counted exactly.

A sampler spreads B numbers over [0, 1) for the whole batch of a step at once: the closer they lie
to an even spread, the smaller the variance of the loss. Rows take them in random order, so that
each row's number is uniform by itself. `TimeSampler` turns them into times, with the correction
that keeps the mean over rows an estimate of the integral over t.

Uniform numbers here are float64 [B], drawn from NumPy generators on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Spread = Callable[[np.random.Generator, int], np.ndarray]


def stratify(jitter: np.ndarray) -> np.ndarray:
    """Return ((i + jitter[i]) / B) for i in 0..B-1: one number in each B-th part of [0, 1)."""
    return (np.arange(len(jitter)) + jitter) / len(jitter)


def shift(offset: float, batch: int) -> np.ndarray:
    """Return ((offset + i / B) mod 1): a grid of B numbers under one common offset."""
    return (offset + np.arange(batch) / batch) % 1.0


def stratified(generator: np.random.Generator, batch: int) -> np.ndarray:
    """Draw one number in each part, independently: what MDLM's code calls antithetic."""
    return generator.permutation(stratify(generator.random(batch)))


def systematic(generator: np.random.Generator, batch: int) -> np.ndarray:
    """Draw one offset for the whole grid, as MD4 and GIDD do."""
    return generator.permutation(shift(generator.random(), batch))


def independent(generator: np.random.Generator, batch: int) -> np.ndarray:
    """Draw each number by itself, as SMDM and LLaDA do."""
    return generator.random(batch)


def antithetic(generator: np.random.Generator, batch: int) -> np.ndarray:
    """Draw pairs v, 1 - v in neighbouring rows, v stratified over the lower half. B is even."""
    pairs = batch // 2
    lower = generator.permutation(stratify(generator.random(pairs))) / 2
    lower = np.where(generator.random(pairs) < 0.5, lower, 1 - lower)
    return np.stack((lower, 1 - lower), axis=1).ravel()


SPREADS: dict[str, Spread] = {
    "antithetic": antithetic,
    "stratified": stratified,
    "systematic": systematic,
    "independent": independent,
    "importance": stratified,
}
"""Samplers by their name in a study file; `importance` stratifies what it then transforms."""


def rescale(values: np.ndarray, low: float, high: float = 1.0) -> np.ndarray:
    """Map [0, 1] to [low, high]."""
    return low + (high - low) * values


def log_uniform(values: np.ndarray, low: float, high: float = 1.0) -> np.ndarray:
    """Map [0, 1] to [low, high] so that uniform numbers get a density proportional to 1 / x."""
    return np.exp((1 - values) * math.log(low) + values * math.log(high))


@dataclass(frozen=True)
class Times:
    """The noise levels of one step.

    Attributes:
        values: float64 [B], t of each row.
        correction: float64 [B], the uniform density over that which t was drawn from; 1 where t
            is uniform. A row's loss times this averages to the integral over t.
    """

    values: np.ndarray
    correction: np.ndarray


@dataclass(frozen=True)
class MovingGaussian:
    """The paper's curriculum (section 5.2): a window over t that moves from clean to noisy.

    t follows a normal distribution truncated to [low, 1], whose centre is the share of the
    training that is done. The paper names neither its width nor whether the loss is corrected
    for the density; its loss curves, which rise as the window moves, suggest that it is not.

    Attributes:
        sigma: Width of the window.
        reweight: Divide by the window's density, so that the objective's mean stays the ELBO. The
            variance is large where the window hardly reaches.
    """

    sigma: float
    reweight: bool

    def __call__(self, values: np.ndarray, low: float, progress: float) -> Times:
        """Map uniform numbers [B] to times at `progress` in [0, 1] of the training."""
        centre = min(max(progress, 0.0), 1.0)
        # SciPy takes a third as long to import as torch, and other times do without.
        from scipy.special import ndtr, ndtri

        first, last = ndtr((low - centre) / self.sigma), ndtr((1 - centre) / self.sigma)
        times = centre + self.sigma * ndtri(first + (last - first) * values)
        times = np.clip(times, low, 1.0)
        if not self.reweight:
            return Times(times, np.ones_like(times))
        scaled = (times - centre) / self.sigma
        density = np.exp(-0.5 * scaled**2) / (math.sqrt(2 * math.pi) * self.sigma)
        return Times(times, (last - first) / density / (1 - low))


@dataclass(frozen=True)
class TimeSampler:
    """Draws the times of a step for the whole batch.

    Attributes:
        name: A key of `SPREADS`.
        low: The smallest t. Times are uniform on [low, 1]; what is cut off biases the loss by a
            share of about `low`, unless the model's loss is the same at every noise level.
        high: The largest t.
        curriculum: Moves the times during training, if given.
    """

    name: str
    low: float = 1e-3
    high: float = 1.0
    curriculum: MovingGaussian | None = None

    def draw(self, generator: np.random.Generator, batch: int, progress: float) -> Times:
        """Draw the times of `batch` rows at `progress` in [0, 1] of the training."""
        return self.place(SPREADS[self.name](generator, batch), progress)

    def place(self, values: np.ndarray, progress: float) -> Times:
        """Return the times of uniform numbers [B] at `progress` of the training."""
        if self.curriculum is not None:
            return self.curriculum(values, self.low, progress)
        if self.name == "importance":
            times = log_uniform(values, self.low, self.high)
            share = math.log(self.high / self.low) / (self.high - self.low)
            return Times(times, times * share)
        return Times(rescale(values, self.low, self.high), np.ones_like(values))
