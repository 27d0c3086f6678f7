"""A law of N, D, learning rate and batch size, for ScaleBench's grids of recipes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from analysis.laws.base import Derivatives, FloatArray, Law, Points, Prior, no_curvature
from analysis.laws.chinchilla import CHINCHILLA


@dataclass(frozen=True)
class RecipePoints(Points):
    """Points with ln lr and ln batch, each [R]."""

    log_lr: FloatArray | None = None
    log_batch: FloatArray | None = None

    def shifted(self, log_params: float, log_tokens: float) -> "RecipePoints":
        """Return the points about a centre; the recipe stays as it is."""
        return RecipePoints(
            self.log_params - log_params,
            self.log_tokens - log_tokens,
            None,
            self.log_lr,
            self.log_batch,
        )


class RecipeLaw(Law):
    """ln L = five parameters + two bowls, about ln lr and ln batch that are linear in ln N, ln D.

    Coordinates after Chinchilla's: the logarithm of each bowl's curvature, its bottom at the
    centre, and how the bottom moves with ln N and ln D.
    """

    name: ClassVar[str] = "recipe"
    parameters: ClassVar[tuple[str, ...]] = (
        *CHINCHILLA.parameters,
        *("lr_bend", "lr", "lr_N", "lr_D", "batch_bend", "batch", "batch_N", "batch_D"),
    )
    coordinates: ClassVar[tuple[str, ...]] = (
        *CHINCHILLA.coordinates,
        *("ln_lr_bend", "ln_lr", "lr_N", "lr_D"),
        *("ln_batch_bend", "ln_batch", "batch_N", "batch_D"),
    )
    kinds: ClassVar[tuple[str, ...]] = (*CHINCHILLA.kinds, *("shape",) * 8)

    def _bowls(self, theta: FloatArray, points: Points) -> tuple[list[FloatArray], FloatArray]:
        assert isinstance(points, RecipePoints)
        x, z = points.log_params, points.log_tokens
        rows, total = [], np.zeros((*theta.shape[:-1], x.size))
        for first, place in ((5, points.log_lr), (9, points.log_batch)):
            bend, at, of_x, of_z = (theta[..., i : i + 1] for i in range(first, first + 4))
            off = place - at - of_x * x - of_z * z
            size = np.exp(bend)
            total = total + size * off**2
            rows += [
                size * off**2,
                -2.0 * size * off,
                -2.0 * size * off * x,
                -2.0 * size * off * z,
            ]
        return rows, total

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        theta = np.asarray(theta, dtype=np.float64)
        return CHINCHILLA.log_loss(theta[..., :5], points) + self._bowls(theta, points)[1]

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        law = CHINCHILLA.derivatives(theta[..., :5], points)
        rows, total = self._bowls(theta, points)
        gradient = np.concatenate([law.gradient, np.stack(rows, axis=-2)], axis=-2)
        return Derivatives(law.value + total, gradient, lambda weights: no_curvature(weights, 13))

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(13)
        transform[:5, :5] = CHINCHILLA.centring(log_params, log_tokens)
        for first in (6, 10):
            transform[first, first + 1 : first + 3] = -log_params, -log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = CHINCHILLA.bounds(log_loss)
        return (
            np.concatenate([low, [-8.0, -14.0, -2.0, -2.0, -8.0, 0.0, -2.0, -2.0]]),
            np.concatenate([high, [-0.5, 0.0, 2.0, 2.0, -0.5, 14.0, 2.0, 2.0]]),
        )

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        five = CHINCHILLA.prior(points, log_loss, weak=weak)
        mean = [np.log(0.02), np.log(2e-3), -0.4, 0.1, np.log(0.01), np.log(200.0), 0.0, 0.4]
        spread = [0.7, 0.7, 0.3, 0.2, 0.7, 0.8, 0.2, 0.25]
        return Prior(np.concatenate([five.mean, mean]), np.concatenate([five.spread, spread]))

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        found = CHINCHILLA.starts(points, log_loss)
        rest = self.prior(points, log_loss).mean[5:]
        return np.concatenate([found, np.tile(rest, (len(found), 1))], axis=1)
