"""The head and its loss together, without the logits of all positions at once.

Logits are the largest tensor of a step by far: [B, L, K] with 50,000 tokens takes 25 times the
memory of a stream of width 2048. Nothing needs all of them at a time, since the loss is a
weighted sum over positions: each chunk of rows gives its share of the sum, of the gradient by the
rows and of the gradient by the head's matrix, all in the forward pass, and its logits are
overwritten by their own gradient. The products are the three that any head needs; nothing is
computed twice. Losses and the sum of the matrix's gradient are float32, whatever type the
products run in.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from quokka_ray.diffusion.objective import Denoiser

LossOfLogits = Callable[..., Tensor]
"""Maps logits [m, K], float32 or float64, and m rows of other tensors to losses [m]."""

_AT_ONCE = {"cpu": 1 << 24}
"""Logits of a chunk, 64 MiB in float32: chunks of a quarter take 10 % longer (docs/log.md), since
each adds to the whole gradient of the matrix."""

_AT_ONCE_ELSEWHERE = 1 << 27
"""The same on an accelerator, 512 MiB."""

_IN_CACHE = 1 << 18
"""Logits that the passes of the cross-entropy go over at once on a CPU: 1 MiB, half a core's
second-level cache."""

_LOGITS_AT_ONCE = 1 << 26
"""Logits that `by_parts` keeps at once, 256 MiB."""

_SMALL = 1 << 20
"""Logits up to here, 4 MiB, stay in a cache, and autograd's own passes over them are as fast."""


