"""The best epochs and the best size for given unique tokens, for many thetas of one law at once.

The loss of repeated data need not have one minimum: where a law says that the second epoch harms
before later ones help, one epoch is a minimum of its own. So each search scans the whole range
first and polishes the lowest minimum that it sees.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from analysis.laws.base import FloatArray, Points

if TYPE_CHECKING:
    from analysis.laws.base import Law

MOST_EPOCHS = 1e8
"""A law that still gains from more epochs than this names no best number of them."""

LARGEST_PARAMS = 1e17
"""A law that still gains from a larger model names no best size."""

NEARLY = 1e-3
"""Share of the loss by which epochs may miss the best and still count as enough."""

_FEWEST_MORE = 1e-3
_SMALLEST_PARAMS = 1e3
_SCAN = 257
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_FLAT = 1e-9
_CELLS = (33, 37)
_REACH = 2
_SHRINK = 0.6
_ZOOMS = 30
_CHUNK = 128


class EpochsFound(NamedTuple):
    """Where the loss is lowest in epochs, for B thetas, each [B]."""

    log_epochs: FloatArray
    """ln e of the interior minimum; NaN where there is none."""
    interior: FloatArray
    """ln L there; infinite where there is none."""
    at_one: FloatArray
    """ln L of one epoch."""
    endless: np.ndarray
    """Whether the loss falls with epochs without end."""
    log_enough: FloatArray
    """ln of the fewest e whose loss is within `NEARLY` of the lowest at any e."""


def best_epochs(
    law: "Law", theta: FloatArray, log_params: FloatArray, log_unique: float
) -> EpochsFound:
    """Search all e >= 1 for fixed N and U.

    Args:
        law: the law.
        theta: [B, P].
        log_params: ln N, [B] or a scalar.
        log_unique: ln U.
    """
    x = np.broadcast_to(np.asarray(log_params, dtype=np.float64), theta.shape[:1])[:, None]

    def loss(log_more: FloatArray) -> FloatArray:
        log_epochs = np.log1p(np.exp(log_more))
        full = np.broadcast_to(x, log_epochs.shape)
        unique = np.full_like(log_epochs, log_unique)
        return law.log_loss(theta, Points(full, log_unique + log_epochs, unique))

    grid = np.linspace(np.log(_FEWEST_MORE), np.log(MOST_EPOCHS), _SCAN)
    value = loss(np.broadcast_to(grid, (len(theta), _SCAN)))
    inner = value[:, 1:-1]
    dip = (inner < value[:, :-2]) & (inner <= value[:, 2:])
    # A plateau to the right is no minimum, whatever rounding makes of it.
    dip &= inner < value[:, -1:] - _FLAT
    lowest = np.where(dip, inner, np.inf).argmin(axis=1)
    found = dip.any(axis=1)
    step = grid[1] - grid[0]
    centre = grid[1:-1][lowest][:, None]
    best = golden(loss, centre - step, centre + step)
    at_best = np.where(found, loss(best)[:, 0], np.inf)
    one = np.full_like(x, log_unique)
    at_one = law.log_loss(theta, Points(x, one, one))[:, 0]
    endless = value[:, -1] <= np.minimum(value.min(axis=1), at_one) + _FLAT
    log_epochs = np.where(found, np.log1p(np.exp(best[:, 0])), np.nan)
    lowest_loss = np.minimum(np.minimum(at_best, at_one), value.min(axis=1))
    allowed = (lowest_loss + NEARLY)[:, None]
    first = (value <= allowed).argmax(axis=1)
    low, high = grid[np.maximum(first - 1, 0)][:, None], grid[first][:, None]
    for _ in range(30):
        middle = 0.5 * (low + high)
        reached = loss(middle) <= allowed
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    enough = np.where(at_one <= allowed[:, 0], 0.0, np.log1p(np.exp(high[:, 0])))
    return EpochsFound(log_epochs, at_best, at_one, endless & ~found, enough)


def golden(
    loss: Callable[[FloatArray], FloatArray],
    low: FloatArray,
    high: FloatArray,
    iterations: int = 42,
) -> FloatArray:
    """Return where `loss`, of arrays [B, 1], is lowest between `low` and `high`."""
    low, high = np.array(low), np.array(high)
    for _ in range(iterations):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        keep = loss(left) < loss(right)
        low, high = np.where(keep, low, left), np.where(keep, right, high)
    return 0.5 * (low + high)


class SizeFound(NamedTuple):
    """The best size and epochs with compute unlimited, for B thetas, each [B]."""

    log_params: FloatArray
    log_epochs: FloatArray
    log_loss: FloatArray
    endless: np.ndarray
    """Whether the loss falls without end with size, with epochs, or with both."""


def best_size_and_epochs(law: "Law", theta: FloatArray, log_unique: float) -> SizeFound:
    """Search all N and e > 1 for fixed U, and compare with one epoch of an endless model."""
    parts = [
        _joint(law, theta[first : first + _CHUNK], log_unique)
        for first in range(0, len(theta), _CHUNK)
    ]
    return SizeFound(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _joint(law: "Law", theta: FloatArray, log_unique: float) -> SizeFound:
    sizes = np.linspace(np.log(_SMALLEST_PARAMS), np.log(LARGEST_PARAMS), _CELLS[0])
    more = np.linspace(np.log(_FEWEST_MORE), np.log(MOST_EPOCHS), _CELLS[1])

    def loss(x: FloatArray, q: FloatArray) -> FloatArray:
        tokens = log_unique + np.log1p(np.exp(q))
        return law.log_loss(theta, Points(x, tokens, np.full_like(tokens, log_unique)))

    batch = len(theta)
    grid_x, grid_q = (g.ravel() for g in np.meshgrid(sizes, more, indexing="ij"))
    value = loss(np.tile(grid_x, (batch, 1)), np.tile(grid_q, (batch, 1)))
    start = value.argmin(axis=1)
    x, q = grid_x[start][:, None], grid_q[start][:, None]
    edge = (x[:, 0] >= sizes[-1]) | (q[:, 0] >= more[-1])
    # A finer and finer square about the best cell; a valley that leaves it is followed.
    offsets = np.linspace(-1.0, 1.0, 2 * _REACH + 1)
    off_x, off_q = (g.ravel() for g in np.meshgrid(offsets, offsets, indexing="ij"))
    width_x, width_q = 1.5 * (sizes[1] - sizes[0]), 1.5 * (more[1] - more[0])
    for _ in range(_ZOOMS):
        trial_x, trial_q = x + width_x * off_x, q + width_q * off_q
        best = loss(trial_x, trial_q).argmin(axis=1)[:, None]
        x = np.take_along_axis(trial_x, best, axis=1)
        q = np.take_along_axis(trial_q, best, axis=1)
        width_x, width_q = _SHRINK * width_x, _SHRINK * width_q
    lowest = loss(x, q)[:, 0]
    one = np.full((batch, 1), log_unique)
    largest = np.full((batch, 1), np.log(LARGEST_PARAMS))
    endless = law.log_loss(theta, Points(largest, one, one))[:, 0] < lowest
    plateau = loss(largest, np.full((batch, 1), more[-1]))[:, 0] <= lowest + _FLAT
    return SizeFound(x[:, 0], np.log1p(np.exp(q[:, 0])), lowest, edge | endless | plateau)
