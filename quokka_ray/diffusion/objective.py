"""The training objective: the ELBO of masked diffusion, computed at masked positions only."""

import math
from typing import Protocol

from torch import Tensor
from torch.nn import functional


class Denoiser(Protocol):
    """What a model must offer: hidden states of masked text, and logits of chosen rows."""

    mask_id: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, L] to hidden states [B, L, d]."""

    def logits(self, rows: Tensor) -> Tensor:
        """Map hidden states [M, d] to float32 logits [M, K]."""


def masked_cross_entropy(model: Denoiser, tokens: Tensor, flat: Tensor) -> Tensor:
    """Return -log p(token | unmasked tokens) of each masked position, in nats.

    Args:
        model: The denoiser.
        tokens: int64 [B, L], the clean text.
        flat: int64 [M], the masked positions of the flattened batch.

    Returns:
        float32 [M], in the order of `flat`.
    """
    clean = tokens.reshape(-1)
    noisy = clean.index_fill(0, flat, model.mask_id).view_as(tokens)
    rows = model(noisy).flatten(0, 1).index_select(0, flat)
    return functional.cross_entropy(
        model.logits(rows), clean.index_select(0, flat), reduction="none"
    )


def masked_elbo(model: Denoiser, tokens: Tensor, flat: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted loss per token, sum(w * cross-entropy) / (B * L), in nats.

    With w = L / k of each row (Quokka eq. 9 in terms of the mask rate, k masked tokens of L) its
    expectation over masks is the NELBO per token; all B * L tokens count, not the masked ones.

    Args:
        model: The denoiser.
        tokens: int64 [B, L].
        flat: int64 [M], masked positions.
        weights: float32 [M].
    """
    return masked_cross_entropy(model, tokens, flat).dot(weights) / tokens.numel()


def blind_loss(vocab_size: int, seq_len: int, power: float) -> float:
    """Return the objective of a model that gives every token the same probability.

    It is ln K times the mean of (k / L) * (L / k) ** power over k in 1..L: where training starts.
    """
    mean = sum((k / seq_len) ** (1 - power) for k in range(1, seq_len + 1)) / seq_len
    return math.log(vocab_size) * mean
