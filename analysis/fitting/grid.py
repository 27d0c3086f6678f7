"""Variable projection: the global search that starts the fit of a separable law.

Given the exponents, L = E + A N^-alpha + B D^-beta is linear in (E, A, B), so the whole space is
searched by a grid over (alpha, beta) with a nonnegative least-squares problem in each cell.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

EXPONENTS = np.geomspace(0.04, 1.6, 26)
MAX_STARTS = 8
_FACES = [f for k in (1, 2, 3) for f in itertools.combinations(range(3), k)]


def nonnegative_by_faces(gram: FloatArray, moment: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Solve min_c c^T G c - 2 m^T c over c >= 0 for a stack of small problems.

    With three unknowns there are seven sets of those that are not zero. The answer is the best
    of the seven unconstrained solutions that is nonnegative.

    Args:
        gram: G, [K, 3, 3].
        moment: m, [K, 3].

    Returns:
        The solutions [K, 3] and their values [K].
    """
    count = gram.shape[0]
    best = np.zeros((count, 3))
    value = np.zeros(count)
    for face in _FACES:
        index = np.array(face)
        sub = gram[:, index[:, None], index]
        # A trace of ridge keeps cells of nearly parallel bases solvable.
        ridge = 1e-12 * np.trace(sub, axis1=1, axis2=2)[:, None, None] * np.eye(len(face))
        solution = np.linalg.solve(sub + ridge, moment[:, index, None])[..., 0]
        reached = -(solution * moment[:, index]).sum(axis=1)
        better = (solution >= 0).all(axis=1) & (reached < value)
        value[better] = reached[better]
        best[better] = 0.0
        best[np.ix_(better, index)] = solution[better]
    return best, value


def separable_starts(
    log_params: FloatArray, log_tokens: FloatArray, log_loss: FloatArray
) -> FloatArray:
    """Return up to eight starts (ln E, ln A, ln B, alpha, beta), best first, [S, 5].

    Rows weigh 1 / L^2, so that residuals are relative as those of the logarithm are.

    Args:
        log_params, log_tokens: centred ln N and ln D, [R].
        log_loss: ln L, [R].
    """
    inverse = np.exp(-log_loss)
    basis_n = np.exp(-EXPONENTS[:, None] * log_params) * inverse
    basis_d = np.exp(-EXPONENTS[:, None] * log_tokens) * inverse
    size = len(EXPONENTS)
    shape = (size, size)
    gram = np.empty((*shape, 3, 3))
    gram[..., 0, 0] = inverse @ inverse
    gram[..., 0, 1] = gram[..., 1, 0] = (basis_n @ inverse)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = (basis_d @ inverse)[None, :]
    gram[..., 1, 1] = (basis_n * basis_n).sum(axis=1)[:, None]
    gram[..., 2, 2] = (basis_d * basis_d).sum(axis=1)[None, :]
    gram[..., 1, 2] = gram[..., 2, 1] = basis_n @ basis_d.T
    moment = np.empty((*shape, 3))
    moment[..., 0] = inverse.sum()
    moment[..., 1] = basis_n.sum(axis=1)[:, None]
    moment[..., 2] = basis_d.sum(axis=1)[None, :]
    # Unit diagonal: bases of far exponents differ by many orders of magnitude.
    scale = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    gram /= scale[..., :, None] * scale[..., None, :]
    solution, value = nonnegative_by_faces(gram.reshape(-1, 3, 3), (moment / scale).reshape(-1, 3))
    coefficients = solution.reshape(*shape, 3) / scale
    cells = _local_minima(value.reshape(shape))[:MAX_STARTS]
    # An absent term starts at a thousandth of the loss, from where the polish can bring it back.
    floor = np.exp(np.mean(log_loss)) * 1e-3
    return np.array(
        [
            [*np.log(np.maximum(coefficients[i, j], floor)), EXPONENTS[i], EXPONENTS[j]]
            for i, j in cells
        ]
    )


def _local_minima(value: FloatArray) -> list[tuple[int, int]]:
    """Return the cells not above any of their eight neighbours, best first."""
    padded = np.pad(value, 1, constant_values=np.inf)
    rows, columns = value.shape
    lowest = np.full(value.shape, np.inf)
    for i, j in itertools.product(range(3), range(3)):
        if (i, j) != (1, 1):
            lowest = np.minimum(lowest, padded[i : i + rows, j : j + columns])
    found = np.argwhere(value <= lowest)
    order = np.argsort(value[found[:, 0], found[:, 1]], kind="stable")
    return [(int(i), int(j)) for i, j in found[order]]
