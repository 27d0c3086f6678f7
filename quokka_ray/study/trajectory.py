"""A trajectory: one training run, complete enough to be repeated from its own `config.json`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from quokka_ray.study.config import (
    DiffusionConfig,
    EvaluationConfig,
    LRScheduleName,
    ModelConfig,
    Section,
    TrainingConfig,
)

Status = Literal["finished", "diverged", "failed", "stopped"]


class Shape(Section):
    """One size of a model family."""

    d_model: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    head_dim: int | None = Field(default=None, ge=2, multiple_of=2)
    """Width of one head where it is the size's own; unset: the family's `model.head_dim`."""


class TrajectoryConfig(Section):
    """Everything that decides a run's result.

    `tokens` is a whole number of optimiser steps. `params` and the FLOP counts are those of
    `model/counts.py` for `shape`; they stand here so that readers need no model code.
    """

    id: str
    study: str
    corpus: Path
    """Folder of the prepared corpus."""
    corpus_hash: str
    tokenizer: str
    """Identity of the tokenizer that the corpus was made with."""
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
    unique_tokens: int = Field(ge=1)
    lr: float = Field(gt=0)
    lr_schedule: LRScheduleName
    seed: int
    params: int
    params_non_embedding: int
    flops: float
    """6 N D."""
    flops_exact: float
    """What the trajectory costs: matrix products of training and of its evaluation."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return self.training.batch_sequences * self.model.seq_len

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole trajectory."""
        return self.tokens // self.batch_tokens
