"""Whether the simplest form holds: how much of that question each run would settle.

Variance within the forms says nothing of which of them holds, and what lies between all of them
is led astray where none holds (docs/log.md). One contrast decides how boldly a search may spend:
the simplest form against the rest. With p the probability of the simplest and d the difference
between what it and the rest expect of a run, whose outcome scatters with covariance S, the run
lowers the variance p (1 - p) of the answer to

    p (1 - p) / (1 + t),  t = p (1 - p) d^T S^-1 d.

The question vanishes by itself once the simplest form is refuted, or certain.
"""

from collections.abc import Sequence

import numpy as np

from analysis.laws.base import FloatArray
from analysis.steering.belief import Belief
from analysis.steering.planning import Hypothesis


def disagreement(belief: Belief) -> float:
    """Return the probability that two draws of the belief differ on whether the simplest holds."""
    simplest = float(belief.shares[0])
    return 2.0 * simplest * (1.0 - simplest)


def settled(
    hypotheses: Sequence[Hypothesis], expected: Sequence[FloatArray], pending: Sequence[int] = ()
) -> FloatArray:
    """Return the share of the question that each of T trajectories would settle, [T].

    Args:
        hypotheses: the simplest form, then the others that have a say, with the covariances that
            runs under way will leave.
        expected: what each form expects of the trajectories' S observations, [S] each.
        pending: trajectories under way, which settle a part of it before.
    """
    shares = np.array([h.share for h in hypotheses])
    shares = shares / shares.sum()
    others = np.einsum("f,fs->s", shares[1:] / shares[1:].sum(), np.stack(expected[1:]))
    scatter: list[FloatArray] = []
    for share, h in zip(shares, hypotheses, strict=True):
        own = [share * block for block in h.telling.outcomes(h.covariance)]
        scatter = [a + b for a, b in zip(scatter, own, strict=True)] if scatter else own
    distance = hypotheses[0].telling.distances(expected[0] - others, scatter)
    variance = float(shares[0] * (1.0 - shares[0]))
    for index in pending:
        variance /= 1.0 + variance * float(distance[index])
    return variance * distance / (1.0 + variance * distance)
