"""Steering: which run to buy next.

A start that fills the space comes first: several sizes at each of a few shared levels of compute,
cheap ones first, so that both arms of each IsoFLOP curve are seen before any law is trusted.
From then on the law that was refitted last places size and data where a run cuts the uncertainty
of the target's answer most per FLOP, and Optuna places the other dimensions around it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.design import Tolerances, expected_widths, score_candidates, space_filling
from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray
from quokka_ray.campaign.factors import Scored, suggest_factors
from quokka_ray.campaign.ledger import TrajectoryState
from quokka_ray.campaign.menu import LEVELS_PER_DECADE, Menu
from quokka_ray.study.config import LRScheduleName, StudyConfig

START_SIZES = 6
"""Sizes at each level of the start."""

START_LEVELS = LEVELS_PER_DECADE // 2
"""The start takes every so manieth level of the menu: two in a factor of ten."""

COST_EXPONENT = 0.4
"""A candidate's score is divided by its cost to this power: under 1, so that a few larger runs
are bought although many small ones carry more information on a law that is taken to be right."""

DIVERGED_EXCESS = 1.0
"""What a diverged trial scores: far worse than any that trained."""

OVERHEAD_SHARE = 0.02
"""What any run is taken to cost besides, as a share of the largest: else a great many of the
cheapest runs look best, which say most of a law that is taken to be right and least of whether
it is."""

LR_TRUST = 30.0
"""A learning-rate law that leaves the stated rate by more than this factor is not followed."""

LARGEST_SHARE = 1 / 3
"""A run costs at most this share of what was spent before it."""


@dataclass(frozen=True)
class Predicted:
    """The loss that the law expects of a run before it is trained: nats per token, 90 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Proposal:
    """A run worth buying, and why."""

    params: int
    tokens: int
    cost: float
    lr: float
    lr_factor: float
    lr_schedule: LRScheduleName
    reason: str
    predicted: Predicted | None


def start_design(study: StudyConfig, menu: Menu) -> pd.DataFrame:
    """Return the space-filling start.

    Returns:
        Columns params, tokens, cost, flops (the level, 6ND), and observed_at (token counts) where
        a run is observed more than once. Its total cost is at most
        `search.initial_fraction` of the budget, or that of one level if even this does not fit.
    """
    levels = menu.levels[::START_LEVELS]
    start = space_filling(
        [menu.at_level(level) for level in levels],
        allowance=study.search.initial_fraction * study.budget.flops,
        sizes=START_SIZES,
    )
    start["flops"] = [levels[int(level)] for level in start["level"]]
    if study.search.observations > 1:
        start["observed_at"] = [
            " ".join(map(str, menu.points(int(tokens)))) for tokens in start["tokens"]
        ]
    return start.drop(columns="level")


