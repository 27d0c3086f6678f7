"""How a run that was not tuned differs from the law: the response to its recipe.

ln L = law(N, D) + c (ln lr - ln lr_opt)^2 + offset[lr_schedule] + ...
ln lr_opt = l0 + l_N ln(N / N0) + l_D ln(D / D0) + l_B ln(B / B0)

N0 and D0 are the geometric means of the runs. Fitted together with the law, it lets runs of
unequal recipes be compared without any of them being wasted, and says which recipe to use. Terms
of its other dimensions join where runs differ in them: bowls of the batch (whose B then moves the
best rate), of warmup and weight decay, and of mixtures of texts (`mixture.py`); offsets of the
noise schedule, the objective and the kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.laws.base import FloatArray
from analysis.laws.bowls import BowlResponse
from analysis.laws.choices import ChoiceResponse
from analysis.laws.mixture import PREFIX, MixtureResponse

Recipe: TypeAlias = Mapping[str, Any] | pd.DataFrame
"""What runs were trained with, by the names of a run table's columns; one that is absent counts
as at its best."""


@dataclass(frozen=True)
class ResponsePrior:
    """Weak normal priors, so that a handful of runs already gives a usable learning rate."""

    curvature: float = 0.02
    """c: about 1 % of the loss for a learning rate off by a factor of 2, 4 % for 4. Between what
    tiny models showed here and the released Step Law runs; known to a factor of e."""
    curvature_spread: float = 1.0
    """Of ln c: positive whatever the data say, and free by a factor of 3 either way."""
    centre_spread: float = 0.7
    """Of l0: the stated learning rate is trusted to a factor of 2."""
    slope_params: float = 0.0
    slope_tokens: float = 0.0
    slope_spread: float = 0.15
    """Of l_N and l_D. Published slopes scatter from -.7 to 0 and 0 to .4; without data, none."""
    offset_spread: float = 0.03
    """Of a schedule's offset: schedules end within a few per cent of each other."""


@dataclass(frozen=True)
class DimensionPrior:
    """Weak normal priors of a bowl about what was tried."""

    curvature: float
    curvature_spread: float = 1.5
    """Of ln c: known to a factor of 4.5, since many a recipe hardly matters."""
    slope_params: float = 0.0
    slope_tokens: float = 0.0
    """By which the best value goes with ln N and ln D."""
    slope_spread: float = 0.15
    centre_spread: float = 0.5
    """Of the best value about the middle of those tried, or their reach if that is more."""


DIMENSIONS: Mapping[str, DimensionPrior] = {
    # The paper's 256, 1024 and 4096 sequences bend by .006 a squared e-fold. With D the best
    # batch goes as D^.57 (Step Law, 2503.04715) or D^.38 (Bergsma et al., 2505.13738), and as
    # good as not with N.
    "batch_tokens": DimensionPrior(0.01, slope_tokens=0.45),
    "warmup_fraction": DimensionPrior(0.003),
    # The paper: .7 % of the loss between none and its value. At a constant time scale of decay
    # it falls as 1 / (lr steps).
    "weight_decay": DimensionPrior(0.003, slope_spread=0.3),
}
"""Columns of a run table that bowls are fitted to where runs differ in them."""

CHOICES: Mapping[str, float] = {
    # The paper's ends: 3.210, 3.235 and 3.260 by schedule; 3.21 and 3.65 by kernel.
    "noise_schedule": 0.02,
    "objective": 0.05,
    "kernel": 0.1,
}
"""Columns that offsets are fitted to, with the prior standard deviation of an offset."""

CHOICE_SLOPE_SPREAD = 0.015
"""Of an offset's slopes in ln N and ln D: a few per cent of the loss over the runs of a search."""

LR_BATCH_SLOPE, LR_BATCH_SLOPE_SPREAD = 0.25, 0.25
"""Of ln of the best rate with ln B: 1/2 below the critical batch, where Adam's noise decides
(Malladi et al., 2205.10287), 0 beyond it."""


