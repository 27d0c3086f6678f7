"""When to stop, and whether to claim anything.

A search predicts each run that is larger than all before it, before it is trained. While its
forms hold, the standardised errors of those predictions are standard normal, and the evidence
that they are not is an e-value (`analysis.gates`), which may be read after every run. When it is
decisive, the smallest runs are what misled: the smallest compute that is trusted rises by a
factor of e, and the evidence starts anew. A search whose law failed too often claims nothing.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri

from analysis.gates import DECISIVE, surprise_evidence
from analysis.laws.base import FloatArray, Points
from analysis.steering.belief import Belief
from analysis.steering.choosing import Market
from analysis.steering.posterior import Observed

FORGIVEN = 2
"""How often the trusted compute may rise before the search claims nothing."""

_FEWEST = 8
"""Runs that must stay when the trusted compute rises."""


@dataclass(frozen=True)
class Trust:
    """What became of predictions.

    Attributes:
        surprises: z of the runs predicted since the trusted compute last rose.
        log_floor: ln of the smallest 6 N D that is trusted.
        raised: how often it rose.
    """

    surprises: tuple[float, ...] = ()
    log_floor: float = -np.inf
    raised: int = 0

    @property
    def evidence(self) -> float:
        """Odds that predictions do not hold, since the last rise."""
        return surprise_evidence(np.array(self.surprises)) if self.surprises else 1.0

    @property
    def lost(self) -> bool:
        """Whether the law failed too often for a claim."""
        return self.raised > FORGIVEN

    def trusted(self, runs: Observed) -> np.ndarray:
        """Return which runs are trusted, [R]."""
        return np.asarray(runs.log_flops >= self.log_floor - 1e-9)

    def after(self, z: float, runs: Observed) -> "Trust":
        """Return the trust after a larger run was `z` standard deviations off its prediction.

        Args:
            z: the standardised error.
            runs: all runs bought, which the trusted compute rises through.
        """
        now = replace(self, surprises=(*self.surprises, z))
        if now.evidence < DECISIVE:
            return now
        flops = runs.log_flops
        lowest = float(flops[self.trusted(runs)].min())
        floor = lowest + 1.0
        if int((flops >= floor).sum()) < _FEWEST:
            floor = self.log_floor
        return Trust((), floor, self.raised + 1)


def surprise(belief: Belief, points: Points, log_loss: float) -> float:
    """Return z of one observation under a belief that has not seen it.

    The observation's quantile in its predictive mixture, as a normal deviate within +-8.
    """
    below = belief.cumulative(points, log_loss)
    return float(np.clip(ndtri(np.clip(below, 1e-15, 1.0 - 1e-15)), -8.0, 8.0))


@dataclass(frozen=True)
class Verdict:
    """Whether to go on.

    Attributes:
        kind: `go on`; `reached`, the interval meets the tolerances; `budget`, nothing more can
            be paid for; `no claim`, the law failed.
        words: a sentence for a reader.
        interval: median and ends of 90 % intervals of the goal, [3, G].
    """

    kind: Literal["go on", "reached", "budget", "no claim"]
    words: str
    interval: FloatArray

    @property
    def claims(self) -> bool:
        """Whether the interval is claimed to cover."""
        return self.kind != "no claim"


def judge(market: Market, belief: Belief, trust: Trust, *, affordable: bool) -> Verdict:
    """Return whether to stop.

    Args:
        market: what is wanted, with tolerances.
        belief: what the trusted runs say.
        trust: what became of predictions.
        affordable: whether any candidate can still be paid for.
    """
    interval = belief.interval(market.goal, market.goal_phi)
    half = 0.5 * (interval[2] - interval[1])
    worst = int(np.argmax(half / market.goal.tolerance))
    name, width = market.goal.names[worst], half[worst]
    wanted = market.goal.tolerance[worst]
    if trust.lost:
        words = (
            f"no claim: {trust.raised} times larger runs fell outside what was predicted of "
            "them, also after small runs were left out; no law here extrapolates"
        )
        return Verdict("no claim", words, interval)
    if width <= wanted:
        words = f"reached: {name} is known to +-{width:.2g}, wanted to +-{wanted:.2g}"
        return Verdict("reached", words, interval)
    if not affordable:
        words = f"budget spent: {name} is known to +-{width:.2g}, wanted to +-{wanted:.2g}"
        return Verdict("budget", words, interval)
    return Verdict(
        "go on", f"{name} is known to +-{width:.2g}, wanted to +-{wanted:.2g}", interval
    )