class Steering:
    """Chooses runs for one study.

    Args:
        study: The study.
        menu: The runs that it may buy.
    """

    def __init__(self, study: StudyConfig, menu: Menu) -> None:
        self._study = study
        self._menu = menu
        self.start = start_design(study, menu)

    def propose(
        self,
        states: Sequence[TrajectoryState],
        fit: Fit | None,
        guide: Fit | None,
        available: float,
    ) -> Proposal:
        """Return the next run.

        Args:
            states: Every trajectory planned so far.
            fit: The law as it was reported last, if there is one: it predicts. What is
                predicted is written down, and decides nothing.
            guide: The five-parameter law of all runs, which says what a run would tell, and sets
                learning rates.
            available: Exact FLOPs that the run may cost; at least the menu's cheapest run.
        """
        params, tokens, cost, reason = self._place(states, guide, available)
        center = float(self._lr_centers(guide, [params], [tokens])[0])
        factors = suggest_factors(
            self._study.search,
            self._scored(states, guide),
            seed=self._study.seed * 1_000_003 + len(states),
        )
        lr, schedule = center * factors["lr_factor"], factors["lr_schedule"]
        return Proposal(
            params=params,
            tokens=tokens,
            cost=cost,
            lr=lr,
            lr_factor=factors["lr_factor"],
            lr_schedule=schedule,
            reason=reason,
            predicted=None if fit is None else _predict(fit, params, tokens, lr, schedule),
        )

    def _place(
        self, states: Sequence[TrajectoryState], guide: Fit | None, available: float
    ) -> tuple[int, int, float, str]:
        planned = {(state.config.params, state.config.tokens) for state in states}
        for row in self.start.itertuples():
            if (row.params, row.tokens) not in planned and row.cost <= available:
                reason = f"start: IsoFLOP at {row.flops:.2g} FLOPs"
                return int(row.params), int(row.tokens), float(row.cost), reason
        reach = self._reach(states, guide, available)
        if reach is not None:
            return reach
        spent = sum(state.flops_spent for state in states)
        ceiling = max(spent * LARGEST_SHARE, self._menu.smallest_cost)
        candidates = self._menu.affordable(min(available, ceiling))
        if guide is None:
            rng = np.random.default_rng([self._study.seed, len(states)])
            chosen = candidates.iloc[int(rng.integers(len(candidates)))]
            reason = "at random: no law yet"
        else:
            chosen, reason = self._steer(guide, candidates, states)
        return int(chosen["params"]), int(chosen["tokens"]), float(chosen["cost"]), reason

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
        reason = f"tests the law at the largest size of run, {top:.2g} FLOPs, near its optimum"
        return int(chosen["params"]), int(chosen["tokens"]), float(chosen["cost"]), reason

    def _steer(
        self, guide: Fit, candidates: pd.DataFrame, states: Sequence[TrajectoryState]
    ) -> tuple[pd.Series, str]:
        """Return the candidate that tells most of the target per FLOP, and what it would tell."""
        target = self._study.target
        pending = pd.DataFrame(
            [
                (state.config.params, state.config.tokens)
                for state in states
                if state.ended is None and state.last_observation is None
            ],
            columns=["params", "tokens"],
        )
        scores = score_candidates(
            guide,
            candidates,
            target_flops=target.flops,
            tolerances=Tolerances(params=target.tolerance_params, loss=target.tolerance_loss),
            pending=pending,
            exponent=COST_EXPONENT,
            overhead=OVERHEAD_SHARE * self._study.search.run_flops.high,
        )
        best = int(np.argmax(scores))
        chosen = candidates.iloc[best]
        before = expected_widths(guide, target.flops, pending)
        after = expected_widths(
            guide, target.flops, pd.concat([pending, candidates.iloc[[best]]], ignore_index=True)
        )
        share = chosen["cost"] / self._study.budget.flops
        return chosen, (
            f"cuts the variance of ln N_opt by {1 - (after['params'] / before['params']) ** 2:.0%}"
            f" and of ln loss by {1 - (after['loss'] / before['loss']) ** 2:.0%} at the target, "
            f"for {share:.1%} of the budget"
        )

    def _lr_centers(
        self, guide: Fit | None, params: Sequence[int], tokens: Sequence[int]
    ) -> FloatArray:
        """Return the learning rates that factors are relative to, [R]."""
        prior = self._study.training.lr
        if guide is None:
            return np.full(len(params), prior)
        fitted = guide.response.lr_optimum(params, tokens)
        return np.clip(fitted, prior / LR_TRUST, prior * LR_TRUST)

    def _scored(self, states: Sequence[TrajectoryState], guide: Fit | None) -> list[Scored]:
        """Return what Optuna learns from: not from trajectories that failed or were stopped."""
        excess: dict[str, float] = {}
        if guide is not None:
            # Observations of one trial share its rate and schedule, and score together.
            by_trial = pd.Series(guide.excess).groupby(guide.runs["trajectory"].to_numpy())
            excess = by_trial.mean().to_dict()
        configs = [state.config for state in states]
        centers = self._lr_centers(
            guide, [config.params for config in configs], [config.tokens for config in configs]
        )
        scored = []
        for state, center in zip(states, centers.tolist(), strict=True):
            config = state.config
            status = state.ended["status"] if state.ended else None
            if status == "diverged":
                score: float | None = DIVERGED_EXCESS
            elif state.observations:
                # Without a law the losses of different sizes do not compare: all score alike.
                score = excess.get(config.id, 0.0)
            elif status is None:
                score = None
            else:
                continue
            scored.append(Scored(config.lr / center, config.lr_schedule, score))
        return scored


def _predict(fit: Fit, params: int, tokens: int, lr: float, lr_schedule: str) -> Predicted:
    """Return what the law expects of one run with its own learning rate and schedule."""
    tuned = fit.predict([params], [tokens], noise=True)
    off = math.exp(float(fit.response.penalty([params], [tokens], [lr], [lr_schedule])[0]))
    value, low, high = (float(bound[0]) * off for bound in (tuned.value, tuned.low, tuned.high))
    return Predicted(value, low, high)
