"""Where the fit of a growing table starts: at the fit of the rows that it had before.

Theta is centred at the runs' means, and schedules are counted from the commonest one; both may
have moved with the new rows, so an earlier fit is carried into the new problem's coordinates.
"""

import numpy as np

from analysis.fitting.problem import Problem
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray
from analysis.laws.bowls import Bowl
from analysis.laws.choices import Choices
from analysis.laws.mixture import MixtureDesign


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
    now, then = problem.design, before.design
    if (now is None) != (then is None):
        return None
    if now is not None and then is not None:
        # Schedules are always listed, and may have had no second name.
        if now.terms.keys() != then.terms.keys():
            return None
        for name, term in now.terms.items():
            own = old[p:][then.places[name]]
            earlier_term = then.terms[name]
            if isinstance(term, Choices) and isinstance(earlier_term, Choices):
                values, gained = term.carried(earlier_term, own)
                flat = flat + gained * problem.law.scale_direction()
            elif isinstance(term, Bowl | MixtureDesign):
                found = term.carried(earlier_term, own)
                if found is None:
                    return None
                values = found
            theta[p:][now.places[name]] = values
    theta[:p] = np.linalg.solve(problem.law.centring(*problem.centre), flat)
    return theta if np.isfinite(theta).all() else None
