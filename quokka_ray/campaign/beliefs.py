"""What a search believes: its runs under several forms of the law, and what became of predictions.

`analysis.steering` is pure; here its arguments are made of a study's own things: the menu becomes
trajectories with all their observations, the guide's runs become losses less what their learning
rates and schedules cost, and the ledger tells which larger runs were predicted, and how far off
they came out. All of it follows from the ledger, so that a resumed search believes the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray, Points
from analysis.laws.response import Response
from analysis.steering.belief import Belief
from analysis.steering.choosing import Market
from analysis.steering.forms import trained
from analysis.steering.goals import Optimum
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Observed
from analysis.steering.predictive import Predictive
from analysis.steering.stopping import Trust, Verdict, judge
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import StudyConfig, TargetConfig

_UNSURE = 0.5
"""Standard deviation of what an untuned rate costs, as a share of it: response laws are rough."""


@dataclass(frozen=True)
class Predicted:
    """What was expected of a run before it was trained: nats per token, 90 %."""

    value: float
    low: float
    high: float
    beyond: bool
    """Whether it is larger than all runs before it: how these come out tests the law."""
    forms: tuple[tuple[float, float, float], ...]
    """Probability, mean and standard deviation of ln loss under each form."""


def goal_of(target: TargetConfig) -> Optimum:
    """Return what a study wants to know; what it names no tolerance for is not wanted."""
    assert target.flops is not None, "searches of repeated data have a steering of their own"
    return Optimum(
        target.flops,
        params=target.tolerance_params or np.inf,
        loss=target.tolerance_loss or np.inf,
    )


def trajectories(menu: Menu, table: pd.DataFrame) -> Trajectories:
    """Return runs of a menu as they would be observed, priced in exact FLOPs.

    Args:
        menu: says at which token counts a run is observed.
        table: columns params, tokens, cost.
    """
    points = [menu.points(int(tokens)) for tokens in table["tokens"]]
    owner = np.repeat(np.arange(len(table)), [len(own) for own in points])
    tokens = [point for own in points for point in own]
    return Trajectories(
        Points.of(table["params"].to_numpy(dtype=np.float64)[owner], tokens),
        owner,
        table["cost"].to_numpy(dtype=np.float64),
    )


def surprise_of(state: TrajectoryState) -> float | None:
    """Return by how many standard deviations a run missed what was predicted of it.

    None for a run that was not predicted, or whose last observation is not there.
    """
    predicted, last = state.planned.get("predicted"), state.last_observation
    # Ledgers of before kept no forms, and a curve of repeated data may end before its last epoch.
    if not predicted or not predicted.get("forms") or last is None:
        return None
    shares, means, spreads = np.array(predicted["forms"], dtype=np.float64).T
    return Predictive(shares, means, spreads).surprise(float(last["loss"]))


def trust_in(states: Iterable[TrajectoryState], runs: Observed) -> Trust:
    """Return what became of the runs that were predicted as larger than all before them.

    Args:
        states: all trajectories.
        runs: all observations, which the smallest trusted compute rises through.
    """
    tests = [
        (float(state.last_observation["time"]), z)
        for state in states
        if (state.planned.get("predicted") or {}).get("beyond")
        and (z := surprise_of(state)) is not None
        and state.last_observation is not None
    ]
    trust = Trust()
    for _, z in sorted(tests, key=lambda test: test[0]):
        trust = trust.after(z, runs)
    return trust


def trust_of(states: Sequence[TrajectoryState], runs: pd.DataFrame) -> Trust:
    """Return what became of predictions from a ledger alone: its trajectories and run table."""
    runs = runs[runs["status"] == "finished"]
    points = Points.of(runs["params"], runs["tokens"])
    loss = runs["loss"].to_numpy(dtype=np.float64)
    return trust_in(states, Observed(points, np.log(loss), pd.factorize(runs["trajectory"])[0]))


def observed(guide: Fit) -> Observed:
    """Return a fit's runs with what their learning rates and schedules cost taken off."""
    runs, loss = guide.runs, guide.runs["loss"].to_numpy(dtype=np.float64)
    return Observed(
        Points.of(runs["params"], runs["tokens"]),
        np.log(loss) - _penalties(guide.response, runs),
        pd.factorize(runs["trajectory"])[0],
    )


def _penalties(response: Response, runs: pd.DataFrame) -> FloatArray:
    return response.penalty(
        runs["params"].to_numpy(dtype=np.float64),
        runs["tokens"].to_numpy(dtype=np.float64),
        runs["lr"].to_numpy(dtype=np.float64),
        runs["lr_schedule"].to_numpy(dtype=object),
        runs,
    )