@runtime_checkable
class LinearHead(Protocol):
    """A denoiser whose logits are a matrix product."""

    def head(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows [M, d] and a matrix [K or more, d], whose products are the logits."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log p(target) of each row, [m], from logits [m, K] and int64 [m]."""
    return functional.cross_entropy(logits, targets, reduction="none")


def weighted_loss(
    model: Denoiser,
    rows: Tensor,
    vocab_size: int,
    loss: LossOfLogits,
    weights: Tensor | None,
    normaliser: float,
    *others: Tensor,
) -> Tensor:
    """Return sum(weights * loss(logits, *others)) / normaliser.

    In chunks, if the logits are many, a gradient is wanted and the head is a matrix product.

    Args:
        model: The denoiser.
        rows: Hidden states [M, d].
        vocab_size: Real tokens K.
        loss: The loss of each row; `cross_entropy` of this module has a gradient of its own, any
            other is differentiated by autograd, chunk by chunk.
        weights: float [M]; None: 1.
        normaliser: What the sum is divided by.
        others: Tensors [M], what else `loss` takes.

    Returns:
        0-d, float32, or float64 where the model is; differentiable once.
    """
    few = len(rows) * vocab_size <= _SMALL
    if few or not torch.is_grad_enabled() or not isinstance(model, LinearHead):
        losses = by_parts(model, rows, vocab_size, loss, *others)
        total = losses.sum() if weights is None else losses.dot(weights.to(losses.dtype))
        return total / normaliser
    rows, matrix = model.head(rows)
    wide = _wide(rows.dtype)
    # Divided here, the sum needs no division later, whose gradient would be another pass over
    # the gradient of the matrix.
    if weights is None:
        weights = torch.full((len(rows),), 1 / normaliser, dtype=wide, device=rows.device)
    else:
        weights = weights.to(wide) / normaliser
    at_once = max(1, _AT_ONCE.get(rows.device.type, _AT_ONCE_ELSEWHERE) // vocab_size)
    summed: Tensor = _Chunked.apply(rows, matrix, vocab_size, loss, at_once, weights, *others)
    return summed


def by_parts(
    model: Denoiser, rows: Tensor, vocab_size: int, loss: LossOfLogits, *others: Tensor
) -> Tensor:
    """Return `loss(logits, *others)` for all rows, [M], without all logits at once.

    Under autograd the logits of each part are computed once more in the backward pass.

    Args:
        model: Gives the logits of hidden states.
        rows: Hidden states [M, d].
        vocab_size: Real tokens K.
        loss: The loss of each row.
        others: Tensors [M], what else `loss` takes.
    """
    part = max(1, _LOGITS_AT_ONCE // vocab_size)
    if len(rows) <= part:
        return loss(model.logits(rows), *others)

    def one(states: Tensor, *these: Tensor) -> Tensor:
        return loss(model.logits(states), *these)

    parts = zip(*(tensor.split(part) for tensor in (rows, *others)), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([one(*these) for these in parts])
    return torch.cat([checkpoint(one, *these, use_reentrant=False) for these in parts])


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product_type(rows: Tensor) -> torch.dtype:
    """Return the type that a linear layer would run in here."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


class _Chunked(torch.autograd.Function):
    """The weighted sum, its gradients computed beside it."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        matrix: Tensor,
        vocab_size: int,
        loss: LossOfLogits,
        at_once: int,
        weights: Tensor,
        *others: Tensor,
    ) -> Tensor:
        kind, wide = _product_type(rows), _wide(rows.dtype)
        gradient = _cross_entropy_gradient if loss is cross_entropy else _autograd_gradient(loss)
        states, head = rows.to(kind), matrix[:vocab_size].to(kind)
        of_rows = torch.empty_like(rows)
        of_matrix = torch.empty(matrix.shape, dtype=wide, device=matrix.device)
        of_matrix[vocab_size:].zero_()
        total = torch.zeros((), dtype=wide, device=rows.device)
        buffer = torch.empty((min(at_once, len(rows)), vocab_size), dtype=kind, device=rows.device)
        with torch.autocast(rows.device.type, enabled=False):
            for first in range(0, len(rows), at_once):
                here = slice(first, min(first + at_once, len(rows)))
                logits = torch.mm(states[here], head.T, out=buffer[: here.stop - first])
                share, by_logits = gradient(
                    logits.to(wide), weights[here], *(other[here] for other in others)
                )
                total += share
                by_logits = by_logits.to(kind)
                of_rows[here] = by_logits @ head
                _add_product(of_matrix[:vocab_size], by_logits, states[here], first == 0)
        ctx.save_for_backward(of_rows, of_matrix.to(matrix.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        of_rows, of_matrix = ctx.saved_tensors
        scale = gradients[0]
        # On a CPU it costs nothing to see that the loss is not scaled; elsewhere, a wait.
        if not (scale.is_cpu and scale.item() == 1):
            of_rows, of_matrix = of_rows * scale, of_matrix * scale
        return of_rows, of_matrix, *[None] * (len(ctx.needs_input_grad) - 2)


def _add_product(total: Tensor, by_logits: Tensor, states: Tensor, is_first: bool) -> None:
    """Add by_logits.T @ states to `total`, or write it there."""
    if total.dtype != states.dtype:
        product = by_logits.T @ states
        total.copy_(product) if is_first else total.add_(product)
    elif is_first:
        torch.mm(by_logits.T, states, out=total)
    else:
        total.addmm_(by_logits.T, states)


def _cross_entropy_gradient(
    logits: Tensor, weights: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of cross-entropies, and its gradient in the place of the logits."""
    rows = max(1, _IN_CACHE // logits.shape[1]) if logits.is_cpu else max(1, len(logits))
    loss = weights.new_zeros(())
    parts = zip(logits.split(rows), weights.split(rows), targets[:, None].split(rows), strict=True)
    for part, weight, column in parts:
        at_target = part.gather(1, column).squeeze(1)
        highest = part.amax(1)
        total = part.sub_(highest[:, None]).exp_().sum(1)
        loss += weight.dot(total.log() + highest - at_target)
        part.mul_((weight / total)[:, None]).scatter_add_(1, column, -weight[:, None])
    return loss, logits


def _autograd_gradient(loss: LossOfLogits) -> Callable[..., tuple[Tensor, Tensor]]:
    def gradient(logits: Tensor, weights: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            losses = loss(leaf, *others)
            total = losses.dot(weights.to(losses.dtype))
        (by_logits,) = torch.autograd.grad(total, leaf)
        return total.detach(), by_logits

    return gradient
