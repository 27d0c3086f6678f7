"""A study's search played in memory: its own start, steering, refits and rule of stopping.

Only the losses are simulated. A study that is under way is played on from its own ledger, which
is read and never written.
"""

import math
import time
from dataclasses import dataclass

from analysis.laws.base import Points
from quokka_ray.campaign.beliefs import goal_of
from quokka_ray.campaign.budget import account
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.ending import Kind, meets
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.simulated import play
from quokka_ray.campaign.speed import Speed, fit_speed, measured
from quokka_ray.campaign.truths import (
    FIT_IN_WORDS,
    PRIOR_IN_WORDS,
    Truth,
    fitted_truths,
    prior_truths,
)
from quokka_ray.corpus import TokenCorpus
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import saved_study, seen_folder
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.lr_schedules import is_cooled

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the budget, at which a search is looked at. Beyond the budget it is gone on with, as
`resume` does with a larger one."""

_LATEST = 8
"""Studies in the same storage that are looked at for the speed of trials."""

AT_ONCE = 2
"""Trials in flight where `resources.slots` does not say."""


@dataclass(frozen=True)
class State:
    """Where one played search stands when it has used up a share of the budget.

    Attributes:
        trials: Trajectories planned.
        params: Half width of the 90 % interval of ln N_opt at the target; None: no law yet.
        loss: The same of ln loss.
        met: Whether the tolerances are met.
        kind: Why it ended, or `going on`.
        device_seconds: Of all trials; None where no trial was timed.
        held: Whether the intervals hold the simulated truth's N_opt and its loss.
    """

    trials: int
    params: float | None
    loss: float | None
    met: bool
    kind: Kind
    device_seconds: float | None
    held: tuple[bool, bool] | None


@dataclass(frozen=True)
class Played:
    """One search: its state at each mark, and what had been spent when it arrived."""

    states: tuple[State, ...]
    arrived: float | None


class TooSlowError(Exception):
    """A played search has not come to the end of its budget in the time that it has."""


def _speed_of_another(study: StudyConfig) -> tuple[Speed | None, str | None]:
    """Return the speed of the latest study in the same storage that trained the same way.

    A FLOP takes as long there as here: models, recipe and noise are the same.
    """
    ledgers = list(study.storage.expanduser().glob("*/ledger.jsonl"))
    for path in sorted(ledgers, key=lambda path: path.stat().st_mtime, reverse=True)[:_LATEST]:
        try:
            other = saved_study(path.parent)
            states = list(Ledger(path, read_only=True).trajectories.values())
        except ConfigurationError:
            continue  # what cannot be read any more says nothing
        alike = all(
            getattr(other, name) == getattr(study, name)
            for name in ("model", "training", "diffusion", "evaluation")
        )
        if alike and (speed := fit_speed(states)) is not None:
            return speed, f"trials of {path.parent}"
    return None, None


class Player:
    """Plays one study.

    Args:
        study: The study.
        corpus: Its prepared corpus.
        menu: The runs that it may buy.
        anew: From its beginning, whatever its folder holds.

    Attributes:
        marks: Exact FLOPs at which a search is looked at, ascending; of a study under way the
            first is what was spent.
        begins_with: Trajectories that are there already.
        drawn_from: What `truths` drew from, in words.
        timed_by: What times are told by, in words; None: nothing was timed.
    """

    def __init__(
        self, study: StudyConfig, corpus: TokenCorpus, menu: Menu, *, anew: bool = False
    ) -> None:
        self._study, self._corpus, self._menu = study, corpus, menu
        # A folder that is not there holds no runs.
        self._folder = seen_folder(study.folder / "anew" if anew else study.folder)
        self._before = list(self._ledger().trajectories.values())
        self.begins_with = len(self._before)
        self._speed = fit_speed(self._before)
        self.timed_by: str | None = "its own trials"
        if self._speed is None:
            self._speed, self.timed_by = _speed_of_another(study)
        self._evaluators = {
            s.config.diffusion.kernel: str(s.observations[0]["evaluator"])
            for s in self._before
            if s.observations
        }
        budget = study.budget.flops
        spent = account(budget, self._before).spent
        # With less than the cheapest run to go, a mark is where the study stands.
        reached = spent + menu.smallest_cost if self._before else 0.0
        marks = [share * budget for share in SHARES if share * budget >= reached]
        self.marks = [spent, *marks] if self._before else marks
        self.drawn_from = PRIOR_IN_WORDS

    def truths(self, count: int) -> list[Truth]:
        """Return what to play on: drawn from the prior, or from the law of the runs there are."""
        study, table = self._study, self._menu.table
        places = Points.of(table["params"], table["tokens"])
        goal = goal_of(study.target).points()
        if self._before:
            campaign = self._campaign(study.budget.flops, self._ledger(), draws=count)
            campaign.settle()
            if campaign.fit is not None:
                self.drawn_from = FIT_IN_WORDS
                return fitted_truths(campaign.fit, places, goal, study.seed)
        truths = prior_truths(study, places, goal, count)
        return [truth.through(self._before) for truth in truths]

    def play(
        self, truth: Truth, *, beyond_until: float = math.inf, deadline: float = math.inf
    ) -> Played:
        """Return what becomes of one search, to its budget and on to twice that.

        Args:
            truth: What its trials observe.
            beyond_until: Time (`time.monotonic`) after which no search goes on beyond its budget
                any more; `marks` end there from then on.
            deadline: Time at which what a search does beyond its budget is given up, and all of
                it where it is still within.

        Raises:
            TooSlowError: it was given up.
        """
        ledger, marks = self._ledger(), list(self.marks)
        best = truth.surface.optimum(self._study.target_flops)
        states: list[State] = []
        budget, slots = self._study.budget.flops, self._study.resources.slots
        for cap in [budget, *(mark for mark in marks if mark > budget)]:
            campaign = self._campaign(cap, ledger)
            if self._before and not states:
                marks.pop(0)
                states.append(self._state(campaign, best))

            def look(spent: float, campaign: Campaign = campaign) -> None:
                if time.monotonic() > deadline:
                    raise TooSlowError
                while marks and spent > marks[0] * (1.0 + 1e-9):
                    marks.pop(0)
                    states.append(self._state(campaign, best))

            try:
                play(
                    campaign,
                    truth.losses,
                    at_once=AT_ONCE if slots == "auto" else slots,
                    evaluator=self._evaluator_of,
                    cooled=is_cooled(self._study.search.lr_schedule[0], self._study.training),
                    before_end=look,
                )
            except TooSlowError:
                if cap <= budget:
                    raise
                within = sum(mark <= budget for mark in self.marks)
                self.marks = self.marks[:within]
                del states[within:]
                marks.clear()
                break
            last = self._state(campaign, best)
            if last.kind in ("reached", "trials", "no claim"):
                break
            while marks and marks[0] <= cap:
                marks.pop(0)
                states.append(last)
            if cap <= budget and time.monotonic() > beyond_until:
                self.marks = self.marks[: len(states)]
                marks.clear()
                break
        states += [last] * len(marks)
        spent = campaign.account.spent if last.kind == "reached" else None
        if spent is None:
            met = (mark for mark, state in zip(self.marks, states, strict=True) if state.met)
            spent = next(met, None)
        return Played(tuple(states), spent)

    def _evaluator_of(self, config: TrajectoryConfig) -> str:
        """Return what the study's own trials of the kernel were evaluated by, on equal data."""
        kernel, known = config.diffusion.kernel, self._evaluators
        data = next(iter(known.values()), "simulated").partition("/")[0]
        return known.get(kernel, f"{data}/{kernel}")

    def _ledger(self) -> Ledger:
        """Return the study's ledger as it is; what is appended stays in memory."""
        ledger = Ledger(self._folder.ledger, read_only=True)
        ledger.merge_metrics(sorted(self._folder.trajectories.glob("*")))
        return ledger

    def _campaign(self, cap: float, ledger: Ledger, draws: int | None = None) -> Campaign:
        """Open the study with another budget.

        Args:
            cap: The budget, exact FLOPs.
            ledger: What has happened; grows in memory.
            draws: Of the reported law; None: as few as its intervals need.
        """
        law = self._study.law
        if draws is None:
            # Beside a misfit intervals follow from the fit's curvature; else from resamples.
            draws = 0 if law.huber_delta == "auto" else min(law.bootstrap, 100)
        study = self._study.model_copy(
            update={
                "budget": self._study.budget.model_copy(update={"flops": cap}),
                "law": law.model_copy(update={"bootstrap": draws}),
            }
        )
        return Campaign(
            study,
            self._corpus,
            self._menu,
            self._folder,
            # No time passes: the reported law is refitted where it is asked for.
            clock=lambda: math.nan,
            ledger=ledger,
        )

    def _state(self, campaign: Campaign, best: tuple[float, float]) -> State:
        campaign.settle()
        fit, kind = campaign.fit, campaign.ending.kind
        trials = len(campaign.ledger.trajectories)
        seconds = self._seconds(campaign.ledger)
        if fit is None:
            return State(trials, None, None, False, kind, seconds, None)
        found = fit.optimum(self._study.target_flops)
        held = [
            math.log(estimate.low) <= true <= math.log(estimate.high)
            for estimate, true in zip((found.params, found.loss), best, strict=True)
        ]
        return State(
            trials,
            found.params.relative_width,
            found.loss.relative_width,
            kind != "no claim" and meets(fit, self._study.target),
            kind,
            seconds,
            (held[0], held[1]),
        )

    def _seconds(self, ledger: Ledger) -> float | None:
        """Return the time of all trials on one device, those that are played at their size's."""
        if self._speed is None:
            return None
        timed = {state.config.id: measured(state) for state in self._before}
        total = 0.0
        for name, state in ledger.trajectories.items():
            seconds, flops = timed.get(name, (0.0, 0.0))
            rest = max(state.flops_spent - flops, 0.0)
            total += seconds + self._speed.seconds(state.config.params, rest)
        return total
