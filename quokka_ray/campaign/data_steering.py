"""Steering a search over repeated data: which (N, U) to train next, and to how many epochs.

A curve tells most once it has turned, and ends soon after, so each trajectory is planned long
enough to turn: to the epochs by which its curve is done with probability `LONG_ENOUGH`, by all
curves so far (`analysis/turning.py`). The price of that is reserved; what is expected to be
spent is that of the epochs it should need. A place where the budget holds no plan that is more
likely than not to turn is left alone.

A start that fills the space of ln N and ln U comes first, its cheapest trajectories before the
dear ones. Then the law of all runs says what the observations of each candidate would tell of the
answers at the target's unique tokens, and the one that tells most per FLOP is bought.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.data_design import spread_over, target_gradients, trajectory_gains
from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray, Points
from analysis.steering.places import Trajectories
from analysis.turning import Curve, Turning
from analysis.ushape import curve_of, done_after
from quokka_ray.campaign.beliefs import Predicted
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.devices import Fits, anything
from quokka_ray.campaign.factors import scored_of
from quokka_ray.campaign.proposals import AT_RANDOM, Proposal, Proposer, fitting
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.search import EarlyEnd

START_TRAJECTORIES = 6
"""Trajectories of the start: the corners of the space and two between them."""

LONG_ENOUGH = 0.95
"""Probability with which a curve should be done within what it is planned for."""

WORTH_BUYING = 0.5
"""And the least with which it is bought: the last of a budget buys what turns, or nothing."""

COST_EXPONENT = 0.4
"""A candidate's gain is divided by its cost to this power: under 1, so that a few long
trajectories are bought although many short ones carry more on a law that is taken to be right."""

OVERHEAD_SHARE = 0.02
"""What any trajectory is taken to cost besides, as a share of the largest."""

_REPEATED = 0.5
"""What a candidate's gain is multiplied by for each earlier trajectory over the same (N, U): a
law that is taken to be right would otherwise buy its favourite place again and again."""


class DataSteering(Proposer):
    """Chooses trajectories for one study of repeated data, until its budget is spent.

    No larger runs test its law, as they do one of N and D, and its trajectories' own observations
    say when they end.

    Args:
        study: The study.
        menu: The trajectories that it may buy.
    """

    def __init__(self, study: StudyConfig, menu: DataMenu) -> None:
        super().__init__(study)
        self._menu = menu
        self._rule = study.search.early_end or EarlyEnd()
        self.start = self._start()

    def can_buy(self, states: Sequence[TrajectoryState], available: float) -> bool:
        """Return whether any trajectory that is worth its price can be paid for."""
        return not self.candidates(states, available).empty

    def propose(
        self,
        states: Sequence[TrajectoryState],
        guide: Fit | None,
        available: float,
        fits: Fits = anything,
    ) -> Proposal | None:
        """Return the next trajectory; its learning rate is relative to the study's own."""
        place = self._place(states, guide, available, fits)
        if place is None:
            return None
        row, reason = place
        lr_factors = [float(each.planned["lr_factor"]) for each in states]
        scored = scored_of(self._dimensions, states, guide, lr_factors)
        factors = self._suggested(scored, len(states))
        params, unique, tokens = int(row["params"]), int(row["unique_tokens"]), int(row["tokens"])
        predicted = None
        if guide is not None:
            points = self._menu.points(tokens, unique)
            found = guide.predict(
                [params] * len(points), points, [unique] * len(points), noise=True
            )
            # Of its lowest loss, which it will show whether it ends early or not.
            lowest = int(found.value.argmin())
            value, low, high = (float(v[lowest]) for v in (found.value, found.low, found.high))
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
            weights=self._dimensions.weights_of(factors),
        )

    def turning(self, states: Sequence[TrajectoryState]) -> Turning:
        """Return after how many epochs curves are done, by all that were observed so far."""
        rule, curves = self._rule, []
        for state in states:
            seen = [row for row in state.observations if row["loss"] is not None]
            if not seen:
                continue
            count = done_after(
                *curve_of(seen),
                margin=rule.margin,
                deviations=rule.deviations,
                points=rule.points,
            )
            unique = state.config.unique_tokens
            epochs = seen[(count or len(seen)) - 1]["tokens"] / unique
            curves.append(Curve(state.config.params, unique, epochs, count is not None))
        return Turning.of(*self._menu.middle, curves)

    def candidates(self, states: Sequence[TrajectoryState], available: float) -> pd.DataFrame:
        """Return the trajectories worth buying, one for each (N, U) at most.

        Each is the shortest that is long enough to turn, or what comes nearest to it; where even
        the longest that the study allows would rarely turn, that one counts as worth buying.

        Args:
            states: Every trajectory planned so far.
            available: Exact FLOPs that one may cost.

        Returns:
            Columns of the menu's table; `chance`, of turning within it; `done`, the epochs by
            which it is done as likely as not, and `usual`, what it has cost then; `expected`, what
            it costs in the mean. None of them is more than the plan's own.
        """
        turning, table = self.turning(states), self._menu.table
        place = ["params", "unique_tokens"]
        n, u = (table[name].to_numpy(np.float64) for name in place)
        enough = table["epochs"] >= turning.quantile(n, u, LONG_ENOUGH)
        shortest = table["epochs"].where(enough).groupby([table[name] for name in place])
        used = turning.expected(n, u, table["epochs"])
        done = np.minimum(turning.quantile(n, u, 0.5), table["epochs"])
        if self._study.search.early_end is None:
            used = done = table["epochs"]
        table = table.assign(
            chance=turning.chance(n, u, table["epochs"]),
            done=done,
            usual=table["cost"] * done / table["epochs"],
            expected=table["cost"] * used / table["epochs"],
            longest=table["epochs"] == table.groupby(place)["epochs"].transform("max"),
        )[~enough | (table["epochs"] == shortest.transform("min"))]
        table = table[table["cost"] <= available].sort_values("epochs", kind="stable")
        table = table.drop_duplicates(place, keep="last").sort_index()
        worth = table[(table["chance"] >= WORTH_BUYING) | table["longest"]]
        if worth.empty and len(states) < START_TRAJECTORIES:
            # A budget too small for curves that turn still gets its start, as far as it goes.
            worth = table if all(state.ended for state in states) else worth
        return worth.drop(columns="longest").reset_index(drop=True)

    def _start(self) -> pd.DataFrame:
        """Return the start as it looks before anything has turned, the cheapest first."""
        allowance = self._study.search.initial_fraction * self._study.budget.flops
        table = self.candidates([], self._study.budget.flops)
        turns = table[table["chance"] >= WORTH_BUYING]
        table = (table if turns.empty else turns).sort_values("usual", kind="stable")
        # The dearest places go first, until what spreads over the others fits.
        for count in range(len(table), 0, -1):
            start = spread_over(table.head(count).reset_index(drop=True), START_TRAJECTORIES)
            if count <= START_TRAJECTORIES or start["usual"].sum() <= allowance:
                break
        return start.sort_values("usual", kind="stable").reset_index(drop=True)

    def outlook(self) -> tuple[int, int]:
        """Return the fewest and the most trajectories that the start may leave money for."""
        left = self._study.budget.flops - float(self.start["usual"].sum())
        usual = self.candidates([], self._study.budget.flops)["usual"]
        if usual.empty or left <= 0:
            return 0, 0
        return int(left // usual.max()), int(left // usual.min())

    def _place(
        self, states: Sequence[TrajectoryState], guide: Fit | None, available: float, fits: Fits
    ) -> "tuple[pd.Series[float], str] | None":
        candidates = fitting(self.candidates(states, available), fits)
        if candidates.empty:
            return None
        planned = {(state.config.params, state.config.unique_tokens) for state in states}
        for row in self.start.itertuples():
            there = (candidates["params"] == row.params) & (
                candidates["unique_tokens"] == row.unique_tokens
            )
            if (int(row.params), int(row.unique_tokens)) not in planned and there.any():
                return candidates[there].iloc[0], "start: fills the space of N and U"
        if guide is None:
            return self._any_of(candidates, len(states)), AT_RANDOM
        return self._steer(guide, candidates, states)

    def _steer(
        self, guide: Fit, candidates: pd.DataFrame, states: Sequence[TrajectoryState]
    ) -> "tuple[pd.Series[float], str]":
        target = self._study.target.unique_tokens
        assert target is not None
        runs = self.expected(candidates)
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
        scores = gains.sum(axis=1) * _REPEATED ** np.array(times) * candidates["chance"].to_numpy()
        scores = scores / self._prices(states, candidates, runs.cost) ** COST_EXPONENT
        best = int(np.argmax(scores))
        cut = float(gains[best].sum() / before.sum())
        spent = runs.cost[best] / self._study.budget.flops
        chosen = candidates.iloc[best]
        return chosen, (
            f"cuts the variance of the answers for {target:.3g} unique tokens by {cut:.0%}, for "
            f"about {spent:.1%} of the budget: its curve should be done by {chosen['done']:.3g} "
            "epochs"
        )

    def _prices(
        self, states: Sequence[TrajectoryState], candidates: pd.DataFrame, flops: FloatArray
    ) -> FloatArray:
        """Return what candidates are weighed by, [R]: FLOPs and an overhead, or device seconds."""
        seconds = self._seconds(states, candidates["params"].to_numpy(float), flops)
        if seconds is not None:
            return seconds
        return flops + OVERHEAD_SHARE * float(self._menu.table["cost"].max())

    def expected(self, candidates: pd.DataFrame) -> Trajectories:
        """Return what candidates should show and cost: their points up to where they are done."""
        ends = self._study.search.early_end is not None
        rows = []
        for row in candidates.itertuples():
            params, unique = int(row.params), int(row.unique_tokens)
            points = self._menu.points(int(row.tokens), unique)
            if ends:
                last = sum(point < row.done * unique for point in points) + 1
                points = points[:last]
            rows.append((params, unique, points, float(row.expected)))
        return _joined(rows)


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
