"""The optimum of any law on a compute budget, by searching the whole line 6 N D = C."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.base import FloatArray, Points

if TYPE_CHECKING:
    from analysis.laws.base import Law

_REACH = 16.0
"""Half width of the search in ln N about N = D: seven decades to either side."""

_GRID = 129
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_STEP = 1e-3


def lowest_on_budget(
    law: "Law", theta: FloatArray, flops: ArrayLike, log_unique: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return ln N and ln D of the lowest loss on each budget; shapes as `Law.optimum`."""
    theta = np.asarray(theta, dtype=np.float64)
    work = np.log(np.asarray(flops, dtype=np.float64) / 6.0)
    shape = np.broadcast_shapes(theta.shape[:-1], work.shape)
    batch = np.broadcast_to(theta, (*shape, theta.shape[-1])).reshape(-1, theta.shape[-1])
    budget = np.broadcast_to(work, shape).reshape(-1, 1)

    def loss(log_params: FloatArray) -> FloatArray:
        tokens = budget - log_params
        unique = tokens if log_unique is None else np.minimum(log_unique, tokens)
        # Each law has its own points here, so theta and points share the leading axis.
        return law.log_loss(batch, Points(log_params, tokens, unique))

    grid = 0.5 * budget + np.linspace(-_REACH, _REACH, _GRID)
    centre = np.take_along_axis(grid, loss(grid).argmin(axis=1)[:, None], axis=1)
    width = 2.0 * _REACH / (_GRID - 1)
    low, high = centre - width, centre + width
    for _ in range(48):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        keep_left = loss(left) < loss(right)
        low, high = np.where(keep_left, low, left), np.where(keep_left, right, high)
    log_params = 0.5 * (low + high)
    if log_unique is not None:
        # Where the second epoch harms, one epoch exactly is a corner that no grid hits.
        corner = budget - log_unique
        log_params = np.where(loss(corner) < loss(log_params), corner, log_params)
    return log_params.reshape(shape), (budget - log_params).reshape(shape)


def budget_gradients(
    law: "Law", theta: FloatArray, flops: float, log_unique: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the gradients of ln N_opt and ln L_opt with respect to theta, each [P].

    By the implicit function theorem, with differences along the budget's line. At the optimum
    the loss does not move with N, so only theta's direct effect on it is left.
    """
    log_params, log_tokens = law.optimum(theta, flops, log_unique)
    steps = np.array([-_STEP, 0.0, _STEP])
    tokens = log_tokens - steps
    unique = tokens if log_unique is None else np.minimum(log_unique, tokens)
    there = Points(log_params + steps, tokens, unique)
    value = law.log_loss(theta, there)
    gradient = law.gradient(theta, there)
    bend = (value[0] - 2.0 * value[1] + value[2]) / _STEP**2
    cross = (gradient[2] - gradient[0]) / (2.0 * _STEP)
    return -cross / max(float(bend), 1e-12), gradient[1]
