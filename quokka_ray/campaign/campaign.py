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
from dataclasses import asdict
from typing import Protocol

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.steering.stopping import Trust
from quokka_ray.campaign.budget import Account, account, projected_flops
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.data_steering import DataSteering
from quokka_ray.campaign.devices import Devices
from quokka_ray.campaign.ending import Ending, Kind, ending, trust_notes
from quokka_ray.campaign.ledger import Ledger, Record, TrajectoryState, read_rows
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.planned import trajectory_of
from quokka_ray.campaign.proposals import Proposal, Proposer
from quokka_ray.campaign.refits import Refits
from quokka_ray.campaign.speed import fit_speed
from quokka_ray.campaign.steering import Steering
from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Times that a trajectory is started before it is given up as failed."""


class Answer(enum.Enum):
    """What `Campaign.ask` says when it has no run to give."""

    WAIT = "wait"
    """Nothing fits now, but trials in flight may give budget back."""
    DONE = "done"
    """Nothing is left to run."""


class Observer(Protocol):
    """Whoever wants to watch a campaign: TensorBoard, the terminal."""

    def planned(self, campaign: "Campaign", trajectory: TrajectoryConfig) -> None:
        """A trajectory was planned."""

    def told(self, campaign: "Campaign", row: Record) -> None:
        """A row was reported: progress, observation, or ended."""

    def refitted(self, campaign: "Campaign", fit: Fit) -> None:
        """The law that is reported was refitted."""


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
        self._queue: list[str] = []
        self._live: set[str] = set()
        self._take_up()
        if len(self.ledger.trajectories) > len(self._queue):
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
        if self._queue:
            sizes = {name: self.ledger.trajectories[name].config.params for name in self._queue}
            first = next((name for name in self._queue if self._has_room(sizes[name])), None)
            return self._idle() if first is None else self._start(first)
        if self._steering.arrived(self.guide, self._states, self._settled):
            return self._idle()
        limit = self.study.budget.trials
        if limit is not None and len(self.ledger.trajectories) >= limit:
            return self._idle()
        if not self._can_buy():
            return self._idle()
        proposal = self.propose()
        if proposal is None:
            return self._idle()
        if announce is not None:
            announce(proposal)
        return self._start(self._plan(proposal))

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
        fits = self.devices.backfill(wanted.params, self._flying, speed)
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
            self._live.discard(row["trajectory"])
        if not new:
            return
        # A curve along epochs counts when it has ended: a fit for each of its points would cost
        # many times as much and, before the curve turns, say little of where it will.
        if kind == ("ended" if self.study.search.repeats else "observation"):
            self._refit()
        for observer in self.observers:
            observer.told(self, row)

    def returned(self, trajectory: str) -> None:
        """A trajectory's process returned by itself: it ended, or it was asked to stop."""
        self._reread(trajectory)
        if self.ledger.trajectories[trajectory].ended is None and not self.stopping:
            self.lost(trajectory, "it returned without an end")
        self._live.discard(trajectory)

    def lost(self, trajectory: str, reason: str) -> None:
        """A trajectory's process died. It is run again, or given up after `MAX_ATTEMPTS`."""
        self._live.discard(trajectory)
        self._reread(trajectory)
        state = self.ledger.trajectories[trajectory]
        if state.ended is not None or self.stopping:
            return
        self._rewind(state)
        if state.attempts >= MAX_ATTEMPTS:
            self._end(state, "failed", f"{state.attempts} attempts; the last: {reason}")
        elif self.account.available < 0:
            self._end(state, "failed", f"no budget left to run it again; {reason}")
        else:
            self._queue.append(trajectory)

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
        limit = self.study.budget.trials
        kind: Kind = "going on"
        if self.stopping:
            kind = "stopped"
        elif self.guide is not None and self._steering.arrived_with == len(self.guide.runs):
            kind = "reached"
        elif limit is not None and len(self.ledger.trajectories) >= limit:
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
        return frozenset(self._live)

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

    @property
    def _flying(self) -> list[TrajectoryState]:
        return [self.ledger.trajectories[name] for name in self._live]

    def _has_room(self, params: int) -> bool:
        """Return whether the workers of a run of N parameters are free."""
        if self.devices.alike or not self._live:
            return True
        return self.devices.of(params) <= self.devices.free(self._flying)

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

    def _take_up(self) -> None:
        """Queue what an earlier driver left unfinished, as far as the budget still holds it.

        Work that a kill destroyed is charged; so what is left may not hold every trajectory's
        remainder. Those that it does not hold end as `stopped`.
        """
        unfinished = self.ledger.unfinished()
        for state in unfinished:
            self._rewind(state)
        room = self.account.available
        for state in reversed(unfinished):
            if room >= 0:
                break
            room += projected_flops(state) - state.flops_spent
            self._end(state, "stopped", "the budget does not hold its remainder")
        self._queue = [state.config.id for state in unfinished if state.ended is None]

    def _rewind(self, state: TrajectoryState) -> None:
        """Set a trajectory's position back to its last complete checkpoint."""
        checkpoints = self.folder.trajectory(state.config.id).glob("checkpoints/*/COMPLETE")
        state.processed = max((int(path.parent.name) for path in checkpoints), default=0)

    def _reread(self, trajectory: str) -> None:
        """Tell what a trajectory's own record holds: a report may have died with its process."""
        for row in read_rows(self.folder.trajectory(trajectory) / "metrics.jsonl"):
            self.tell(row)

    def _idle(self) -> Answer:
        if self._live:
            return Answer.WAIT
        self.settle()
        return Answer.DONE

    def _plan(self, proposal: Proposal) -> str:
        """Write `proposal` into the ledger, its cost reserved; return the trajectory's id."""
        count, states = len(self.ledger.trajectories), self._states
        config = trajectory_of(proposal, count, self.study, self.corpus, self.menu)
        config = self._steering.promised(config, proposal.predicted, self.guide, states)
        place, own = (proposal.params, proposal.tokens), (config.params, config.tokens)
        self.ledger.append(
            {
                "kind": "planned",
                "trajectory": config.id,
                "reason": proposal.reason,
                "predicted": asdict(proposal.predicted) if proposal.predicted else None,
                "lr_factor": proposal.lr_factor,
                **({} if place == own else {"place": place}),
                "reserved_flops": config.flops_exact,
                "config": config.model_dump(mode="json"),
            },
            # On the disk with its start, before anyone runs it.
            durable=False,
        )
        self._queue.append(config.id)
        for observer in self.observers:
            observer.planned(self, config)
        return config.id

    def _start(self, trajectory: str) -> TrajectoryConfig:
        state = self.ledger.trajectories[trajectory]
        self._queue.remove(trajectory)
        self._live.add(trajectory)
        self.ledger.append(
            {"kind": "started", "trajectory": trajectory, "attempt": state.attempts + 1}
        )
        return state.config

    def _end(self, state: TrajectoryState, status: str, reason: str) -> None:
        row = {
            "kind": "ended",
            "trajectory": state.config.id,
            "status": status,
            "reason": reason,
            "flops_spent": state.flops_spent,
        }
        self.ledger.append(row)
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
