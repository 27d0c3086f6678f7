"""Where the fit of a growing table starts: at the fit of the rows that it had before.

Theta is centred at the runs' means, and schedules are counted from the commonest one; both may
have moved with the new rows, so an earlier fit is carried into the new problem's coordinates.
"""

import numpy as np

from analysis.fitting.problem import Problem
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray


def carried(problem: Problem, earlier: Fit) -> FloatArray | None:
    """Return theta [P] of an earlier fit in the coordinates of `problem`.

    None where there is nothing to carry: another law, or parameters that were not fitted then.
    """
    before = earlier.problem
    if before is None or earlier.point is None or before.law.name != problem.law.name:
        return None
    old, theta = earlier.point.theta, problem.prior.mean.copy()
    p = problem.law_size
    flat = before.law.centring(*before.centre) @ old[:p]
    if problem.design is not None:
        if before.design is None or (before.design.log_lr is None) != (
            problem.design.log_lr is None
        ):
            return None
        if not _carry_mixture(problem, before, old, theta):
            return None
        first = p
        if problem.design.log_lr is not None:
            moved = np.subtract(problem.centre, before.centre)
            theta[p : p + 4] = old[p : p + 4]
            theta[p + 1] += before.lr_centre - problem.lr_centre + old[p + 2 : p + 4] @ moved
            first += 4
        offsets = old[first : p + before.design.first_mixture]
        offset = dict(zip(before.design.schedules, (0.0, *offsets), strict=False))
        names = problem.design.schedules
        reference = offset.get(names[0], 0.0) if names else 0.0
        for index, name in enumerate(names[1:]):
            if name in offset:
                theta[first + index] = offset[name] - reference
        flat = flat + reference * problem.law.scale_direction()
    elif before.design is not None:
        return None
    theta[:p] = np.linalg.solve(problem.law.centring(*problem.centre), flat)
    return theta if np.isfinite(theta).all() else None


def _carry_mixture(problem: Problem, before: Problem, old: FloatArray, theta: FloatArray) -> bool:
    """Fill in what an earlier fit says of mixtures; return whether it is of the same ones."""
    assert problem.design is not None
    assert before.design is not None
    now, then = problem.design.mixture, before.design.mixture
    if now is None or then is None:
        return now is then
    if (now.ratios.parts, now.ratios.kept) != (then.ratios.parts, then.ratios.kept):
        return False
    p = problem.law_size
    values = old[p + before.design.first_mixture :].copy()
    values[1::2] += then.middle - now.middle
    theta[p + problem.design.first_mixture :] = values
    return True
