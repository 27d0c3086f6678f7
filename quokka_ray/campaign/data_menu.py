"""The menu of a search over repeated data: trajectories over (N, U), with their exact prices.

Sizes are the rungs of the model family's ladder, unique tokens lie a factor of two apart, and a
trajectory goes through them to one of a few largest numbers of epochs. It is observed on the way
at 1, r, r^2 ... epochs, where the law of epochs is even; observations of fewer than `MIN_STEPS`
steps, which are mostly of warmup, are left out.
"""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.units import format_flops
from quokka_ray.campaign.menu import MIN_STEPS, Run, Rung, priced_rungs
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import Range, StudyConfig
from quokka_ray.study.path import path_steps

FEWEST_POINTS = 4
"""Observations that a curve needs before it can show a minimum past which two lie."""

_EPOCHS_APART = 2.0**0.5
"""Between the last epochs that a trajectory over one (N, U) can be bought for."""


class DataMenu:
    """The trajectories that a study of repeated data may choose from.

    Args:
        study: The study; `search.unique_tokens` is a range.
        vocab_size: Real tokens K of its corpus.
        train_tokens: Tokens of its training split.

    Raises:
        ConfigurationError: The corpus is too small, no trajectory lies within the study's ranges,
            or the budget does not hold the cheapest one.
    """

    def __init__(self, study: StudyConfig, vocab_size: int, train_tokens: int) -> None:
        search = study.search
        assert isinstance(search.unique_tokens, Range)
        if search.unique_tokens.high > train_tokens:
            raise ConfigurationError(
                f"search.unique_tokens goes up to {search.unique_tokens.high:,.0f}, but the "
                f"corpus has {train_tokens:,} training tokens: lower it, or take a larger corpus"
            )
        self.rungs = priced_rungs(study, vocab_size)
        self._study = study
        self._search = search
        self._training = study.training
        self._step_tokens = next(iter(self.rungs.values())).step_tokens
        low, high = search.unique_tokens.low, search.unique_tokens.high
        doublings = math.floor(math.log2(high / low) + 1e-9)
        self.unique_levels = [round(low * 2**number) for number in range(doublings + 1)]
        self.table = pd.DataFrame(
            [
                row
                for rung in self.rungs.values()
                for unique in self.unique_levels
                for row in self._rows(rung, unique)
            ],
            columns=["params", "unique_tokens", "epochs", "tokens", "cost"],
        )
        if self.table.empty:
            raise ConfigurationError(
                "no trajectory lies within search.params, search.unique_tokens, "
                f"search.run_flops and search.max_epochs ({search.max_epochs:g}) with "
                f"{FEWEST_POINTS} observations from {MIN_STEPS} steps on; widen one of them"
            )
        if study.budget.flops < self.smallest_cost:
            raise ConfigurationError(
                f"budget.flops = {format_flops(study.budget.flops)} is too small: the cheapest "
                f"trajectory of this study costs {format_flops(self.smallest_cost)} exact FLOPs; "
                "raise it, or lower search.run_flops and search.params"
            )

    @property
    def smallest_cost(self) -> float:
        """Exact FLOPs of the cheapest trajectory."""
        return float(self.table["cost"].min())

    @property
    def largest_unique(self) -> int:
        """The most unique tokens."""
        return self.unique_levels[-1]

    def points(self, tokens: int, unique_tokens: int) -> tuple[int, ...]:
        """Return the token counts at which a trajectory to `tokens` is observed, ascending."""
        return tuple(
            step * self._step_tokens
            for step in self._point_steps(tokens // self._step_tokens, unique_tokens)
        )

    def run(self, params: int, tokens: int, unique_tokens: int) -> Run:
        """Return a trajectory of the menu: to `tokens`, over so many unique ones."""
        rung, points = self.rungs[params], self.points(tokens, unique_tokens)
        return Run(self._study, rung, tokens, points, self._cost(rung, points))

    def _cost(self, rung: Rung, points: Sequence[int]) -> float:
        """Return the exact FLOPs of a trajectory that is observed at these token counts."""
        steps = [point // self._step_tokens for point in points]
        path = path_steps(steps, self._search.lr_schedule[0], self._training)
        return rung.cost(path, len(points))

    def affordable(self, flops: float) -> pd.DataFrame:
        """Return the trajectories that cost at most `flops`; columns as those of `table`."""
        return self.table[self.table["cost"] <= flops].reset_index(drop=True)

    @property
    def middle(self) -> tuple[float, float]:
        """N and U in the middle of what may be bought, on a logarithmic scale."""
        sizes, levels = list(self.rungs), self.unique_levels
        return math.sqrt(sizes[0] * sizes[-1]), math.sqrt(levels[0] * levels[-1])

    def _point_steps(self, steps: int, unique_tokens: int) -> tuple[int, ...]:
        ratio = self._search.observation_ratio
        per_epoch = unique_tokens / self._step_tokens
        count = math.ceil(math.log(max(steps / per_epoch, 1.0)) / math.log(ratio) - 1e-9)
        places = {round(per_epoch * ratio**number) for number in range(count)}
        # A point that all but coincides with the end would cost an evaluation and show nothing.
        return (*sorted(s for s in places if MIN_STEPS <= s < steps / ratio**0.5), steps)

    def _rows(self, rung: Rung, unique: int) -> list[dict[str, float]]:
        """Return the trajectories of one (N, U), the longest first."""
        search = self._search
        rows: list[dict[str, float]] = []
        most = min(search.max_epochs, search.run_flops.high / (6.0 * rung.params * unique))
        epochs = most
        while True:
            steps = math.floor(epochs * unique / rung.step_tokens)
            points = self._point_steps(steps, unique)
            tokens = steps * rung.step_tokens
            if len(points) < FEWEST_POINTS or 6.0 * rung.params * tokens < search.run_flops.low:
                return rows
            per_param = search.tokens_per_param
            if per_param.low <= tokens / rung.params <= per_param.high:
                rows.append(
                    {
                        "params": rung.params,
                        "unique_tokens": unique,
                        "epochs": tokens / unique,
                        "tokens": tokens,
                        "cost": self._cost(rung, self.points(tokens, unique)),
                    }
                )
            epochs /= _EPOCHS_APART
