"""The outlook of a study: what its search is expected to reach, before a FLOP is spent.

The search plays itself (`playing.py`) on losses that are drawn in place of trained ones
(`truths.py`). A handful of such searches shows how many trials a budget holds, how narrow the
answer becomes, and whether the tolerances are within reach.

It is a simulation under a stated prior: it tells what the study's ranges, budget and target allow
if losses behave as losses have. What the corpus will show, it does not know.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna

from analysis.units import format_flops, format_half_width
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.playing import Played, Player, TooSlowError
from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import StudyConfig

SEARCHES = 8
"""Searches that are played unless their number is given."""

FEWEST = 3
"""And at least so many, however long they take."""

SECONDS = 20.0
"""After so long no further one is begun, and none goes on beyond its budget."""

PATIENCE = 60.0
"""After so long one that has not come to the end of its budget is given up."""

MOST = 0.75
"""Share of the searches that must arrive before a budget is said to do."""

_SLOWLY = 0.8
"""Half widths that twice the budget leaves above this share of themselves narrow slowly: by noise
alone it would leave .71 of them."""


@dataclass(frozen=True)
class Spread:
    """The median over searches, and the lowest and highest."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Return it of those searches that have a value; None where fewer than half have."""
        known = [value for value in values if value is not None]
        if 2 * len(known) < len(values) or not known:
            return None
        return cls(float(np.median(known)), float(min(known)), float(max(known)))


@dataclass(frozen=True)
class Row:
    """What is expected when so much is spent.

    Attributes:
        share: Of the budget.
        flops: The same in exact FLOPs.
        trials: Trajectories.
        params: Half width of the 90 % interval of ln N_opt at the target; None: no law yet.
        loss: The same of ln loss.
        met: Searches that meet the tolerances by then.
        no_claim: Searches whose law failed.
        limited: Searches that `budget.trials` has ended.
        device_seconds: Time of all trials on one device; None where no trial was timed.
    """

    share: float
    flops: float
    trials: Spread
    params: Spread | None
    loss: Spread | None
    met: int
    no_claim: int
    limited: int
    device_seconds: float | None


@dataclass(frozen=True)
class Outlook:
    """What a study's search is expected to reach.

    Attributes:
        rows: By share of the budget; of a study under way the first one is where it stands.
        searches: How many were played.
        asked: How many were wanted.
        drawn_from: What their losses were drawn from, in words.
        timed_by: What device times are told by, in words; None: they are not told.
        begins_with: Trajectories of the study that are there already.
        budget_flops: The budget.
        arrived: Exact FLOPs at which searches met the tolerances, ascending.
        held: Searches whose intervals held the truth when the budget was spent: of N_opt and of
            the loss.
        wanted: Tolerances of ln N_opt and ln loss; None: not asked for.
        beyond: Decades by which the target lies beyond the largest run.
    """

    rows: tuple[Row, ...]
    searches: int
    asked: int
    drawn_from: str
    timed_by: str | None
    begins_with: int
    budget_flops: float
    arrived: tuple[float, ...]
    held: tuple[int, int]
    wanted: tuple[float | None, float | None]
    beyond: float

    @property
    def end(self) -> Row:
        """The row at which the budget is spent."""
        return self.rows[_last_within([row.flops for row in self.rows], self.budget_flops)]

    @property
    def expected_flops(self) -> float | None:
        """What is spent when most searches have arrived; None where fewer do."""
        needed = math.ceil(MOST * self.searches)
        return self.arrived[needed - 1] if len(self.arrived) >= needed else None

    @property
    def verdict(self) -> str:
        """Whether the budget is expected to do, in sentences."""
        needed, end = self.expected_flops, self.end
        if self.begins_with and self.rows[0].met == self.searches:
            return f"The tolerances are met already. {self._known(self.rows[0])}"
        if needed is not None and needed <= self.budget_flops:
            return f"The budget should do: {self._arrived_by(needed)}. {self._known(end)}"
        if 2 * end.met >= self.searches:
            return f"The budget may do: {self._arrived_by(self.budget_flops)}. {self._known(end)}"
        if 2 * end.limited > self.searches:
            return (
                f"budget.trials is too low: it ended {_of(end.limited, self.searches)} simulated "
                f"searches, and {_of(end.met, self.searches)} had arrived. {self._known(end)}"
            )
        words = f"The budget is too small: {_of(end.met, self.searches)} simulated searches had "
        words += "arrived with it"
        if self.rows[-1] is not end:
            words += f", {_of(self.rows[-1].met, self.searches)} with twice as much"
        if needed is not None:
            words += (
                f"; {self._arrived_by(needed)}, {needed / self.budget_flops:.2g} times as much"
            )
        words += f". {self._known(end)}"
        if needed is None and self._narrows_slowly():
            words += (
                f" More trials narrow that slowly, for the target lies {self.beyond:.1f} decades "
                "beyond the largest run: larger runs (search.run_flops) or a nearer target would."
            )
        return words

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        more = {"expected_flops": self.expected_flops, "verdict": self.verdict}
        return {**asdict(self), **more}

    def _arrived_by(self, flops: float) -> str:
        count = sum(one <= flops * (1.0 + 1e-9) for one in self.arrived)
        of = _of(count, self.searches)
        return f"with {format_flops(flops, 2)} FLOPs {of} simulated searches had arrived"

    def _known(self, row: Row) -> str:
        """Return how well the answers are expected to be known."""
        parts = []
        for name, spread, limit in zip(
            ("N_opt", "the loss"), (row.params, row.loss), self.wanted, strict=True
        ):
            if spread is not None:
                asked = "" if limit is None else f" (wanted: {format_half_width(limit)})"
                parts.append(f"{name} to {format_half_width(spread.value)}{asked}")
        if not parts:
            return "It holds too few runs for a law."
        if row is self.rows[0] and self.begins_with:
            return f"The law knows {' and '.join(parts)}."
        return f"At the end of the budget it is expected to know {' and '.join(parts)}."

    def _narrows_slowly(self) -> bool:
        """Return whether twice the budget leaves what is too wide about as wide."""
        pairs = [(self.end.params, self.rows[-1].params), (self.end.loss, self.rows[-1].loss)]
        ratios = [
            twice.value / once.value
            for (once, twice), limit in zip(pairs, self.wanted, strict=True)
            if once is not None and twice is not None and limit is not None and twice.value > limit
        ]
        seen = bool(ratios) and self.rows[-1] is not self.end
        return seen and min(ratios) > _SLOWLY and self.beyond > 0


