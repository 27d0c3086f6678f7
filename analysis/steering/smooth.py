"""A smooth random function of ln N and ln D as a handful of features.

The Gaussian process of `analysis.discrepancy`, written as phi(x) . w with w standard normal
(Nystroem's approximation): a belief is then a plain normal distribution of finitely many
numbers, and conditioning on a run not yet made is a rank-1 update. Centres are picked greedily
where the approximation is worst (pivoted Cholesky), among all places that will ever be asked for.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from analysis.discrepancy import correlation
from analysis.laws.base import FloatArray, Points

_MOST_PLACES = 600
_ENOUGH = 0.003
"""Share of the variance that may be left out anywhere."""


@dataclass(frozen=True)
class SmoothBasis:
    """M features of unit variance between them.

    Attributes:
        centres: ln N and ln D of the centres, each [M].
        factor: lower Cholesky factor of the centres' correlation, [M, M].
        length: correlation length in ln N and ln D.
    """

    centres: tuple[FloatArray, FloatArray]
    factor: FloatArray
    length: float

    @classmethod
    def of(cls, points: list[Points], length: float, most: int = 28) -> "SmoothBasis":
        """Return features that serve all of `points`."""
        x = np.concatenate([p.log_params for p in points])
        z = np.concatenate([p.log_tokens for p in points])
        if x.size > _MOST_PLACES:
            kept = np.linspace(0, x.size - 1, _MOST_PLACES).round().astype(np.intp)
            x, z = x[kept], z[kept]
        left = np.ones(x.size)
        rows = np.zeros((most, x.size))
        picked: list[int] = []
        for number in range(min(most, x.size)):
            worst = int(np.argmax(left))
            if left[worst] < _ENOUGH:
                break
            here = correlation((x[[worst]], z[[worst]]), (x, z), length)[0]
            row = (here - rows[:number, worst] @ rows[:number]) / np.sqrt(left[worst])
            rows[number] = row
            left = np.maximum(left - row * row, 0.0)
            picked.append(worst)
        centres = (x[picked], z[picked])
        own = correlation(centres, centres, length) + 1e-9 * np.eye(len(picked))
        return cls(centres, np.asarray(np.linalg.cholesky(own), dtype=np.float64), length)

    @property
    def size(self) -> int:
        """M."""
        return len(self.factor)

    def features(self, points: Points) -> FloatArray:
        """Return phi, [S, M]."""
        cross = correlation(self.centres, (points.log_params, points.log_tokens), self.length)
        return np.asarray(solve_triangular(self.factor, cross, lower=True)).T
