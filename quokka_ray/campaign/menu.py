"""The menu: every run that a study could buy, with its exact price.

Sizes are the rungs of the model family's ladder, prices are spread evenly over the logarithm of
the allowed range, and tokens follow from the price: whole optimiser steps, never more than the
price buys.
"""

import math
from dataclasses import dataclass

import pandas as pd

from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import (
    count_params,
    count_params_non_embedding,
    evaluation_flops,
    training_flops,
)
from quokka_ray.model.shapes import ladder
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.trajectory import Shape

PRICES = 25
"""Price levels of the menu, evenly spaced in the logarithm."""

MIN_STEPS = 100
"""Shorter runs are mostly warmup: they say nothing of size or data."""


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

    def cost(self, steps: int) -> float:
        """Return the exact FLOPs of a run of `steps` optimiser steps, evaluated once."""
        return steps * self.step_flops + self.evaluation_flops

    def steps_for(self, flops: float) -> int:
        """Return the most optimiser steps that `flops` exact FLOPs buy."""
        return max(0, math.floor((flops - self.evaluation_flops) / self.step_flops))


def price(shape: Shape, study: StudyConfig, vocab_size: int) -> Rung:
    """Return what runs of `shape` cost under the study's recipe and evaluation."""
    step_tokens = study.training.batch_sequences * study.model.seq_len
    return Rung(
        shape=shape,
        params=count_params(shape, study.model, vocab_size),
        params_non_embedding=count_params_non_embedding(shape, study.model, vocab_size),
        step_flops=training_flops(shape, study.model, vocab_size, step_tokens),
        evaluation_flops=evaluation_flops(shape, study.model, vocab_size, study.evaluation),
        step_tokens=step_tokens,
    )


class Menu:
    """The runs that a study may choose from.

    Args:
        study: The study.
        vocab_size: Real tokens K of its corpus.
        train_tokens: Tokens of its training split; a run never reads one twice.

    Raises:
        ConfigurationError: No run lies within the study's ranges, or the budget does not hold
            the cheapest one.
    """

    def __init__(self, study: StudyConfig, vocab_size: int, train_tokens: int) -> None:
        search = study.search
        self.unique_tokens = min(search.unique_tokens or train_tokens, train_tokens)
        shapes = ladder(study.model, vocab_size, search.params.low, search.params.high)
        rungs = [price(shape, study, vocab_size) for shape in shapes]
        self.rungs = {rung.params: rung for rung in rungs}
        if not self.rungs:
            raise ConfigurationError(
                f"search.params: no model of the family lies between {search.params.low:g} and "
                f"{search.params.high:g} parameters (the smallest width is model.head_dim = "
                f"{study.model.head_dim}, the vocabulary {vocab_size})"
            )
        self._search = search
        self.table = self._table()
        if self.table.empty:
            raise ConfigurationError(
                "no run lies within search.params, search.run_flops, search.tokens_per_param and "
                f"the corpus's {self.unique_tokens:,} unique tokens; widen one of them"
            )
        if study.budget.flops < self.table["cost"].min():
            raise ConfigurationError(
                f"budget.flops = {study.budget.flops:.3g} is too small: the cheapest run of this "
                f"study costs {self.smallest_cost:.3g} exact FLOPs"
            )

    @property
    def smallest_cost(self) -> float:
        """Exact FLOPs of the cheapest run."""
        return float(self.table["cost"].min())

    def affordable(self, flops: float) -> pd.DataFrame:
        """Return the runs that cost at most `flops`, with one sized to use up just that.

        Returns:
            Columns params, tokens, cost; empty when not even the cheapest fits.
        """
        fits = self.table[self.table["cost"] <= flops]
        if fits.empty or flops >= self._search.run_flops.high:
            return fits.reset_index(drop=True)
        return (
            pd.concat([fits, self.at_price(flops)])
            .drop_duplicates(["params", "tokens"])
            .reset_index(drop=True)
        )

    def at_price(self, flops: float) -> pd.DataFrame:
        """Return the longest run of each size that costs at most `flops`, smallest size first.

        Returns:
            Columns params, tokens, cost; sizes for which no such run is allowed are left out.
        """
        rows = [self._row(rung, flops) for rung in self.rungs.values()]
        return pd.DataFrame([row for row in rows if row], columns=["params", "tokens", "cost"])

    def _table(self) -> pd.DataFrame:
        low, high = self._search.run_flops.low, self._search.run_flops.high
        count = 1 if low == high else PRICES
        ratio = (high / low) ** (1 / max(1, count - 1))
        levels = [low * ratio**step * (1 + 1e-9) for step in range(count)]
        table = pd.concat([self.at_price(level) for level in levels])
        return table.drop_duplicates(["params", "tokens"]).reset_index(drop=True)

    def _row(self, rung: Rung, flops: float) -> dict[str, float] | None:
        steps = rung.steps_for(flops)
        tokens = steps * rung.step_tokens
        per_param = self._search.tokens_per_param
        if (
            steps < MIN_STEPS
            or tokens > self.unique_tokens
            or not per_param.low <= tokens / rung.params <= per_param.high
        ):
            return None
        return {"params": rung.params, "tokens": tokens, "cost": rung.cost(steps)}
