"""Steering: which run to buy next.

A start that fills the space comes first (`start.py`), and then the run that tests its law. From
then on size and data are placed where a trajectory, with all its observations, is expected to cut
the variance of the target's answer most for its price under the forms of the law that the runs
leave open (`analysis.steering`), and Optuna places the other dimensions around it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray
from analysis.laws.mixture import PREFIX
from analysis.steering.choosing import Account, Choice, choose
from analysis.steering.stopping import Trust
from analysis.units import format_flops
from quokka_ray.campaign.arrival import Arrival
from quokka_ray.campaign.beliefs import Beliefs, Predicted
from quokka_ray.campaign.devices import Fits, anything
from quokka_ray.campaign.dimensions import Place
from quokka_ray.campaign.factors import Scored, scored_of
from quokka_ray.campaign.menu import Menu, Run
from quokka_ray.campaign.promises import promised
from quokka_ray.campaign.proposals import AT_RANDOM, Proposal, Proposer, fitting, room_for
from quokka_ray.campaign.start import start_design
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.corpus import shares_of
from quokka_ray.study.recipe import Recipe
from quokka_ray.study.trajectory import TrajectoryConfig

LR_TRUST = 30.0
"""A learning-rate law that leaves the stated rate by more than this factor is not followed."""

LARGEST_SHARE = 1 / 3
"""A run at random costs at most this share of what was spent before it."""

REPLICATES = 0.1
"""Share of the trials that may repeat a size and token count: to learn the noise, a few do."""


def taken(states: Sequence[TrajectoryState]) -> set[tuple[int, int]]:
    """Return the places that were bought; a hopeless trial leaves its own free."""
    return {state.place for state in states if state.hopeless_excess is None}


class Steering(Proposer):
    """Chooses sizes and tokens for one study.

    Args:
        study: The study.
        menu: The runs that it may buy.
    """

    def __init__(self, study: StudyConfig, menu: Menu) -> None:
        super().__init__(study)
        self._menu = menu
        self.start = start_design(study, menu)
        self.beliefs = Beliefs(study, menu)
        self._arrival = Arrival(study.target, self.beliefs)

    def propose(
        self,
        states: Sequence[TrajectoryState],
        guide: Fit | None,
        available: float,
        fits: Fits = anything,
    ) -> Proposal | None:
        """Return the next run; its learning rate is relative to the guide's."""
        place = self._place(states, guide, available, fits)
        if place is None:
            return None
        params, tokens, _, reason = place
        scored = self._scored(states, guide, Place(params, tokens))
        factors = self._suggested(scored, len(states))
        recipe, run = self.affordable_recipe(factors, params, tokens, available)
        batch = run.rung.step_tokens
        center = float(self._lr_centers(guide, [run.rung.params], [run.tokens], [batch])[0])
        lr, schedule = center * factors["lr_factor"], factors["lr_schedule"]
        weights = self._dimensions.weights_of(factors)
        return Proposal(
            params=params,
            tokens=tokens,
            unique_tokens=self._menu.unique_tokens,
            cost=run.cost,
            lr=lr,
            lr_factor=factors["lr_factor"],
            lr_schedule=schedule,
            reason=reason,
            predicted=self._predict(states, guide, run, lr, schedule, weights),
            weights=weights,
            recipe=recipe,
        )

    def can_buy(self, states: Sequence[TrajectoryState], available: float) -> bool:
        """Return whether any run can be paid for."""
        return available >= self._menu.smallest_cost

    def trust(self, guide: Fit | None, states: Sequence[TrajectoryState]) -> Trust:
        """Return what became of predictions of runs larger than all before them."""
        return self.beliefs.trust_now(guide, states)

    @property
    def arrived_with(self) -> int:
        """Observations with which the target was reached; 0: it was not."""
        return self._arrival.rows

    def arrived(
        self,
        guide: Fit | None,
        states: Sequence[TrajectoryState],
        reported: Callable[[], Fit | None],
    ) -> bool:
        """Return whether the target ends the search, once a law of its start has been tested."""
        # Nothing is claimed before the start is over: its runs, and the one that tests its law.
        started = sum(state.ended is not None for state in states) > len(self.start)
        if self._study.target.stop == "budget" or guide is None or not started:
            return False
        return self._arrival.reached(guide, states, reported)

    def promised(
        self,
        config: TrajectoryConfig,
        predicted: Predicted | None,
        guide: Fit | None,
        states: Sequence[TrajectoryState],
    ) -> TrajectoryConfig:
        """Return a planned run with what its training loss is held to on its way."""
        return promised(self._study, self.beliefs, config, predicted, guide, states)

    def _place(
        self, states: Sequence[TrajectoryState], guide: Fit | None, available: float, fits: Fits
    ) -> tuple[int, int, float, str] | None:
        planned = taken(states)
        for row in self.start.itertuples():
            new = (row.params, row.tokens) not in planned and row.cost <= available
            if new and fits(row.params, row.cost):
                reason = f"start: IsoFLOP at {format_flops(row.flops, 2)} FLOPs"
                return int(row.params), int(row.tokens), float(row.cost), reason
        reach = self._reach(states, guide, available)
        if reach is not None and fits(reach[0], reach[2]):
            return reach
        if guide is not None:
            return self._steer(states, guide, available, fits)
        spent = sum(state.flops_spent for state in states)
        ceiling = max(LARGEST_SHARE * spent, self._menu.smallest_cost)
        candidates = fitting(self._menu.affordable(min(available, ceiling)), fits)
        if candidates.empty:
            return None
        chosen = self._any_of(candidates, len(states))
        return int(chosen["params"]), int(chosen["tokens"]), float(chosen["cost"]), AT_RANDOM

    def _reach(
        self, states: Sequence[TrajectoryState], guide: Fit | None, available: float
    ) -> tuple[int, int, float, str] | None:
        """Return the largest run, near the law's optimum, once: the first test of the law.

        It is predicted from smaller runs alone, as the target is, and the range of compute that
        a law was fitted on decides most of how far it can be trusted.
        """
        if guide is None:
            return None
        top = self._menu.levels[-1]
        runs = self._menu.at_level(top)
        runs = runs[runs["cost"] <= available]
        if runs.empty or any(
            6.0 * state.config.params * state.config.tokens > 0.9 * top for state in states
        ):
            return None
        best = guide.optimum(top).params.value
        distance = np.abs(np.log(runs["params"].to_numpy(float) / best))
        chosen = runs.iloc[int(distance.argmin())]
        size = format_flops(top, 2)
        reason = f"tests the law at the largest size of run, {size} FLOPs, near its optimum"
        return int(chosen["params"]), int(chosen["tokens"]), float(chosen["cost"]), reason

    def _steer(
        self, states: Sequence[TrajectoryState], guide: Fit, available: float, fits: Fits
    ) -> tuple[int, int, float, str] | None:
        """Return the run that tells most of the target for its price, and what it would tell."""
        belief = self.beliefs.of(guide, states)
        table, market, running = self.beliefs.offered(available, states)
        sizes, tokens, cost = (table[c].to_numpy(float) for c in ("params", "tokens", "cost"))
        seconds = self._seconds(states, sizes, cost)
        room = room_for(table, fits)
        budget = self._study.budget.flops
        bought = tuple(range(len(table), market.candidates.count))
        work = 6.0 * sizes * tokens
        payable = room & (cost <= available)
        payable &= np.log(work) >= self.beliefs.trust.log_floor - 1e-9
        planned = taken(states)
        places = zip(table["params"], table["tokens"], strict=True)
        known = np.array([(int(n), int(d)) in planned for n, d in places])

        def best(allowed: np.ndarray) -> Choice | None:
            open_ = np.concatenate([allowed, np.zeros(len(bought), dtype=bool)])
            rng = np.random.default_rng([self._study.seed, len(states)])
            account = Account(
                budget,
                budget - available,
                bought,
                running,
                open_,
                unlisted=len(states) - len(bought),
                # Those that were bought are not open: whatever they would cost.
                prices=None if seconds is None else np.append(seconds, np.ones(len(bought))),
            )
            return choose(market, belief, account, rng)

        choice = best(payable) if self._may_replicate(states) else None
        if choice is None or not known[choice.index]:
            choice = best(payable & ~known) or best(payable)
        if choice is None:
            if not room.any():
                return None
            # Only runs too small to be trusted can be paid for: they still tell the noise.
            chosen = table.loc[table["cost"].where(room).idxmin()]
            reason = "the cheapest: nothing that the law trusts can be paid for any more"
        else:
            chosen, reason = table.iloc[choice.index], choice.reason
            if seconds is not None:
                reason += f", some {seconds[choice.index]:.3g} s of device time"
            if known[choice.index]:
                reason = f"a replicate, to learn the noise: {reason}"
        return int(chosen["params"]), int(chosen["tokens"]), float(chosen["cost"]), reason

    @staticmethod
    def _may_replicate(states: Sequence[TrajectoryState]) -> bool:
        places = {state.place for state in states}
        return len(states) - len(places) < REPLICATES * len(states)

    def affordable_recipe(
        self, factors: Mapping[str, Any], params: int, tokens: int, available: float
    ) -> tuple[Recipe, Run]:
        """Return the suggested recipe, as far as it can be paid for, and the run with it.

        Noise of another kind computes more logits, and a larger batch may round a branch up: a
        run that the place's price held, and its recipe's does not, falls back to what is the
        study's own.
        """
        wanted = self._dimensions.recipe_of(factors, self._menu.batches(tokens))
        plain = replace(wanted, noise=None)
        for recipe in (wanted, plain, replace(plain, batch_sequences=None)):
            run = self._menu.run(params, tokens, recipe)
            if run.cost <= available:
                break
        return recipe, run

    def _predict(
        self,
        states: Sequence[TrajectoryState],
        guide: Fit | None,
        run: Run,
        lr: float,
        schedule: str,
        weights: Mapping[str, float],
    ) -> Predicted | None:
        if guide is None:
            return None
        shares = shares_of(self._study.corpus.weights_at(weights)) if weights else {}
        return self.beliefs.predict(
            guide,
            states,
            params=run.rung.params,
            tokens=run.tokens,
            lr=lr,
            lr_schedule=schedule,
            recipe={
                **{PREFIX + part: [share] for part, share in shares.items()},
                **self._dimensions.told_columns(run.study, run.rung.step_tokens),
            },
        )

    def _lr_centers(
        self,
        guide: Fit | None,
        params: Sequence[int],
        tokens: Sequence[int],
        batches: Sequence[int],
    ) -> FloatArray:
        """Return the learning rates that factors are relative to, [R]; batches in tokens."""
        prior = self._study.training.lr
        if guide is None:
            return np.full(len(params), prior)
        fitted = guide.response.lr_optimum(params, tokens, batches)
        return np.clip(fitted, prior / LR_TRUST, prior * LR_TRUST)

    def _scored(
        self, states: Sequence[TrajectoryState], guide: Fit | None, place: Place
    ) -> list[Scored]:
        configs = [state.config for state in states]
        centers = self._lr_centers(
            guide,
            [config.params for config in configs],
            [config.tokens for config in configs],
            [config.batch_tokens for config in configs],
        )
        rates = np.array([config.lr for config in configs])
        return scored_of(self._dimensions, states, guide, (rates / centers).tolist(), place)
