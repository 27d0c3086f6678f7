"""Variable projection: the global search that starts the fit of a separable law.

Given the exponents, L = E + A N^-alpha + B D^-beta is linear in (E, A, B), so the whole space is
searched by a grid over (alpha, beta) with a nonnegative least-squares problem in each cell. Its
moments are sums over rows, so those of a thousand resamples are matrix products.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EXPONENTS = np.geomspace(0.04, 1.6, 26)
BETWEEN = np.sqrt(EXPONENTS[1:] * EXPONENTS[:-1])
"""The corners between the cells of the first grid: both together are one of twice its density."""

MAX_STARTS = 8


def nonnegative_by_faces(gram: FloatArray, moment: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Solve min_c c^T G c - 2 m^T c over c >= 0 for a stack of small problems.

    With three unknowns there are seven sets of those that are not zero. The answer is the best
    of the seven unconstrained solutions that is nonnegative; each has a closed form.

    Args:
        gram: G, [..., 3, 3], with a unit diagonal.
        moment: m, [..., 3].

    Returns:
        The solutions [..., 3] and their values [...].
    """
    # A trace of ridge keeps cells of nearly parallel bases solvable.
    d = 1.0 + 1e-12
    m = [moment[..., i] for i in range(3)]
    best = np.zeros(moment.shape)
    value = np.zeros(moment.shape[:-1])

    def offer(index: list[int], solution: list[FloatArray]) -> None:
        reached = np.zeros(value.shape)
        for i, c in zip(index, solution, strict=True):
            reached -= c * m[i]
        better = np.logical_and.reduce([c >= 0 for c in solution]) & (reached < value)
        value[better] = reached[better]
        best[better] = 0.0
        for i, c in zip(index, solution, strict=True):
            best[..., i][better] = c[better]

    for i in range(3):
        offer([i], [m[i] / d])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        g = gram[..., i, j]
        det = d * d - g * g
        offer([i, j], [(d * m[i] - g * m[j]) / det, (d * m[j] - g * m[i]) / det])
    a, b, c = gram[..., 0, 1], gram[..., 0, 2], gram[..., 1, 2]
    ab, ac, bc = a * b - c * d, a * c - b * d, b * c - a * d
    det = d * (d * d - c * c) + a * bc + b * ac
    det = np.where(np.abs(det) < 1e-300, np.inf, det)
    offer(
        [0, 1, 2],
        [
            ((d * d - c * c) * m[0] + bc * m[1] + ac * m[2]) / det,
            (bc * m[0] + (d * d - b * b) * m[1] + ab * m[2]) / det,
            (ac * m[0] + ab * m[1] + (d * d - a * a) * m[2]) / det,
        ],
    )
    return best, value


def separable_starts(
    log_params: FloatArray, log_tokens: FloatArray, log_loss: FloatArray
) -> FloatArray:
    """Return up to eight starts (ln E, ln A, ln B, alpha, beta), best first, [S, 5].

    Args:
        log_params, log_tokens: centred ln N and ln D, [R].
        log_loss: ln L, [R].
    """
    weights = np.ones((1, log_loss.size))
    coefficients, value = _cells(log_params, log_tokens, log_loss, weights, EXPONENTS)
    lowest = int(np.isfinite(_at_minima(value)).sum())
    return _best(coefficients, value, log_loss, EXPONENTS, min(lowest, MAX_STARTS))[0]


def separable_regrid(
    log_params: FloatArray,
    log_tokens: FloatArray,
    log_loss: FloatArray,
    weights: FloatArray,
    most: int,
) -> FloatArray:
    """Return starts between those of `separable_starts` for B weightings, best first, [B, S, 5].

    Fits with fewer than S local minima are filled up with other cells.

    Args:
        log_params, log_tokens: centred ln N and ln D, [R].
        log_loss: ln L, [R].
        weights: of the rows, [B, R].
        most: S at most.
    """
    coefficients, value = _cells(log_params, log_tokens, log_loss, weights, BETWEEN)
    lowest = int(np.isfinite(_at_minima(value)).sum(axis=(1, 2)).max())
    return _best(coefficients, value, log_loss, BETWEEN, min(lowest, most))


def _cells(
    log_params: FloatArray,
    log_tokens: FloatArray,
    log_loss: FloatArray,
    weights: FloatArray,
    exponents: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return (E, A, B) [B, K, K, 3] of every cell and its misfit [B, K, K], to a constant.

    Rows weigh 1 / L^2 besides, so that residuals are relative as those of the logarithm are.
    """
    inverse = np.exp(-log_loss)
    basis_n = np.exp(-exponents[:, None] * log_params) * inverse
    basis_d = np.exp(-exponents[:, None] * log_tokens) * inverse
    size = len(exponents)
    batch = weights.shape[0]
    moment = np.empty((batch, size, size, 3))
    moment[..., 0] = (weights @ inverse)[:, None, None]
    moment[..., 1] = (weights @ basis_n.T)[:, :, None]
    moment[..., 2] = (weights @ basis_d.T)[:, None, :]
    # Bases of far exponents differ by many orders of magnitude: the diagonal is scaled away.
    scale = np.empty((batch, size, size, 3))
    scale[..., 0] = np.sqrt(weights @ inverse**2)[:, None, None]
    scale[..., 1] = np.sqrt(weights @ (basis_n**2).T)[:, :, None]
    scale[..., 2] = np.sqrt(weights @ (basis_d**2).T)[:, None, :]
    gram = np.ones((batch, size, size, 3, 3))
    gram[..., 0, 1] = (weights @ (basis_n * inverse).T)[:, :, None]
    gram[..., 0, 2] = (weights @ (basis_d * inverse).T)[:, None, :]
    gram[..., 1, 2] = (weights[:, None, :] * basis_n) @ basis_d.T
    for i, j in ((0, 1), (0, 2), (1, 2)):
        gram[..., i, j] /= scale[..., i] * scale[..., j]
    solution, value = nonnegative_by_faces(gram, moment / scale)
    return solution / scale, value


def _best(
    coefficients: FloatArray,
    value: FloatArray,
    log_loss: FloatArray,
    exponents: FloatArray,
    count: int,
) -> FloatArray:
    """Return theta of the lowest local minima, [B, count, 5]."""
    batch, size = value.shape[:2]
    at_minima = _at_minima(value).reshape(batch, -1)
    order = np.argsort(at_minima, axis=1, kind="stable")[:, :count]
    # An absent term starts at a thousandth of the loss, from where the polish can bring it back.
    floor = np.exp(np.mean(log_loss)) * 1e-3
    chosen = np.take_along_axis(coefficients.reshape(batch, -1, 3), order[..., None], axis=1)
    alpha, beta = exponents[order // size], exponents[order % size]
    logs = np.log(np.maximum(chosen, floor))
    return np.concatenate([logs, alpha[..., None], beta[..., None]], axis=-1)


def _at_minima(value: FloatArray) -> FloatArray:
    """Return the values [B, K, K] of cells not above any of their eight neighbours, else inf."""
    rows, columns = value.shape[1:]
    padded = np.pad(value, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    lowest = np.full(value.shape, np.inf)
    for i, j in itertools.product(range(3), range(3)):
        if (i, j) != (1, 1):
            lowest = np.minimum(lowest, padded[:, i : i + rows, j : j + columns])
    return np.where(value <= lowest, value, np.inf)
