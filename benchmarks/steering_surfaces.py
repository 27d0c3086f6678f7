"""Simulated truths, the runs that may be bought of them, and how an answer is judged.

Costs are in units of the largest run that is allowed, the smallest is a thousandth of it, tokens
per parameter run from 1 to 500; what is wanted is the optimum at a thousand times the largest
run. Every way (`steering_ways.py`, `steering_grids.py`) is judged by the errors of ln N_opt and
ln L_opt there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from analysis.laws.base import FloatArray, Points
from analysis.steering.belief import Belief
from analysis.steering.choosing import Market
from analysis.steering.forms import five_parameters
from analysis.steering.goals import Optimum
from analysis.steering.places import Trajectories

LARGEST = 1e20
SMALLEST = 1e-3
TARGET = 1e3 * LARGEST
RATIOS = (1.0, 500.0)
NOISE = 0.004
E, A, B, ALPHA, BETA = 1.81721810, 477.825868, 2143.41736, 0.347310499, 0.367172433
"""The optimum of the Epoch table (Besiroglu et al. 2024, refitted)."""

MIDDLE = (float(np.log(1.5e8)), float(np.log(4e9)))
"""Of the runs that are allowed: ln N and ln D."""

TOLERANCES = (0.1, 0.01)

Surface = Callable[[FloatArray, FloatArray], FloatArray]


def chinchilla(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the five-parameter law."""
    return np.log(E + A * np.exp(-ALPHA * x) + B * np.exp(-BETA * z))


def coupled(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with the two shortages joined at kappa .6."""
    u, v = (np.log(A) - ALPHA * x) / 0.6, (np.log(B) - BETA * z) / 0.6
    return np.logaddexp(np.log(E), 0.6 * np.logaddexp(u, v))


def hoffmann(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the published law of Hoffmann et al. 2022."""
    return np.log(1.69 + 406.4 * np.exp(-0.34 * x) + 410.7 * np.exp(-0.28 * z))


def quokka(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L of the published law of masked diffusion (Quokka's equation 13)."""
    return np.log(2.41294 + 798.693 * np.exp(-0.37928 * x) + 4605.18 * np.exp(-0.37792 * z))


def offsets(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with small models worse by 3 % at the middle, 24 % at most."""
    return chinchilla(x, z) + 0.03 / (np.exp(0.7 * (x - MIDDLE[0])) + 0.125)


def power_offsets(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with small models worse by N^-.4, close to the law's own exponent."""
    return chinchilla(x, z) + 0.03 * np.exp(-0.4 * (x - MIDDLE[0]))


def own_drift(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with exponents that fall by .005 for each e-fold along their own axis."""
    alpha = ALPHA - 0.005 * (x - MIDDLE[0])
    beta = BETA - 0.005 * (z - MIDDLE[1])
    a, b = np.log(A) - ALPHA * MIDDLE[0], np.log(B) - BETA * MIDDLE[1]
    u, v = a - alpha * (x - MIDDLE[0]), b - beta * (z - MIDDLE[1])
    return np.log(E + np.exp(u) + np.exp(v))


def drifting(x: FloatArray, z: FloatArray) -> FloatArray:
    """Return ln L with an exponent of D that rises by .015 for each e-fold of N."""
    beta = BETA + 0.015 * (x - MIDDLE[0])
    scale = B * np.exp(-BETA * MIDDLE[1])
    return np.log(E + A * np.exp(-ALPHA * x) + scale * np.exp(-beta * (z - MIDDLE[1])))


@dataclass(frozen=True)
class Truth:
    """A surface and how runs scatter about it.

    Attributes:
        surface: ln L of ln N and ln D.
        outliers: share of runs that are off by an exponential error of 8 %, mostly upwards.
        growth: by how much ln sigma rises for each e-fold of compute below the largest run.
        noise: scatter of ln L of the largest run.
    """

    surface: Surface
    outliers: float = 0.0
    growth: float = 0.0
    noise: float = NOISE

    def buy(self, points: Points, rng: np.random.Generator) -> FloatArray:
        """Return noisy ln L."""
        x, z = points.log_params, points.log_tokens
        below = np.log(LARGEST / 6.0) - x - z
        noise = self.noise * np.exp(self.growth * below) * rng.standard_normal(x.shape)
        hit = rng.random(x.shape) < self.outliers
        sign = np.where(rng.random(x.shape) < 0.8, 1.0, -1.0)
        return self.surface(x, z) + noise + hit * sign * rng.exponential(0.08, x.shape)

    @cached_property
    def optimum(self) -> FloatArray:
        """ln N and ln L of the best run at the target."""
        work = np.log(TARGET / 6.0)
        x = np.linspace(0.3 * work, 0.7 * work, 50001)
        loss = self.surface(x, work - x)
        best = int(loss.argmin())
        return np.array([x[best], loss[best]])


TRUTHS = {
    "chinchilla": Truth(chinchilla),
    "coupled": Truth(coupled),
    "small-scale offsets": Truth(offsets),
    "drifting exponent": Truth(drifting),
    "5 % outliers": Truth(chinchilla, outliers=0.05),
    "growing noise": Truth(chinchilla, growth=0.15),
    "hoffmann": Truth(hoffmann, noise=0.006),
    "quokka": Truth(quokka),
    "offsets as N^-.4": Truth(power_offsets),
    "drift on its own axis": Truth(own_drift),
}
"""The last four were never used to choose anything in `analysis.steering`; the last two are known
to deceive it (docs/log.md)."""


def menu() -> Trajectories:
    """Return the runs that are allowed."""
    work, ratio = np.meshgrid(
        LARGEST * np.geomspace(SMALLEST, 1.0, 13), np.geomspace(*RATIOS, 14), indexing="ij"
    )
    params = np.sqrt(work / 6.0 / ratio).ravel()
    return Trajectories.of(params, params * ratio.ravel(), work.ravel() / LARGEST)


@cache
def market(forms: str = "standard") -> Market:
    """Return what can be bought, under the standard forms or five parameters alone."""
    chosen = five_parameters() if forms == "five" else None
    return Market.of(menu(), Optimum(TARGET, *TOLERANCES), chosen)


def judged(truth: Truth, belief: Belief, forms: str) -> dict[str, float]:
    """Return errors, coverage and half widths at the target."""
    there = market(forms)
    found = belief.interval(there.goal, there.goal_phi)
    best = truth.optimum
    inside = (found[1] <= best) & (best <= found[2])
    half = 0.5 * (found[2] - found[1])
    return {
        "ln_params": abs(float(found[0, 0] - best[0])),
        "ln_loss": abs(float(found[0, 1] - best[1])),
        "params_inside": float(inside[0]),
        "loss_inside": float(inside[1]),
        "params_width": float(half[0]),
        "loss_width": float(half[1]),
        "simplest": float(belief.shares[0]),
    }
