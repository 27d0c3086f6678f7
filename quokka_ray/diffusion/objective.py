"""What a model is trained on: a batch's noise, drawn on the CPU, and the loss of what it hides.

An `Objective` has two halves. `draw` decides everything random of one step from (seed, step) and
the clean text alone, for the whole batch of all devices, as NumPy arrays. `loss` is then a
function of the model, the clean text and that draw: any part of the rows, on any device, gives
its share of the whole batch's loss, since every part is divided by the whole batch's normaliser.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Tensor
from torch.nn import functional

Array = TypeVar("Array", np.ndarray, Tensor)
Other = TypeVar("Other", np.ndarray, Tensor)


class Denoiser(Protocol):
    """What a model must offer: hidden states of noisy text, and logits of chosen rows."""

    mask_id: int

    def __call__(self, tokens: Tensor, time: Tensor | None = None) -> Tensor:
        """Map tokens [B, L], and the noise level of each row [B], to hidden states [B, L, d]."""

    def logits(self, rows: Tensor) -> Tensor:
        """Map hidden states [M, d] to float32 logits [M, K]."""


@dataclass(frozen=True)
class Batch(Generic[Array]):
    """The noise of B rows of L tokens, as arrays or as tensors on the device of the model.

    Attributes:
        normaliser: What the sum of weighted losses is divided by: the whole batch's own.
        flat: int64 [M], the positions with a loss in the flattened batch [B * L], ascending by
            row; None: all of them.
        noisy: int64 [B, L], what the model sees; None: the clean text with masks at `flat`.
        weights: float32 [M], the weight of each position with a loss; None: 1.
        time: float32 [B], the noise level t of each row; None: the model is not told.
        dropout: int64 [B], the key of each row's dropout; None: there is none.
    """

    normaliser: float
    flat: Array | None = None
    noisy: Array | None = None
    weights: Array | None = None
    time: Array | None = None
    dropout: Array | None = None

    def map(self, function: Callable[[Array], Other]) -> "Batch[Other]":
        """Return the batch with `function` applied to its arrays: sent to a device, say."""

        def apply(array: Array | None) -> Any:
            return None if array is None else function(array)

        return Batch(
            self.normaliser,
            flat=apply(self.flat),
            noisy=apply(self.noisy),
            weights=apply(self.weights),
            time=apply(self.time),
            dropout=apply(self.dropout),
        )

    def part(self, first: int, last: int, seq_len: int) -> "Batch[Array]":
        """Return rows first .. last - 1, with the whole batch's normaliser.

        The losses of parts that make up the batch add up to the batch's. Arrays must be NumPy's.
        """
        begin, end = first * seq_len, last * seq_len
        changes: dict[str, Any] = {}
        if self.flat is not None:
            begin, end = (
                int(edge) for edge in np.searchsorted(self._rows(seq_len), (first, last))
            )
            changes["flat"] = self.flat[begin:end] - first * seq_len
        if self.weights is not None:
            changes["weights"] = self.weights[begin:end]
        if self.noisy is not None:
            changes["noisy"] = self.noisy[first:last]
        if self.time is not None:
            changes["time"] = self.time[first:last]
        if self.dropout is not None:
            changes["dropout"] = self.dropout[first:last]
        return replace(self, **changes)

    def _rows(self, seq_len: int) -> Any:
        assert self.flat is not None
        return self.flat // seq_len


class Objective(ABC):
    """A training objective.

    Attributes:
        blind: The loss, on average over the noise, of a model that gives every token the same
            probability: where training starts, and what a diverged run is measured by.
    """

    blind: float

    @abstractmethod
    def draw(self, seed: int, step: int, tokens: np.ndarray) -> Batch[np.ndarray]:
        """Draw the noise of one step for the whole batch.

        Args:
            seed: The run's seed.
            step: The optimiser step.
            tokens: int64 [B, L], the clean text of the whole batch; B is even.
        """

    @abstractmethod
    def loss(self, model: Denoiser, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the loss, in nats per token (0-d float32), of a batch or its share of it.

        Args:
            model: The denoiser; evaluated once, under autograd.
            tokens: int64 [B, L], the clean text of these rows, on the model's device.
            batch: Their noise, on the same device.
        """


def hidden_states(model: Denoiser, noisy: Tensor, time: Tensor | None) -> Tensor:
    """Return the model's hidden states of every position, [B * L, d]."""
    states = model(noisy) if time is None else model(noisy, time)
    return states.flatten(0, 1)


@runtime_checkable
class MaskedReader(Protocol):
    """A denoiser that computes `masked_cross_entropy` by itself, without gradients."""

    def masked_losses(self, tokens: Tensor, flat: Tensor) -> Tensor:
        """Return -log p(token | unmasked tokens) of each masked position, [M]."""


def masked_states(model: Denoiser, tokens: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states [M, d] of the masked positions, and their clean tokens [M].

    Args:
        model: The denoiser.
        tokens: int64 [B, L], the clean text.
        flat: int64 [M], the masked positions of the flattened batch.
    """
    clean = tokens.reshape(-1)
    noisy = clean.index_fill(0, flat, model.mask_id).view_as(tokens)
    rows = hidden_states(model, noisy, None).index_select(0, flat)
    return rows, clean.index_select(0, flat)


def masked_cross_entropy(model: Denoiser, tokens: Tensor, flat: Tensor) -> Tensor:
    """Return -log p(token | unmasked tokens) of each masked position, in nats.

    Args:
        model: The denoiser.
        tokens: int64 [B, L], the clean text.
        flat: int64 [M], the masked positions of the flattened batch.

    Returns:
        float32 [M], in the order of `flat`.
    """
    if isinstance(model, MaskedReader):
        return model.masked_losses(tokens, flat)
    rows, targets = masked_states(model, tokens, flat)
    return functional.cross_entropy(model.logits(rows), targets, reduction="none")


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
