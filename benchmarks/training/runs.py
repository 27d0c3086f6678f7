"""Runs to measure: configurations and text of any size, with no corpus on the disk."""

from pathlib import Path
from typing import Any

import numpy as np

from quokka_ray.model.counts import count_params, count_params_non_embedding, flops_per_token
from quokka_ray.model.shapes import make_shape
from quokka_ray.study.config import (
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
    fit_to_kernel,
)
from quokka_ray.study.trajectory import TrajectoryConfig


class ZipfWindows:
    """Endless windows of made-up text whose words are as frequent as words are: 1 / rank."""

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        frequencies = 1.0 / np.arange(1, vocab_size + 1)
        draws = np.random.default_rng(0).random(1 << 16)
        self._words = np.searchsorted(
            frequencies.cumsum() / frequencies.sum(), draws, side="right"
        ).clip(max=vocab_size - 1)
        self._seq_len = seq_len

    def batch(self, first: int, count: int) -> np.ndarray:
        """Return windows first .. first + count - 1, int64 [count, seq_len]."""
        places = np.arange(first * self._seq_len, (first + count) * self._seq_len)
        rows: np.ndarray = self._words[places % len(self._words)]
        return rows.reshape(count, self._seq_len).astype(np.int64)


def run_of(
    d_model: int,
    layers: int,
    *,
    vocab_size: int,
    seq_len: int,
    rows: int,
    steps: int = 1000,
    diffusion: DiffusionConfig | None = None,
    model: dict[str, Any] | None = None,
    **training: Any,
) -> TrajectoryConfig:
    """Return a run of one shape: `rows` sequences a step, AdamW unless `training` says else."""
    diffusion = diffusion or DiffusionConfig()
    family = fit_to_kernel(ModelConfig(seq_len=seq_len, **(model or {})), diffusion)
    shape = make_shape(d_model, layers, family)
    params = count_params(shape, family, vocab_size)
    tokens = steps * rows * seq_len
    return TrajectoryConfig(
        id=f"d{d_model}x{layers}",
        study="benchmark",
        corpus=Path("none"),
        corpus_hash="none",
        tokenizer="none",
        vocab_size=vocab_size,
        model=family,
        shape=shape,
        diffusion=diffusion,
        training=TrainingConfig(batch_sequences=rows, **training),
        evaluation=EvaluationConfig(),
        tokens=tokens,
        unique_tokens=tokens,
        lr=training.get("lr", 2e-4),
        lr_schedule="constant",
        seed=0,
        params=params,
        params_non_embedding=count_params_non_embedding(shape, family, vocab_size),
        flops=6.0 * params * tokens,
        flops_exact=flops_per_token(shape, family, vocab_size) * tokens,
    )


def windows_of(config: TrajectoryConfig) -> ZipfWindows:
    """Return text for a run."""
    return ZipfWindows(config.vocab_size, config.model.seq_len)


def step_flops(config: TrajectoryConfig) -> float:
    """Return the exact FLOPs of one optimiser step under mask noise."""
    return flops_per_token(config.shape, config.model, config.vocab_size) * config.batch_tokens
