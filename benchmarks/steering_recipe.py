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
    """ln L = five parameters + a bowl in ln lr and ln batch, whose bottom is linear in ln N, ln D.

    With u and v the distances from the bottom, the bowl is a s(u) + b s(v) + 2 r sqrt(a b) u v:
    a larger batch wants a larger rate, so the axes are correlated by r, and too large a rate
    costs more than too small a one, so the sides are uneven, s(u) = 2 (e^(k u) - 1 - k u) / k^2,
    which is u^2 at k = 0.

    Coordinates after Chinchilla's: for each axis ln curvature, bottom at the centre, how the
    bottom moves with ln N and ln D, and k; then r.
    """

    name: ClassVar[str] = "recipe"
    parameters: ClassVar[tuple[str, ...]] = (
        *CHINCHILLA.parameters,
        *("lr_bend", "lr", "lr_N", "lr_D", "lr_skew"),
        *("batch_bend", "batch", "batch_N", "batch_D", "batch_skew", "tilt"),
    )
    coordinates: ClassVar[tuple[str, ...]] = (
        *CHINCHILLA.coordinates,
        *("ln_lr_bend", "ln_lr", "lr_N", "lr_D", "lr_skew"),
        *("ln_batch_bend", "ln_batch", "batch_N", "batch_D", "batch_skew", "tilt"),
    )
    kinds: ClassVar[tuple[str, ...]] = (*CHINCHILLA.kinds, *("shape",) * 11)

    def _bowl(self, theta: FloatArray, points: Points) -> tuple[list[FloatArray], FloatArray]:
        """Return the bowl's derivatives in its eleven coordinates and its value, [..., R]."""
        assert isinstance(points, RecipePoints)
        x, z = points.log_params, points.log_tokens
        offs, sides, sizes = [], [], []
        for first, place in ((5, points.log_lr), (10, points.log_batch)):
            bend, at, of_x, of_z, skew = (theta[..., i : i + 1] for i in range(first, first + 5))
            offs.append(place - at - of_x * x - of_z * z)
            sides.append(_side(offs[-1], skew))
            sizes.append(np.exp(bend))
        tilt = theta[..., 15:16]
        cross = 2.0 * np.sqrt(sizes[0] * sizes[1])
        both = cross * offs[0] * offs[1]
        rows, total = [], tilt * both
        for number in (0, 1):
            value, slope, by_skew = sides[number]
            size, other = sizes[number], offs[1 - number]
            down = -size * slope - tilt * cross * other
            rows += [size * value + 0.5 * tilt * both, down, down * x, down * z, size * by_skew]
            total = total + size * value
        return [*rows, both], total

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        theta = np.asarray(theta, dtype=np.float64)
        return CHINCHILLA.log_loss(theta[..., :5], points) + self._bowl(theta, points)[1]

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        law = CHINCHILLA.derivatives(theta[..., :5], points)
        rows, total = self._bowl(theta, points)
        rows = [np.broadcast_to(row, law.value.shape) for row in rows]
        gradient = np.concatenate([law.gradient, np.stack(rows, axis=-2)], axis=-2)
        return Derivatives(law.value + total, gradient, lambda weights: no_curvature(weights, 16))

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(16)
        transform[:5, :5] = CHINCHILLA.centring(log_params, log_tokens)
        for first in (6, 11):
            transform[first, first + 1 : first + 3] = -log_params, -log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        low, high = CHINCHILLA.bounds(log_loss)
        return (
            np.concatenate(
                [low, [-8.0, -14.0, -2.0, -2.0, -1.5], [-8.0, 0.0, -2.0, -2.0, -1.5, -0.95]]
            ),
            np.concatenate([high, [-0.5, 0.0, 2.0, 2.0, 1.5], [-0.5, 14.0, 2.0, 2.0, 1.5, 0.95]]),
        )

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        five = CHINCHILLA.prior(points, log_loss, weak=weak)
        lr = [np.log(0.02), np.log(2e-3), -0.4, 0.1, 0.0]
        batch = [np.log(0.01), np.log(200.0), 0.0, 0.4, 0.0]
        spread = [0.7, 0.7, 0.3, 0.2, 0.4, 0.7, 0.8, 0.2, 0.25, 0.4, 0.4]
        return Prior(
            np.concatenate([five.mean, lr, batch, [0.0]]), np.concatenate([five.spread, spread])
        )

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        found = CHINCHILLA.starts(points, log_loss)
        rest = self.prior(points, log_loss).mean[5:]
        return np.concatenate([found, np.tile(rest, (len(found), 1))], axis=1)


_STEEPEST = 4.0
"""Of k u: beyond it a side goes on as a straight line would, or a far run would outweigh all."""


def _side(off: FloatArray, skew: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return s(u) with its derivatives in u and in k."""
    k = np.where(np.abs(skew) < 1e-3, 1e-3, skew)
    reach = k * off
    bent = np.clip(reach, -_STEEPEST, _STEEPEST)
    rise = np.expm1(bent)
    beyond = reach - bent
    value = 2.0 * (rise - bent + rise * beyond) / k**2
    slope = 2.0 * rise / k
    # k^2 s is a function of k u alone.
    return value, slope, (slope * off - 2.0 * value) / k
