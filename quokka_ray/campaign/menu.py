"""The menu: every run that a study could buy, with its exact price.

Sizes are the rungs of the model family's ladder; levels of compute are spaced evenly in the
logarithm and stated in 6ND, the law's own unit, so that runs of one level draw an IsoFLOP curve.
Tokens follow: whole optimiser steps. What a run costs is counted in exact FLOPs, the branches to
its earlier observations included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.units import format_flops
from quokka_ray.corpus import TokenCorpus
from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import (
    count_params,
    count_params_non_embedding,
    evaluation_flops,
    training_flops,
)
from quokka_ray.model.shapes import ladder
from quokka_ray.study.config import DiffusionConfig, EarlyEnd, LRScheduleName, StudyConfig
from quokka_ray.study.path import path_steps, spaced_points
from quokka_ray.study.recipe import Recipe, batch_levels
from quokka_ray.study.trajectory import Shape, TrajectoryConfig

LEVELS_PER_DECADE = 12
"""Levels of compute in a factor of ten."""

MIN_STEPS = 100
"""Observations after fewer are mostly of warmup: they say nothing of size or data."""


@dataclass(frozen=True)
class Rung:
    """One size, and what it costs.

    Attributes:
        params: N, total parameters.
        step_flops: Exact FLOPs of one optimiser step.
        evaluation_flops: Exact FLOPs of one evaluation.
    """

    shape: Shape
    params: int
    params_non_embedding: int
    step_flops: float
    evaluation_flops: float
    step_tokens: int

    def cost(self, steps: int, evaluations: int = 1) -> float:
        """Return the exact FLOPs of `steps` optimiser steps in all and of some evaluations."""
        return steps * self.step_flops + evaluations * self.evaluation_flops


@dataclass(frozen=True)
class Run:
    """One run of the menu with a recipe of its own.

    Attributes:
        study: The study as the run has it.
        rung: Its size; with another kernel N may be another one too.
        tokens: D, a whole number of its own optimiser steps.
        points: Token counts at which it is observed, ascending; the last is `tokens`.
        cost: Exact FLOPs.
    """

    study: StudyConfig
    rung: Rung
    tokens: int
    points: tuple[int, ...]
    cost: float


def price(shape: Shape, study: StudyConfig, vocab_size: int) -> Rung:
    """Return what runs of `shape` cost under the study's recipe and evaluation."""
    step_tokens = study.training.batch_sequences * study.model.seq_len
    return Rung(
        shape=shape,
        params=count_params(shape, study.model, vocab_size),
        params_non_embedding=count_params_non_embedding(shape, study.model, vocab_size),
        step_flops=training_flops(shape, study.model, vocab_size, step_tokens, study.diffusion),
        evaluation_flops=evaluation_flops(
            shape, study.model, vocab_size, study.evaluation, study.diffusion
        ),
        step_tokens=step_tokens,
    )


