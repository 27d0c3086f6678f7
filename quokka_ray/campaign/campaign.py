"""The campaign: asked for the next run, told what the runs report, and finished by the budget.

An executor (Ray Tune, or the local one) owns the processes; the campaign owns the decisions:

    answer = campaign.ask()          # a trajectory to run, WAIT or DONE
        campaign.tell(row)           # every row that a trial reports
        campaign.returned(trajectory)    # its process returned
        campaign.lost(trajectory, why)   # its process died; it will be asked for again

It knows neither Ray nor torch. All of its state is the ledger: a campaign that is opened on the
folder of a killed one goes on where that one stopped.
"""

import enum
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.steering.stopping import Trust
from quokka_ray.campaign.budget import Account, account
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.data_steering import DataSteering
from quokka_ray.campaign.devices import Devices
from quokka_ray.campaign.ending import Ending, Kind, ending, trust_notes
from quokka_ray.campaign.flights import Flights
from quokka_ray.campaign.ledger import Ledger, read_rows
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.observer import Observer
from quokka_ray.campaign.planned import planned_record, trajectory_of
from quokka_ray.campaign.proposals import Proposal, Proposer
from quokka_ray.campaign.refits import Refits
from quokka_ray.campaign.speed import fit_speed
from quokka_ray.campaign.steering import Steering
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState
from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

logger = logging.getLogger(__name__)


class Answer(enum.Enum):
    """What `Campaign.ask` says when it has no run to give."""

    WAIT = "wait"
    """Nothing fits now, but trials in flight may give budget back."""
    DONE = "done"
    """Nothing is left to run."""


def steering_of(study: StudyConfig, menu: Menu | DataMenu) -> Proposer:
    """Return what chooses the study's runs from its menu."""
    if isinstance(menu, DataMenu):
        return DataSteering(study, menu)
    return Steering(study, menu)


