"""A trajectory: one training run, complete enough to be repeated from its own `config.json`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from quokka_ray.study.config import (
    DiffusionConfig,
    EarlyEnd,
    EvaluationConfig,
    LRScheduleName,
    ModelConfig,
    Section,
    TrainingConfig,
)
from quokka_ray.study.corpus import shares_of
from quokka_ray.study.path import Leg, cooldown_steps, legs, path_steps, warmup_steps

Status = Literal["finished", "diverged", "hopeless", "failed", "stopped"]


class Shape(Section):
    """One size of a model family."""

    d_model: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    head_dim: int | None = Field(default=None, ge=2, multiple_of=2)
    """Width of one head where it is the size's own; unset: the family's `model.head_dim`."""


class Promise(Section):
    """What a run's training loss is held to on its way.

    It is the mean over the last `WINDOW` of the run's steps before each share of its tokens. A run
    above a ceiling ends as `hopeless`; below all of them it is as if there were none.
    """

    margin: float = Field(ge=0)
    """Excess of ln loss over the law's at its end, of which a run at a ceiling falls short only
    by luck."""
    shares: tuple[float, ...] = ()
    """Of its tokens, ascending."""
    ceilings: tuple[float | None, ...] = ()
    """Nats, one for each share; None: the loss is noted there, and not judged."""


class TrajectoryConfig(Section):
    """Everything that decides a run's result.

    One run has one observation or several (`points`), all at whole numbers of optimiser steps.
    `params` and the FLOP counts are those of `model/counts.py` for `shape`; they stand here so
    that readers need no model code.
    """

    id: str
    study: str
    corpus: Path
    """Folder of the prepared corpus."""
    corpus_store: str | None = None
    """Where a node that lacks the folder fetches it; unset: every node sees the folder."""
    corpus_hash: str
    tokenizer: str
    """Identity of the tokenizer that the corpus was made with."""
    mixture: dict[str, float] | None = None
    """Weights of the corpus's parts, in their order, where a study searches them; None: those
    that the corpus was prepared with."""
    vocab_size: int = Field(ge=2)
    """Real tokens K; the mask is one more row of the embedding and has none in the head."""
    end_of_document: int | None = Field(default=None, ge=0)
    """The token that ends a document; needed where attention stays within documents."""
    model: ModelConfig
    shape: Shape
    diffusion: DiffusionConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tokens: int = Field(ge=1)
    earlier_points: tuple[int, ...] = ()
    """Token counts below `tokens` at which it is observed too, ascending (`study/path.py`)."""
    unique_tokens: int = Field(ge=1)
    early_end: EarlyEnd | None = None
    """When it ends before its last point; None: never."""
    promise: Promise | None = None
    """When it ends as hopeless; None: never, and its losses on the way are not noted."""
    lr: float = Field(gt=0)
    lr_schedule: LRScheduleName
    seed: int
    params: int
    params_non_embedding: int
    flops: float
    """6 N D."""
    flops_exact: float
    """What the trajectory costs: matrix products of all training, branches included, and of all
    its evaluations."""
    flops_evaluation: float = 0.0
    """Of it, what one evaluation costs."""

    @property
    def mixture_shares(self) -> dict[str, float]:
        """Share of each part of the corpus where a study searches them; else none."""
        return shares_of(self.mixture or {})

    def recipe(self, names: Iterable[str]) -> dict[str, Any]:
        """Return what its recipe has under these names, fields of `training` and `diffusion`."""
        own = {**self.training.model_dump(), **self.diffusion.model_dump()}
        return {name: own[name] for name in names}

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.training.batch_sequences * self.model.seq_len

    @property
    def steps(self) -> int:
        """Optimiser steps to the last observation, along its own path."""
        return self.tokens // self.batch_tokens

    @property
    def points(self) -> tuple[int, ...]:
        """All token counts at which it is observed, ascending; the last one is `tokens`."""
        return (*self.earlier_points, self.tokens)

    @property
    def legs(self) -> tuple[Leg, ...]:
        """What it trains, in order: trunk and branches."""
        return legs(self._point_steps, self.lr_schedule, self.training)

    @property
    def path_tokens(self) -> int:
        """Tokens processed when it ends: D, and the branches to earlier observations."""
        steps = path_steps(self._point_steps, self.lr_schedule, self.training)
        return steps * self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        """Optimiser steps of warmup."""
        return warmup_steps(self._point_steps, self.training)

    def cooldown_tokens(self, point: int) -> int | None:
        """Return the tokens of the cooldown to one observation; None under a cosine."""
        if self.lr_schedule == "cosine":
            return None
        steps = cooldown_steps(point // self.batch_tokens, self.lr_schedule, self.training)
        return steps * self.batch_tokens

    @property
    def _point_steps(self) -> tuple[int, ...]:
        return tuple(point // self.batch_tokens for point in self.points)