def plan_run(
    name: str,
    study: StudyConfig,
    corpus: TokenCorpus,
    rung: Rung,
    *,
    tokens: int,
    unique_tokens: int,
    lr: float,
    lr_schedule: LRScheduleName,
    seed: int,
    earlier_points: Sequence[int] = (),
    early_end: EarlyEnd | None = None,
    mixture: dict[str, float] | None = None,
) -> TrajectoryConfig:
    """Return the complete configuration of one run of a study.

    Args:
        name: The trajectory's id.
        study: The study whose family, recipe and evaluation it shares.
        corpus: The study's prepared corpus.
        rung: Its size.
        tokens: D, a whole number of optimiser steps.
        unique_tokens: Tokens that it may read.
        lr: Peak learning rate.
        lr_schedule: Learning-rate schedule.
        seed: Of its initialisation, masks and window order.
        earlier_points: Token counts at which it is observed before D, whole steps too.
        early_end: When it ends before D; None: never.
        mixture: Weights of the corpus's parts, where a study searches them.
    """
    points = [point // rung.step_tokens for point in (*earlier_points, tokens)]
    return TrajectoryConfig(
        id=name,
        study=study.name,
        corpus=corpus.path,
        corpus_store=study.corpus.fetched_from,
        corpus_hash=corpus.hash,
        tokenizer=corpus.tokenizer_id,
        mixture=mixture,
        vocab_size=corpus.vocab_size,
        end_of_document=(
            corpus.tokenizer().end_of_document
            if study.model.document_attention == "within"
            else None
        ),
        model=study.model,
        shape=rung.shape,
        diffusion=study.diffusion,
        training=study.training,
        evaluation=study.evaluation,
        tokens=tokens,
        earlier_points=tuple(earlier_points),
        unique_tokens=unique_tokens,
        early_end=early_end,
        lr=lr,
        lr_schedule=lr_schedule,
        seed=seed,
        params=rung.params,
        params_non_embedding=rung.params_non_embedding,
        flops=6.0 * rung.params * tokens,
        flops_exact=rung.cost(path_steps(points, lr_schedule, study.training), len(points)),
        flops_evaluation=rung.evaluation_flops,
    )


def priced_rungs(study: StudyConfig, vocab_size: int) -> dict[int, Rung]:
    """Return the sizes within `search.params` by N, smallest first.

    Raises:
        ConfigurationError: There is none.
    """
    search, model = study.search, study.model
    shapes = ladder(model, vocab_size, search.params.low, search.params.high)
    rungs = [price(shape, study, vocab_size) for shape in shapes]
    if not rungs:
        smallest = count_params(ladder(model, vocab_size, 0, math.inf)[0], model, vocab_size)
        raise ConfigurationError(
            f"search.params: no model of model.family {model.family} lies between "
            f"{search.params.low:g} and {search.params.high:g} parameters: with "
            f"model.head_dim {model.head_dim} and a vocabulary of {vocab_size} the "
            f"smallest has {smallest:,}"
        )
    return {rung.params: rung for rung in rungs}


class Menu:
    """The runs that a study may choose from.

    Args:
        study: The study.
        vocab_size: Real tokens K of its corpus.
        train_tokens: Tokens of its training split; a run reads none more than
            `search.max_epochs` times.

    Raises:
        ConfigurationError: No run lies within the study's ranges, or the budget does not hold
            the cheapest one.
    """

    def __init__(self, study: StudyConfig, vocab_size: int, train_tokens: int) -> None:
        search = study.search
        wanted = search.unique_tokens
        self.unique_tokens = min(wanted if isinstance(wanted, int) else train_tokens, train_tokens)
        self.rungs = priced_rungs(study, vocab_size)
        self._study, self._vocab_size = study, vocab_size
        self._search = search
        self._training = study.training
        self._priced: dict[tuple[int, int, DiffusionConfig], Rung] = {}
        self._step_tokens = next(iter(self.rungs.values())).step_tokens
        self.table = (
            pd.concat([self.at_level(level) for level in self.levels])
            .drop_duplicates(["params", "tokens"])
            .reset_index(drop=True)
        )
        if self.table.empty:
            raise ConfigurationError(
                "no run lies within search.params, search.run_flops, search.tokens_per_param, "
                f"search.max_epochs ({search.max_epochs:g}) of the corpus's "
                f"{self.unique_tokens:,} unique tokens, and {MIN_STEPS} steps to the first of "
                f"search.observations ({search.observations}); widen one of them"
            )
        if study.budget.flops < self.table["cost"].min():
            raise ConfigurationError(
                f"budget.flops = {format_flops(study.budget.flops)} is too small: the cheapest "
                f"run of this study costs {format_flops(self.smallest_cost)} exact FLOPs; "
                "raise it, or lower search.run_flops and search.params"
            )

    def run(self, params: int, tokens: int, recipe: Recipe) -> Run:
        """Return a run of the menu with what differs in its recipe, its tokens rounded down.

        Args:
            params: N of one of the rungs.
            tokens: D as the menu has it.
            recipe: What differs; its batch is one of `batches`.
        """
        study = self._study.with_recipe(recipe)
        rung = self.rungs[params]
        if study is not self._study:
            key = (params, study.training.batch_sequences, study.diffusion)
            if key not in self._priced:
                self._priced[key] = price(rung.shape, study, self._vocab_size)
            rung = self._priced[key]
        points = self._point_steps(tokens // rung.step_tokens)
        cost = self._cost_of(rung, points)
        counts = tuple(point * rung.step_tokens for point in points)
        return Run(study, rung, counts[-1], counts, cost)

    def batches(self, tokens: int) -> tuple[int, ...]:
        """Return the batches, in sequences, with which a run of `tokens` is long enough.

        The study's own is always among what a run may have, whether it is listed or not.
        """
        own = self._training.batch_sequences
        length = self._step_tokens // own
        return tuple(
            batch
            for batch in batch_levels(self._search, own)
            if self._point_steps(tokens // (batch * length))[0] >= MIN_STEPS
        ) or (own,)

    @property
    def smallest_cost(self) -> float:
        """Exact FLOPs of the cheapest run."""
        return float(self.table["cost"].min())

    def points(self, tokens: int) -> tuple[int, ...]:
        """Return the token counts at which a run of `tokens` tokens is observed, ascending."""
        steps = self._point_steps(tokens // self._step_tokens)
        return tuple(point * self._step_tokens for point in steps)

    def _point_steps(self, steps: int) -> tuple[int, ...]:
        search = self._search
        return spaced_points(steps, search.observations, search.observation_ratio)

    def _cost(self, rung: Rung, steps: int) -> float:
        """Return the exact FLOPs of a run of `steps` steps to its last observation."""
        return self._cost_of(rung, self._point_steps(steps))

    def _cost_of(self, rung: Rung, points: tuple[int, ...]) -> float:
        # Schedules of one study cost the same: those with several points all have the same
        # branches, and all others have none.
        path = path_steps(points, self._search.lr_schedule[0], self._training)
        return rung.cost(path, len(points))

    def _steps_for(self, rung: Rung, flops: float) -> int:
        """Return the most steps to the last observation that `flops` exact FLOPs buy."""
        low, high = 0, max(0, math.floor(flops / rung.step_flops))
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(rung, middle) <= flops:
                low = middle
            else:
                high = middle - 1
        return low

    def affordable(self, flops: float) -> pd.DataFrame:
        """Return the runs that cost at most `flops`, with one sized to use up just that.

        Returns:
            Columns params, tokens, cost; empty when not even the cheapest fits.
        """
        fits = self.table[self.table["cost"] <= flops]
        if fits.empty or flops >= self.table["cost"].max():
            return fits.reset_index(drop=True)
        rows = [self._row(rung, self._steps_for(rung, flops)) for rung in self.rungs.values()]
        last = pd.DataFrame([row for row in rows if row], columns=fits.columns)
        return pd.concat([fits, last]).drop_duplicates(["params", "tokens"]).reset_index(drop=True)

    @property
    def levels(self) -> list[float]:
        """The levels of compute, 6ND, smallest first."""
        low, high = self._search.run_flops.low, self._search.run_flops.high
        count = 1 + math.floor(LEVELS_PER_DECADE * math.log10(high / low) + 1e-9)
        return [low * 10 ** (number / LEVELS_PER_DECADE) for number in range(count)]

    def at_level(self, flops: float) -> pd.DataFrame:
        """Return the runs of about `flops` FLOPs (6ND), smallest size first.

        Returns:
            Columns params, tokens, cost; sizes for which no such run is allowed are left out.
        """
        rows = [
            self._row(rung, round(flops / (6 * rung.params * rung.step_tokens)))
            for rung in self.rungs.values()
        ]
        return pd.DataFrame([row for row in rows if row], columns=["params", "tokens", "cost"])

    def _row(self, rung: Rung, steps: int) -> dict[str, float] | None:
        tokens = steps * rung.step_tokens
        per_param = self._search.tokens_per_param
        if (
            self._point_steps(steps)[0] < MIN_STEPS
            or tokens > self._search.max_epochs * self.unique_tokens
            or not per_param.low <= tokens / rung.params <= per_param.high
        ):
            return None
        return {"params": rung.params, "tokens": tokens, "cost": self._cost(rung, steps)}
