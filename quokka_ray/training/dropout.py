"""Dropout in training: the keys of a step's rows, and the model that is given them.

Keys belong to the noise of a step: drawn from (seed, step) for the whole batch, of which each rank
and micro-batch takes its rows. Nothing else gives a model keys, so nothing but training drops.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from quokka_ray.diffusion.masks import DROPOUT, stream
from quokka_ray.diffusion.objective import Batch, Denoiser
from quokka_ray.model.transformer import DiffusionTransformer


def dropout_keys(seed: int, step: int, rows: int) -> np.ndarray:
    """Return the keys of a step's rows: int64 [B], each below 2^32."""
    generator = stream(seed, DROPOUT, step)
    return generator.integers(0, 1 << 32, rows, dtype=np.uint32).astype(np.int64)


def with_keys(
    batch: Batch[np.ndarray], rate: float, seed: int, step: int, rows: int
) -> Batch[np.ndarray]:
    """Return the noise of a step with the keys of its rows, if any element is to be dropped."""
    return replace(batch, dropout=dropout_keys(seed, step, rows)) if rate else batch


def dropping(model: DiffusionTransformer, batch: Batch[Tensor]) -> Denoiser:
    """Return the model that drops as a batch's keys say: the model itself if it has none."""
    return model if batch.dropout is None else Dropping(model, batch.dropout)


class Dropping:
    """A model that drops by the keys of the rows that it is about to see: a `Denoiser`.

    Args:
        model: The model.
        keys: int64 [B], on its device.
    """

    def __init__(self, model: DiffusionTransformer, keys: Tensor) -> None:
        self._model, self._keys = model, keys
        self.mask_id = model.mask_id

    def __call__(self, tokens: Tensor, time: Tensor | None = None) -> Tensor:
        """Return hidden states [B, T, d] of tokens [B, T]."""
        return self._model(tokens, time, self._keys)

    def logits(self, rows: Tensor) -> Tensor:
        """Return logits [M, K] of hidden states [M, d]."""
        return self._model.logits(rows)

    def head(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the logits, as the model does."""
        return self._model.head(rows)