class Beliefs:
    """The belief of one search, refitted when its runs have grown.

    Args:
        study: The study.
        menu: The runs that it may buy.
    """

    def __init__(self, study: StudyConfig, menu: Menu) -> None:
        self._menu = menu
        runs = trajectories(menu, menu.table)
        self.market = Market.of(runs, goal_of(study.target), trained())
        self.trust = Trust()
        self._guide: Fit | None = None
        self._belief: Belief | None = None

    def of(self, guide: Fit, states: Sequence[TrajectoryState]) -> Belief:
        """Return what the trusted runs say. The runs of the guide that was seen last cost nothing.

        Args:
            guide: The five-parameter law of all runs, with their response.
            states: All trajectories.
        """
        if self._belief is None or guide is not self._guide:
            runs = observed(guide)
            before, floor = self._belief, self.trust.log_floor
            self.trust = trust_in(states, runs)
            # Other runs than before may lie in another valley: from the whole space again.
            near = before if self.trust.log_floor == floor else None
            self._belief = self.market.believe(taken_where(runs, self.trust.trusted(runs)), near)
            self._guide = guide
        return self._belief

    def trust_now(self, guide: Fit | None, states: Sequence[TrajectoryState]) -> Trust:
        """Return what became of predictions, all observations of the guide counted."""
        return Trust() if guide is None else trust_in(states, observed(guide))

    def verdict(self, guide: Fit, states: Sequence[TrajectoryState]) -> Verdict:
        """Return whether to go on, as far as the forms of the law can tell."""
        return judge(self.market, self.of(guide, states), self.trust, affordable=True)

    def afresh(self, guide: Fit, states: Sequence[TrajectoryState]) -> Belief:
        """Return the belief from a search of the whole space, whatever was believed before."""
        self._belief = None
        return self.of(guide, states)

    def offered(
        self, available: float, states: Sequence[TrajectoryState]
    ) -> tuple[pd.DataFrame, Market, tuple[int, ...]]:
        """Return what can be chosen now.

        Returns:
            The runs to choose from, columns params, tokens, cost: the menu, with runs sized to use
            up what is left where that is little; the market of these and, after them, of
            trajectories bought before: those that run, with their missing observations alone,
            and in a start, which must keep its distance from them, those that have ended too;
            the numbers of those that still run.
        """
        fits = int((self._menu.table["cost"] <= available).sum())
        sized = self._menu.affordable(available).iloc[fits:]
        table = self._menu.table
        if len(sized):
            table = pd.concat([table, sized], ignore_index=True)
        bought: list[Trajectories] = []
        running = []
        starting = len(states) < self.market.policy.starts
        for state in states:
            missing = missing_points(state)
            if missing:
                running.append(len(table) + len(bought))
            elif not starting:
                continue
            points = Points.of(state.config.params, missing or state.config.points)
            owner = np.zeros(points.log_params.size, dtype=np.intp)
            bought.append(Trajectories(points, owner, np.ones(1)))
        more = ([trajectories(self._menu, sized)] if len(sized) else []) + bought
        return table, _extended(self.market, more), tuple(running)

    def predict(
        self,
        guide: Fit,
        states: Sequence[TrajectoryState],
        *,
        params: int,
        tokens: int,
        lr: float,
        lr_schedule: str,
        recipe: Mapping[str, Sequence[Any]] | None = None,
    ) -> Predicted:
        """Return what is expected of one run with its own learning rate, schedule and recipe.

        `recipe`: what else differs in it, as columns of a run table of one row.
        """
        belief = self.of(guide, states)
        off = float(guide.response.penalty([params], [tokens], [lr], [lr_schedule], recipe)[0])
        # The runs' own losses are known to no more than what their rates cost.
        unsure = _UNSURE * float(np.hypot(off, _penalties(guide.response, guide.runs).mean()))
        there = Predictive.of(belief, Points.of([params], [tokens])).moved(off, unsure)
        value, low, high = there.interval()
        largest = max((s.config.params * s.config.tokens for s in states), default=0)
        forms = zip(there.shares, there.means, there.spreads, strict=True)
        return Predicted(
            value,
            low,
            high,
            # Sizes on one level differ by rounding to whole batches.
            beyond=params * tokens > 1.02 * largest,
            forms=tuple((float(p), float(m), float(s)) for p, m, s in forms),
        )

    def unsure_at(
        self, guide: Fit, states: Sequence[TrajectoryState], params: int, tokens: int
    ) -> float:
        """Return the standard deviation of ln loss of a tuned run, as it is believed now."""
        there = Points.of([params], [tokens])
        return Predictive.of(self.of(guide, states), there).spread


def missing_points(state: TrajectoryState) -> tuple[int, ...]:
    """Return the token counts at which a trajectory that goes on is still to be observed."""
    if state.ended is not None:
        return ()
    seen = {int(row.get("tokens") or state.config.tokens) for row in state.observations}
    seen |= {int(row.get("tokens") or state.config.tokens) for row in state.diverged}
    return tuple(point for point in state.config.points if point not in seen)


def taken_where(runs: Observed, kept: np.ndarray) -> Observed:
    """Return some of the runs."""
    if kept.all():
        return runs
    points = Points(runs.points.log_params[kept], runs.points.log_tokens[kept])
    return Observed(points, runs.log_loss[kept], runs.trajectory[kept])


def _extended(market: Market, more: Sequence[Trajectories]) -> Market:
    """Return a market with further candidates, under the same features of the misfit."""
    own = market.candidates
    if not more:
        return market
    log_params = np.concatenate([one.points.log_params for one in more])
    log_tokens = np.concatenate([one.points.log_tokens for one in more])
    firsts = own.count + np.cumsum([0, *(one.count for one in more[:-1])])
    owner = np.concatenate([f + one.owner for f, one in zip(firsts, more, strict=True)])
    added = Points(log_params, log_tokens)
    return replace(
        market,
        candidates=Trajectories(
            Points(
                np.concatenate([own.points.log_params, log_params]),
                np.concatenate([own.points.log_tokens, log_tokens]),
            ),
            np.concatenate([own.owner, owner]),
            np.concatenate([own.cost, *(one.cost for one in more)]),
        ),
        phi=np.concatenate([market.phi, market.basis.features(added)]),
    )
