"""Which runs of a search are hopeless: ceilings of the training loss at shares of their tokens.

A run's training loss on its way is compared with what the law says of that many tokens. How far it
lies above is regressed, over finished runs of the same kind, on how far they ended above the law
and on what they were:

    ln t(f) - ln law(N, f D) = a + b excess + slopes . (ln N, ln D, ln lr, ...) + scatter

The ceiling is the upper limit of that for a run whose excess at its end is the margin: one that
lies above ends, but for luck, worse than that. Runs of high rates lie high until their rates come
down, which the slope of ln lr takes into account. The mean and the limit are those of a Bayesian
regression with weak normal priors, so that few runs give wide limits and not wrong ones.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from analysis.laws.base import FloatArray

SHARES = (0.2, 0.35, 0.5, 0.7)
"""Of a run's tokens at which it is judged."""

FEWEST = 8
"""Finished runs without which there are no ceilings."""

_FARTHEST = 3.0
"""Runs that ended further above the law than so many margins are not learnt from where others
are enough: with the lowest rates losses on the way are another function of what comes of them."""

_EXCESS = (1.0, 0.3)
"""Prior mean and spread of b: as far as a run ends above the law it was above it on its way."""

_SLOPES = (0.0, 0.05)
"""Prior mean and spread of the other slopes, per e-fold; of another schedule, in all."""

_SCATTER = 0.02
"""Prior guess of the scatter, worth `_GUESSES` runs: what steps of tiny batches leave."""
_GUESSES = 4.0


@dataclass(frozen=True)
class Curves:
    """Finished runs of one kind.

    Attributes:
        excess: of ln loss over the law's at their ends, [R].
        passed: ln of the training loss at each share less the law's at so many tokens, [R, S].
        traits: what is regressed on besides, [R, K].
    """

    excess: FloatArray
    passed: FloatArray
    traits: FloatArray


def ceilings(
    curves: Curves, traits: FloatArray, *, margin: float, deviations: float, unsure: float = 0.0
) -> FloatArray | None:
    """Return the highest that a run of some hope passes each share with, above the law, [S].

    Args:
        curves: finished runs; None is returned for fewer than `FEWEST`.
        traits: of the run that is judged, [K].
        margin: excess at its end, of ln loss, up to which a run may go on.
        deviations: standard deviations of luck that such a run is allowed, as of a normal
            distribution; few runs make it more, as in Student's.
        unsure: standard deviation of the law's ln loss where the run is.
    """
    if len(curves.excess) < FEWEST:
        return None
    rows = max(FEWEST, int((curves.excess <= _FARTHEST * margin).sum()))
    near = np.argsort(curves.excess)[:rows]
    excess, seen, own = curves.excess[near], curves.passed[near], curves.traits[near]
    centre = own.mean(axis=0)
    design = np.column_stack([np.ones(rows), excess, own - centre])
    here = np.concatenate([[1.0, margin], traits - centre])
    mean = np.array([0.0, _EXCESS[0], *[_SLOPES[0]] * len(centre)])
    spread = np.array([np.inf, _EXCESS[1], *[_SLOPES[1]] * len(centre)])
    # In units of the guess: how wide slopes may be does not depend on the scatter.
    precision = np.diag((_SCATTER / spread) ** 2)
    covariance = np.linalg.inv(design.T @ design + precision)
    prior = (precision @ mean)[:, None]
    coefficients = covariance @ (design.T @ seen + prior)
    off = seen - design @ coefficients
    # What the coefficients have taken out of the residuals is not known of the scatter.
    freedom = rows - np.trace(covariance @ design.T @ design) + _GUESSES
    variance = ((off**2).sum(axis=0) + _GUESSES * _SCATTER**2) / freedom
    wide = np.sqrt(variance * (1.0 + here @ covariance @ here) + unsure**2)
    limit: FloatArray = here @ coefficients + stdtrit(freedom, ndtr(deviations)) * wide
    return limit
