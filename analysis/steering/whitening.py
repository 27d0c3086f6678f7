"""Rows of one trajectory hang together: their noise is whitened trajectory by trajectory.

The noise's covariance is made of small blocks, so 600 rows of 200 trajectories are 200 factors of
three rows, not one of 600: at that size the difference is the larger part of a refit.
"""

from dataclasses import dataclass

import numpy as np

from analysis.discrepancy import trajectory_noise
from analysis.laws.base import FloatArray


@dataclass(frozen=True)
class Whitening:
    """A square root of the inverse of the rows' noise covariance, per variance of a row.

    Attributes:
        blocks: for trajectories of K rows their rows [T, K] and inverse Cholesky factors
            [T, K, K]; trajectories of one row need neither.
    """

    blocks: tuple[tuple[np.ndarray, FloatArray], ...]

    @classmethod
    def of(cls, log_tokens: FloatArray, trajectory: np.ndarray) -> "Whitening":
        """Prepare rows at ln D [R] of numbered trajectories [R], in whatever order they come."""
        order = np.argsort(trajectory, kind="stable")
        _, counts = np.unique(trajectory, return_counts=True)
        first = np.cumsum(counts) - counts
        blocks = []
        for count in np.unique(counts[counts > 1]):
            rows = order[first[counts == count][:, None] + np.arange(count)]
            factor = np.linalg.cholesky(trajectory_noise(log_tokens[rows]))
            blocks.append((rows, np.asarray(np.linalg.inv(factor), dtype=np.float64)))
        return cls(tuple(blocks))

    def __call__(self, rows: FloatArray) -> FloatArray:
        """Return rows, [R] or [R, Q], whose noise has become independent and of variance 1."""
        result = rows.copy()
        for index, inverse in self.blocks:
            if rows.ndim == 1:
                result[index] = np.matmul(inverse, rows[index][:, :, None])[:, :, 0]
            else:
                result[index] = np.matmul(inverse, rows[index])
        return result