class Campaign:
    """One study's decisions, on its ledger.

    Args:
        study: The study.
        corpus: Its prepared corpus.
        menu: The runs that it may buy.
        folder: Its folder, locked by the caller.
        observers: Told of everything that happens, in order.
        clock: Seconds, for the rate at which the reported law is refitted.
        ledger: What has happened so far, where it is not the folder's own file: a search that is
            played in memory (`outlook.py`).
    """

    def __init__(
        self,
        study: StudyConfig,
        corpus: TokenCorpus,
        menu: Menu | DataMenu,
        folder: StudyFolder,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
        ledger: Ledger | None = None,
    ) -> None:
        self.study = study
        self.corpus = corpus
        self.folder = folder
        self.observers = list(observers)
        self.menu = menu
        self.ledger = Ledger(folder.ledger) if ledger is None else ledger
        self.ledger.merge_metrics(sorted(folder.trajectories.glob("*")))
        self._laws = Refits(study, clock)
        self.stopping = False
        self._steering = steering_of(study, menu)
        self._flights = Flights(self.ledger, folder, study.budget.flops, self._announce)
        self._flights.take_up()
        if len(self.ledger.trajectories) > len(self._flights.waiting):
            self._refit()

    # Asking

    def ask(self, announce: Callable[[Proposal], None] | None = None) -> TrajectoryConfig | Answer:
        """Return the next trajectory to run, or why there is none.

        What an earlier driver, or a process that died, left unfinished comes first. A trajectory
        that was given is in flight until `tell` hears that it ended, or `returned` or `lost`
        that its process is gone.

        Args:
            announce: Told a new run before it is planned, for an executor whose search library
                keeps a record of its own.
        """
        if self.stopping:
            return self._idle()
        if self._flights.waiting:
            first = next(filter(self._has_room_for, self._flights.waiting), None)
            return self._idle() if first is None else self._flights.start(first)
        if self._steering.arrived(self.guide, self._states, self._settled):
            return self._idle()
        if self._at_trial_limit or not self._can_buy():
            return self._idle()
        proposal = self.propose()
        if proposal is None:
            return self._idle()
        if announce is not None:
            announce(proposal)
        return self._flights.start(self._plan(proposal))

    def propose(self) -> Proposal | None:
        """Return the next run that the steering would buy; None: it waits for others to end.

        Where the run that is wanted takes more workers than are free, one is returned that fits
        beside it and is done before they are. Changes nothing.
        """
        states, available = self._states, self.account.available
        wanted = self._steering.propose(states, self.guide, available)
        if wanted is None or self._has_room(wanted.params):
            return wanted
        speed = fit_speed(states, self.devices.of)
        fits = self.devices.backfill(wanted.params, self._flights.states, speed)
        return self._steering.propose(states, self.guide, available, fits)

    # Telling

    def tell(self, row: Record) -> None:
        """Take a row that a trial reported: progress, an observation, or its end.

        Rows may come twice; the second time they change nothing.
        """
        state = self.ledger.trajectories[row["trajectory"]]
        kind = row["kind"]
        new = True
        if kind == "progress":
            state.advance(row)
        else:
            # The trial has it on the disk, and what the ledger lacks is merged from there: it need
            # not be waited for twice.
            new = self.ledger.append(row, durable=False)
        if kind == "ended":
            self._flights.live.discard(row["trajectory"])
        if not new:
            return
        # A curve along epochs counts when it has ended: a fit for each of its points would cost
        # many times as much and, before the curve turns, say little of where it will.
        if kind == ("ended" if self.study.search.repeats else "observation"):
            self._refit()
        self._announce(row)

    def returned(self, trajectory: str) -> None:
        """A trajectory's process returned by itself: it ended, or it was asked to stop."""
        self._reread(trajectory)
        if self.ledger.trajectories[trajectory].ended is None and not self.stopping:
            self.lost(trajectory, "it returned without an end")
        self._flights.live.discard(trajectory)

    def lost(self, trajectory: str, reason: str) -> None:
        """A trajectory's process died. It is run again, or given up after a few attempts."""
        self._flights.live.discard(trajectory)
        self._reread(trajectory)
        if self.ledger.trajectories[trajectory].ended is None and not self.stopping:
            self._flights.again(trajectory, reason)

    def stop(self) -> None:
        """Give out no more runs."""
        self.stopping = True

    def settle(self) -> None:
        """Bring the reported law up to every observation, however long that takes."""
        if self._laws.behind:
            self._refit_reported(self.runs())

    def close(self) -> None:
        """Settle the law, write the run table and close the ledger."""
        self.settle()
        self.runs().to_csv(self.folder.runs_csv, index=False)
        self.ledger.close()

    # Looking

    @property
    def fit(self) -> Fit | None:
        """The law as it is reported, with what its form misses.

        It counts every observation once `ask` has said DONE, after `settle` and after `close`;
        in between it may lag by as many as come while it may not be refitted again.
        """
        return self._laws.reported

    @property
    def guide(self) -> Fit | None:
        """The five-parameter law of every observation, which the steering takes as true."""
        return self._laws.guide

    @property
    def no_fit_because(self) -> str:
        """Why there is no law, or why it was not refitted last time."""
        return self._laws.no_law_because

    @property
    def ending(self) -> Ending:
        """Where the search stands, or why it ended."""
        kind: Kind = "going on"
        if self.stopping:
            kind = "stopped"
        elif self.guide is not None and self._steering.arrived_with == len(self.guide.runs):
            kind = "reached"
        elif self._at_trial_limit:
            kind = "trials"
        elif not self._can_buy():
            cheapest = self.menu.smallest_cost
            kind = "budget" if self.account.available < cheapest else "remainder"
        return ending(kind, self.fit, self._trust, self._states, self.study.target)

    @property
    def account(self) -> Account:
        """Where the budget stands."""
        return account(self.study.budget.flops, self.ledger.trajectories.values())

    @property
    def devices(self) -> Devices:
        """The cluster; until an executor says more, one where any run fits."""
        return self._steering.devices

    @devices.setter
    def devices(self, devices: Devices) -> None:
        self._steering.devices = devices

    @property
    def live(self) -> frozenset[str]:
        """The trajectories in flight."""
        return frozenset(self._flights.live)

    @property
    def start_plan(self) -> pd.DataFrame:
        """The runs of the space-filling start: params, tokens, cost, and flops or epochs."""
        return self._steering.start

    def counts(self) -> dict[str, int]:
        """Return how many trajectories have each status; `unfinished` counts what may go on."""
        states = self.ledger.trajectories.values()
        return dict(Counter(s.ended["status"] if s.ended else "unfinished" for s in states))

    def runs(self) -> pd.DataFrame:
        """Return the ledger as a run table."""
        return self.ledger.runs()

    # Inside

    def _has_room(self, params: int) -> bool:
        """Return whether the workers of a run of N parameters are free."""
        if self.devices.alike or not self._flights.live:
            return True
        return self.devices.of(params) <= self.devices.free(self._flights.states)

    def _has_room_for(self, trajectory: str) -> bool:
        return self._has_room(self.ledger.trajectories[trajectory].config.params)

    @property
    def _at_trial_limit(self) -> bool:
        limit = self.study.budget.trials
        return limit is not None and len(self.ledger.trajectories) >= limit

    def _can_buy(self) -> bool:
        return self._steering.can_buy(self._states, self.account.available)

    @property
    def _states(self) -> list[TrajectoryState]:
        return list(self.ledger.trajectories.values())

    @property
    def _trust(self) -> Trust:
        return self._steering.trust(self.guide, self._states)

    def _settled(self) -> Fit | None:
        self.settle()
        return self.fit

    def _reread(self, trajectory: str) -> None:
        """Tell what a trajectory's own record holds: a report may have died with its process."""
        for row in read_rows(self.folder.trajectory(trajectory) / "metrics.jsonl"):
            self.tell(row)

    def _idle(self) -> Answer:
        if self._flights.live:
            return Answer.WAIT
        self.settle()
        return Answer.DONE

    def _plan(self, proposal: Proposal) -> str:
        """Write `proposal` into the ledger, its cost reserved; return the trajectory's id."""
        count, states = len(self.ledger.trajectories), self._states
        config = trajectory_of(proposal, count, self.study, self.corpus, self.menu)
        config = self._steering.promised(config, proposal.predicted, self.guide, states)
        # On the disk with its start, before anyone runs it.
        self.ledger.append(planned_record(proposal, config), durable=False)
        self._flights.waiting.append(config.id)
        for observer in self.observers:
            observer.planned(self, config)
        return config.id

    def _announce(self, row: Record) -> None:
        for observer in self.observers:
            observer.told(self, row)

    def _refit(self) -> None:
        self._laws.refit_guide(self.ledger.runs(self._laws.read))
        if self.guide is not None and self._laws.pace.due:
            self._refit_reported(self.runs())

    def _refit_reported(self, runs: pd.DataFrame) -> None:
        with self._laws.pace.run():
            trust = self._trust
            trusted = 6.0 * runs["params"] * runs["tokens"] >= np.exp(trust.log_floor - 1e-9)
            fit = self._laws.refit_reported(runs[trusted], trust_notes(trust))
            if fit is not None:
                for observer in self.observers:
                    observer.refitted(self, fit)
