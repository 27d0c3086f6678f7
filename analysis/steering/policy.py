"""How a search spends: what differs between a live search and recorded pools of runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """How a search spends.

    Attributes:
        start_share: of the budget, spent to fill the space before any law is trusted.
        starts: runs of the start at most.
        fewest: runs of the start even where they cost more than its share.
        start_reach: its runs may cost this much of the cheapest one, whatever their share.
        largest_share: a run costs at most this share of what was spent before it.
        trusted: probability of the simplest form from which on the search is bold.
        bold, cautious: a score is divided by the cost to this power. The cautious one buys
            fewer, larger runs: many cheap ones carry most information on a law that is right,
            and least on whether it is.
        doubt: weight of runs that tell whether the simplest form holds, for each unit of
            the chance that two draws of the belief disagree on it (`contrast`).
        few: a budget that pays for fewer runs than this of the candidates' median cost is
            played to its end at each step instead (`planning`).
        considered: candidates that a plan is made of, drawn where there are more.
    """

    start_share: float = 0.05
    starts: int = 10
    fewest: int = 3
    start_reach: float = 1.01
    largest_share: float = 1 / 3
    trusted: float = 0.6
    bold: float = 0.7
    cautious: float = 0.4
    doubt: float = 0.5
    few: float = 0.0
    considered: int = 300


POOL = Policy(starts=3, start_reach=2.0, largest_share=float("inf"), bold=0.4, doubt=0.0, few=90.0)
"""Of a recorded pool, whose every run can be had once and whose places to predict are near: the
start is short, and a dear run may come early. Its cheapest runs are often neighbours, which
together tell what one does. Their forms are guesses one and all, so none of its runs is bought to
tell them apart."""
