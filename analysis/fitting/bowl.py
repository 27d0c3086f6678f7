"""Least squares of bowls that move as power laws do: the algebra of `analysis.fitting.hyper`.

Arrays: V recipe coordinates (ln lr, ln batch), F features, B resamples, K cells. A law is its row
(level, exponent of N, exponent of D); `form` [V, 3] says which entries a law has.
"""

from typing import Any

import numpy as np

from analysis.fitting.cells import Cells
from analysis.laws.base import FloatArray

_STEPS = 25
_HUBER = 1.345


def cell_moments(
    grid: Cells, basis: FloatArray, depth: float, form: np.ndarray
) -> tuple[FloatArray, FloatArray, float]:
    """Return each cell's weighted moments [K, F, F] and [K, F], and the scatter.

    Features are each recipe coordinate times (1, x, z), then the quadratic ones. Cells' own
    levels are taken out by centring; outliers are cut by Huber's weights.
    """
    size = len(grid.names)
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    linear = (grid.recipe[:, None, :] * basis[grid.cell].T[None]).reshape(3 * size, -1)
    square = np.stack(
        [grid.recipe[i] * grid.recipe[j] * (0.5 if i == j else 1.0) for i, j in pairs]
    )
    features = np.concatenate([linear, square]).T
    count = len(basis)
    weights = np.exp(-grid.excess / depth)
    near = weights > 0.1
    weights = weights / np.bincount(grid.cell, weights, count)[grid.cell]
    robust = np.ones_like(weights)
    sigma = 0.0
    for _ in range(20):
        w = weights * robust
        mass = np.bincount(grid.cell, w, count)
        mean = np.zeros((count, features.shape[1]))
        np.add.at(mean, grid.cell, w[:, None] * features)
        off = features - (mean / mass[:, None])[grid.cell]
        target = (
            grid.log_loss - (np.bincount(grid.cell, w * grid.log_loss, count) / mass)[grid.cell]
        )
        gram, moment = np.zeros((count, off.shape[1], off.shape[1])), np.zeros(mean.shape)
        for k in range(count):
            rows = grid.cell == k
            weighted = off[rows] * w[rows, None]
            gram[k], moment[k] = weighted.T @ off[rows], weighted.T @ target[rows]
        laws, curvature = solve_laws(gram.sum(axis=0)[None], moment.sum(axis=0)[None], form)
        residual = target - off @ _linear(laws, curvature)[0]
        previous, sigma = sigma, 1.4826 * float(np.median(np.abs(residual[near])))
        robust = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(residual), 1e-12))
        if abs(sigma - previous) <= 1e-4 * sigma:
            break
    return gram, moment, sigma


def _linear(laws: FloatArray, curvature: FloatArray) -> FloatArray:
    """Return the coefficients of the features, [B, F], of laws [B, V, 3] and H [B, V, V]."""
    size = laws.shape[1]
    slopes = -np.matmul(curvature, laws).reshape(len(laws), -1)
    upper = np.triu_indices(size)
    return np.concatenate([slopes, curvature[:, upper[0], upper[1]]], axis=1)


def solve_laws(
    gram: FloatArray, moment: FloatArray, form: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Return laws [B, V, 3] and H [B, V, V] at the lowest weighted square error."""
    size = form.shape[0]
    upper = np.triu_indices(size)
    quadratic = np.arange(3 * size, gram.shape[1])
    used = np.concatenate([np.flatnonzero(np.tile(form.any(axis=0), size)), quadratic])
    free = np.zeros(moment.shape)
    free[:, used] = _stable(gram[:, used[:, None], used], moment[:, used])
    curvature: FloatArray = np.empty((len(gram), size, size))
    curvature[:, upper[0], upper[1]] = free[:, quadratic]
    curvature[:, upper[1], upper[0]] = free[:, quadratic]
    slopes = free[:, : 3 * size].reshape(-1, size, 3)
    laws = _solved(curvature + 1e-12 * np.eye(size), -slopes)
    if bool((form | ~form.any(axis=0)).all()):
        return laws, curvature
    laws = np.where(form, laws, 0.0)
    entries = np.argwhere(form)
    for _ in range(_STEPS):
        # d(coefficients) / d(each exponent in the form, each entry of H).
        jacobian = np.zeros((len(gram), gram.shape[1], len(entries) + len(quadratic)))
        for column, (which, term) in enumerate(entries):
            jacobian[:, term : 3 * size : 3, column] = -curvature[:, :, which]
        for column, (i, j) in enumerate(zip(*upper, strict=True), start=len(entries)):
            jacobian[:, 3 * i : 3 * i + 3, column] -= laws[:, j]
            if i != j:
                jacobian[:, 3 * j : 3 * j + 3, column] -= laws[:, i]
            jacobian[:, 3 * size + column - len(entries), column] = 1.0
        left = moment - np.einsum("bij,bj->bi", gram, _linear(laws, curvature))
        turned = jacobian.swapaxes(1, 2)
        step = _stable(turned @ gram @ jacobian, np.einsum("bpf,bf->bp", turned, left))
        laws[:, entries[:, 0], entries[:, 1]] += step[:, : len(entries)]
        curvature[:, upper[0], upper[1]] += step[:, len(entries) :]
        curvature[:, upper[1], upper[0]] = curvature[:, upper[0], upper[1]]
        if np.nanmax(np.abs(step)) < 1e-10:
            break
    return laws, curvature


def _stable(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    """Solve a stack of positive semidefinite systems, columns scaled to the same size."""
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(matrix, axis1=1, axis2=2), 1e-300))
    unit = matrix * scale[:, :, None] * scale[:, None, :] + 1e-12 * np.eye(matrix.shape[1])
    return _solved(unit, (vector * scale)[..., None])[..., 0] * scale


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    solution: Any = np.linalg.solve(matrix, right)
    return np.asarray(solution, dtype=np.float64)
