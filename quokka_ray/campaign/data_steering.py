"""Steering a search over repeated data: which (N, U) to train next, and to how many epochs.

A start that fills the space of ln N and ln U comes first. Then the law of all runs so far says
where the curve of each candidate would turn and end early, what its observations up to there
would tell of the answers at the target's unique tokens, and what they would cost; the candidate
that tells most per FLOP is bought. What is reserved is the price of the whole trajectory.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.data_design import spread_over, target_gradients, trajectory_gains
from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray, Points
from analysis.steering.places import Trajectories
from analysis.ushape import past_minimum
from quokka_ray.campaign.beliefs import Predicted
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.factors import Scored, suggest_factors, weights_of
from quokka_ray.campaign.ledger import TrajectoryState
from quokka_ray.campaign.steering import DIVERGED_EXCESS, Proposal
from quokka_ray.study.config import StudyConfig

START_TRAJECTORIES = 6
"""Trajectories of the start: the corners of the space and two between them."""

COST_EXPONENT = 0.4
"""A candidate's gain is divided by its cost to this power: under 1, so that a few long
trajectories are bought although many short ones carry more on a law that is taken to be right."""

OVERHEAD_SHARE = 0.02
"""What any trajectory is taken to cost besides, as a share of the largest."""

_REPEATED = 0.5
"""What a candidate's gain is multiplied by for each earlier trajectory over the same (N, U): a
law that is taken to be right would otherwise buy its favourite place again and again."""


class DataSteering:
    """Chooses trajectories for one study of repeated data.

    Args:
        study: The study.
        menu: The trajectories that it may buy.
    """

    def __init__(self, study: StudyConfig, menu: DataMenu) -> None:
        self._study = study
        self._menu = menu
        # About half of a trajectory's price comes back when it ends early.
        share = 2 * study.search.initial_fraction * study.budget.flops / START_TRAJECTORIES
        longest = menu.longest(max(share, menu.smallest_cost))
        self.start = spread_over(longest, START_TRAJECTORIES)

    def propose(
        self,
        states: Sequence[TrajectoryState],
        guide: Fit | None,
        available: float,
    ) -> Proposal:
        """Return the next trajectory; arguments as those of `Steering.propose`."""
        row, reason = self._place(states, guide, available)
        factors = suggest_factors(
            self._study.search,
            self._scored(states, guide),
            seed=self._study.seed * 1_000_003 + len(states),
            weights=self._study.corpus.searched_weights,
        )
        params, unique, tokens = int(row["params"]), int(row["unique_tokens"]), int(row["tokens"])
        predicted = None
        if guide is not None:
            found = guide.predict([params], [tokens], [unique], noise=True)
            value, low, high = (float(v[0]) for v in (found.value, found.low, found.high))
            # Of the last epoch that is paid for: a curve that ends early cannot be held to it.
            predicted = Predicted(value, low, high, beyond=False, forms=())
        return Proposal(
            params=params,
            tokens=tokens,
            unique_tokens=unique,
            cost=float(row["cost"]),
            lr=self._study.training.lr * factors["lr_factor"],
            lr_factor=factors["lr_factor"],
            lr_schedule=factors["lr_schedule"],
            reason=reason,
            predicted=predicted,
            weights=weights_of(factors, self._study.corpus.searched_weights),
        )

    def _place(
        self, states: Sequence[TrajectoryState], guide: Fit | None, available: float
    ) -> "tuple[pd.Series[float], str]":
        planned = {(state.config.params, state.config.unique_tokens) for state in states}
        for number, row in self.start.iterrows():
            there = (int(row["params"]), int(row["unique_tokens"]))
            if there not in planned and row["cost"] <= available:
                return self.start.loc[number], "start: fills the space of N and U"
        candidates = self._menu.affordable(available)
        if guide is None:
            rng = np.random.default_rng([self._study.seed, len(states)])
            return candidates.iloc[int(rng.integers(len(candidates)))], "at random: no law yet"
        return self._steer(guide, candidates, states)

    def _steer(
        self, guide: Fit, candidates: pd.DataFrame, states: Sequence[TrajectoryState]
    ) -> "tuple[pd.Series[float], str]":
        target = self._study.target.unique_tokens
        assert target is not None
        runs = self.expected(guide, candidates)
        sizes = np.unique(candidates["params"].to_numpy(np.float64))
        epochs = np.geomspace(1.0, self._study.search.max_epochs, 8)
        gradients, tolerances = target_gradients(guide.state, target, sizes, epochs)
        live = [state.config for state in states if state.ended is None]
        pending = None
        if live:
            pending = _joined([(c.params, c.unique_tokens, c.points, c.flops_exact) for c in live])
        gains, before = trajectory_gains(guide, runs, gradients, tolerances, pending)
        earlier = [(state.config.params, state.config.unique_tokens) for state in states]
        times = [
            earlier.count((int(row.params), int(row.unique_tokens)))
            for row in candidates.itertuples()
        ]
        overhead = OVERHEAD_SHARE * float(self._menu.table["cost"].max())
        scores = gains.sum(axis=1) * _REPEATED ** np.array(times)
        scores = scores / (runs.cost + overhead) ** COST_EXPONENT
        best = int(np.argmax(scores))
        cut = float(gains[best].sum() / before.sum())
        spent = runs.cost[best] / self._study.budget.flops
        ends = np.exp(runs.take([best]).points.log_tokens[-1])
        return candidates.iloc[best], (
            f"cuts the variance of the answers for {target:.3g} unique tokens by {cut:.0%}, for "
            f"about {spent:.1%} of the budget: its curve should be done at "
            f"{ends / candidates['unique_tokens'].iloc[best]:.3g} epochs"
        )

    def expected(self, guide: Fit, candidates: pd.DataFrame) -> Trajectories:
        """Return what the candidates would show and cost were the guide right.

        A curve that turns within its epochs is observed and paid for up to where it ends early.
        """
        rule, rows = self._study.search.early_end, []
        for row in candidates.itertuples():
            params, unique = int(row.params), int(row.unique_tokens)
            points = self._menu.points(int(row.tokens), unique)
            spent = 1.0
            if rule is not None:
                loss = _losses(guide, params, points, unique)
                for count in range(1, len(points)):
                    if past_minimum(
                        loss[:count].tolist(),
                        [0.0] * count,
                        margin=rule.margin,
                        points=rule.points,
                    ):
                        spent = points[count - 1] / points[-1]
                        points = points[:count]
                        break
            rows.append((params, unique, points, float(row.cost) * spent))
        return _joined(rows)

    def _scored(self, states: Sequence[TrajectoryState], guide: Fit | None) -> list[Scored]:
        """Return each trajectory's mean excess over the law, for those that Optuna learns from."""
        known: dict[str, float] = {}
        if guide is not None:
            by_trial = pd.Series(guide.excess).groupby(guide.runs["trajectory"].to_numpy())
            known = by_trial.mean().to_dict()
        scored = []
        for state in states:
            status = state.ended["status"] if state.ended else None
            excess = known.get(state.config.id, 0.0) if state.observations else None
            if status == "diverged":
                excess = DIVERGED_EXCESS
            elif excess is None and status is not None:
                continue
            factor = float(state.planned["lr_factor"])
            weights = state.config.mixture or {}
            scored.append(Scored(factor, state.config.lr_schedule, excess, weights))
        return scored


def _losses(guide: Fit, params: int, points: tuple[int, ...], unique: int) -> FloatArray:
    there = Points.of(params, np.array(points, dtype=np.float64), unique)
    return np.exp(guide.law.log_loss(guide.theta, there))


def _joined(rows: Sequence[tuple[int, int, tuple[int, ...], float]]) -> Trajectories:
    """Return trajectories from (N, U, points in tokens, cost)."""
    lengths = [len(points) for _, _, points, _ in rows]
    params: FloatArray = np.repeat([float(row[0]) for row in rows], lengths)
    unique: FloatArray = np.repeat([float(row[1]) for row in rows], lengths)
    tokens = np.array([float(point) for row in rows for point in row[2]])
    return Trajectories(
        Points.of(params, tokens, unique),
        np.repeat(np.arange(len(rows)), lengths),
        np.array([row[3] for row in rows]),
    )