def _last_within(marks: Sequence[float], budget: float) -> int:
    """Return the number of the last mark within a budget; where none is, it is overspent."""
    return max((n for n, mark in enumerate(marks) if mark <= budget * (1.0 + 1e-9)), default=0)


def _of(count: int, searches: int) -> str:
    return f"{count or 'none'} of {searches}"


def outlook(
    study: StudyConfig,
    corpus: TokenCorpus,
    menu: Menu,
    searches: int | None = None,
    *,
    anew: bool = False,
    progress: Callable[[int, int], None] = lambda done, asked: None,
) -> Outlook | None:
    """Play a study's search; of a study whose folder holds runs, what is left of it.

    None where not one search came to the end of its budget in the time that there is.

    Args:
        study: The study; one of repeated data has no outlook.
        corpus: Its prepared corpus.
        menu: The runs that it may buy.
        searches: How many to play, however long it takes; None: `SEARCHES`, or fewer where they
            take long.
        anew: Play it from its beginning, whatever its folder holds.
        progress: Told how many of how many are done.
    """
    # Optuna announces every in-memory study; the steering makes one at each ask.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    player = Player(study, corpus, menu, anew=anew)
    asked = SEARCHES if searches is None else searches
    played: list[Played] = []
    begun = time.monotonic()
    enough, most = (math.inf, math.inf) if searches else (begun + SECONDS, begun + PATIENCE)
    for truth in player.truths(asked):
        if time.monotonic() > enough and len(played) >= FEWEST:
            break
        progress(len(played), asked)
        try:
            played.append(player.play(truth, beyond_until=enough, deadline=most))
        except TooSlowError:
            break
    if not played:
        return None
    return _summary(study, menu, player, played, asked)


def _summary(
    study: StudyConfig, menu: Menu, player: Player, played: Sequence[Played], asked: int
) -> Outlook:
    budget, target = study.budget.flops, study.target
    rows = []
    for flops, states in zip(
        player.marks, zip(*(one.states for one in played), strict=False), strict=True
    ):
        trials = Spread.of([state.trials for state in states])
        seconds = Spread.of([state.device_seconds for state in states])
        assert trials is not None, "every search has a number of trials"
        rows.append(
            Row(
                share=flops / budget,
                flops=flops,
                trials=trials,
                params=Spread.of([state.params for state in states]),
                loss=Spread.of([state.loss for state in states]),
                met=sum(state.met for state in states),
                no_claim=sum(state.kind == "no claim" for state in states),
                limited=sum(state.kind == "trials" for state in states),
                device_seconds=None if seconds is None else seconds.value,
            )
        )
    end = _last_within(player.marks, budget)
    arrived = [one.arrived for one in played if one.arrived is not None]
    held = [one.states[end].held or (False, False) for one in played]
    return Outlook(
        rows=tuple(rows),
        searches=len(played),
        asked=asked,
        drawn_from=player.drawn_from,
        timed_by=player.timed_by,
        begins_with=player.begins_with,
        budget_flops=budget,
        arrived=tuple(sorted(spent for spent in arrived if spent <= player.marks[-1])),
        held=(sum(one[0] for one in held), sum(one[1] for one in held)),
        wanted=(target.tolerance_params, target.tolerance_loss),
        beyond=max(0.0, math.log10(study.target_flops / menu.levels[-1])),
    )