@dataclass(frozen=True)
class Response:
    """The fitted response. Where the learning rate was not fitted, the law is taken as it is.

    Attributes:
        lr_fitted: whether the runs' learning rates varied enough to be fitted.
        curvature: c.
        log_lr: l0, ln of the best learning rate at (N0, D0, B0); NaN where nothing is known.
        slope_params, slope_tokens: l_N and l_D.
        reference_params, reference_tokens: N0 and D0.
        offsets: of ln L by schedule, relative to the best one, which has 0.
        samples: bootstrap of (ln c, l0, l_N, l_D), and of l_B where batches vary, [B, 4 or 5];
            empty where not fitted.
        offset_samples: bootstrap of the offsets, [B, schedules].
        mixture: the response to mixtures of texts; None: they did not vary.
        slope_batch: l_B; 0 where batches do not vary.
        reference_batch: B0, tokens.
        bowls: the response to dimensions of `DIMENSIONS` that varied, by column.
        choices: that to choices of `CHOICES` that varied, by column; the law is stated for the
            first name of each.
    """

    lr_fitted: bool = False
    curvature: float = 0.0
    log_lr: float = float("nan")
    slope_params: float = 0.0
    slope_tokens: float = 0.0
    reference_params: float = 1.0
    reference_tokens: float = 1.0
    offsets: dict[str, float] = field(default_factory=dict)
    samples: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    offset_samples: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    mixture: MixtureResponse | None = None
    slope_batch: float = 0.0
    reference_batch: float = 1.0
    bowls: dict[str, BowlResponse] = field(default_factory=dict)
    choices: dict[str, ChoiceResponse] = field(default_factory=dict)

    @property
    def fitted(self) -> bool:
        """Whether there is anything that runs can be untuned in."""
        more = bool(self.bowls) or bool(self.choices)
        return self.lr_fitted or bool(self.offsets) or self.mixture is not None or more

    @property
    def best_schedule(self) -> str | None:
        """The learning-rate schedule with the lowest loss; None where none is named."""
        return min(self.offsets, key=self.offsets.__getitem__) if self.offsets else None

    def _basis(self, params: ArrayLike, tokens: ArrayLike) -> tuple[FloatArray, FloatArray]:
        x = np.log(np.asarray(params, dtype=np.float64) / self.reference_params)
        z = np.log(np.asarray(tokens, dtype=np.float64) / self.reference_tokens)
        return x, z

    def lr_optimum(
        self, params: ArrayLike, tokens: ArrayLike, batch_tokens: ArrayLike | None = None
    ) -> FloatArray:
        """Return the best learning rate at N and D; NaN where no learning rate is known.

        `batch_tokens`: of a step; unset: the best there, or the runs' own where all had one.
        """
        x, z = self._basis(params, tokens)
        log_lr = self.log_lr + self.slope_params * x + self.slope_tokens * z
        if self.slope_batch:
            if batch_tokens is None:
                batch_tokens = self.bowls["batch_tokens"].best(params, tokens)
            batch = np.asarray(batch_tokens, dtype=np.float64)
            log_lr = log_lr + self.slope_batch * np.log(batch / self.reference_batch)
        return np.asarray(np.exp(log_lr))

    def penalty(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        lr: ArrayLike,
        lr_schedule: str | ArrayLike | None = None,
        recipe: Recipe | None = None,
    ) -> FloatArray:
        """Return by how much ln L lies above the law's.

        A schedule that was never seen counts as the best one, and so does what `recipe` does not
        tell. Below 0 only where a choice whose offset moves with N and D is better than the one
        that the law is stated for.
        """
        told: Recipe = {} if recipe is None else recipe
        result = np.zeros(np.broadcast_shapes(np.shape(params), np.shape(tokens), np.shape(lr)))
        if self.lr_fitted:
            best = self.lr_optimum(params, tokens, told.get("batch_tokens"))
            distance = np.log(np.asarray(lr, dtype=np.float64) / best)
            result = result + self.curvature * distance**2
        if lr_schedule is not None and self.offsets:
            names = np.asarray(lr_schedule, dtype=object)
            offset = np.vectorize(lambda name: self.offsets.get(str(name), 0.0), otypes=[float])
            result = result + offset(names)
        if self.mixture is not None and any(str(name).startswith(PREFIX) for name in told):
            result = result + self.mixture.penalty(told)
        for terms in (self.bowls, self.choices):
            for column, term in terms.items():
                if column in told:
                    result = result + term.penalty(params, tokens, told[column])
        return result

    def recommended(self, params: float, tokens: float) -> dict[str, dict[str, Any]]:
        """Return the best of each dimension at N and D, ready for JSON, by column.

        Bowls: `value`, `low` and `high` (90 %, None without resamples), and `tried`, the range of
        the runs' values. Choices: `value`, the recommended name, and `offsets`, by which ln L
        lies above it for each name (`ChoiceResponse.standing`).
        """
        found: dict[str, dict[str, Any]] = {}
        for column, bowl in self.bowls.items():
            found[column] = {**bowl.estimate(params, tokens), "tried": list(bowl.tried)}
        for column, choice in self.choices.items():
            standing = choice.standing(params, tokens)
            found[column] = {"value": next(iter(standing)), "offsets": standing}
        return found
