"""Loss and gradients of a tiny model in one pass of preallocated operations, without autograd.

The same numbers, up to rounding, as `objective.loss(model, ...)` and `backward()`: the sum of
weighted cross-entropies at masked positions of `model/transformer.py`. On one CPU thread it takes
.6 of their time at fifty thousand parameters and .7 at two hundred thousand, and `native/`, which
does the same in C where there is a compiler, another third and half of that (docs/log.md).
Layers are those of `model/fused_block.py`, features first.

Two things are done where there is less to do: embeddings are normalised in their table, which is
shorter than the batch, and the last norm only where there is a loss.
"""

import torch
from torch import Tensor
from torch.nn import functional

from quokka_ray.diffusion.masked import MaskedObjective
from quokka_ray.diffusion.objective import Batch, Objective
from quokka_ray.model.fused_block import FusedBlock
from quokka_ray.model.fused_layers import Pool, RmsNorm
from quokka_ray.model.transformer import Block, DiffusionTransformer
from quokka_ray.training.optimizers import Muon

_WIDEST, _LONGEST, _LARGEST_VOCABULARY = 256, 256, 4096
"""Beyond these, products and memory are what a step's time is, and nothing is gained."""

_POSITIONS = 512
"""At once: more would only leave the caches."""

_POSITIONS_READ = 2048
"""At once going forward alone, which touches less memory and gains from fewer calls."""


def fused_step(
    model: DiffusionTransformer, objective: Objective, native: bool = True
) -> "FusedStep | None":
    """Return the fused step of a model where there is one for it, else None.

    `native`: in C, if there is a compiler for it.

    There is one for small bidirectional models on a CPU that are trained on masked tokens; not
    for attention within documents, conditioning on time, or dropout. It computes in the
    parameters' type.
    """
    weight = model.embedding.weight
    fits = (
        weight.device.type == "cpu"
        and isinstance(objective, MaskedObjective)
        and not model.causal
        and model.end_of_document is None
        and model.time_conditioning is None
        and not model.dropout
        and weight.shape[1] <= _WIDEST
        and model.rotary.shape[0] <= _LONGEST
        and model.vocab_size <= _LARGEST_VOCABULARY
    )
    if not fits:
        return None
    if native:
        # Loaded where it is needed, and built on this module.
        from quokka_ray.training.native.step import NativeStep

        if NativeStep.covers(model):
            return NativeStep(model)
    return FusedStep(model)


class FusedStep:
    """Computes loss and gradients of one model.

    Its memory is made at the first call, in the type that the parameters have by then.

    Attributes:
        gradient: All gradients in one vector, of which every parameter's `grad` is a part.
        muon: Makes the Muon that goes with it.
    """

    muon: type[Muon] = Muon

    def __init__(self, model: DiffusionTransformer) -> None:
        self._model = model
        self._parameters = list(model.parameters())
        self._passes: dict[tuple[int, int], _Pass] = {}
        self.gradient: Tensor | None = None

    def _allocate(self) -> Tensor:
        size = sum(p.numel() for p in self._parameters)
        self.gradient = gradient = self._parameters[0].new_zeros(size)
        self._fresh = torch.zeros_like(gradient)
        self._totals = self._parts(gradient)
        names = (name for name, _ in self._model.named_parameters())
        self._gradients = dict(zip(names, self._parts(self._fresh), strict=True))
        return gradient

    def _parts(self, vector: Tensor) -> list[Tensor]:
        sizes = [p.numel() for p in self._parameters]
        return [
            part.view_as(p) for part, p in zip(vector.split(sizes), self._parameters, strict=True)
        ]

    @torch.no_grad()
    def __call__(self, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the loss (0-d) and add its gradient to the parameters' `grad`.

        Args:
            tokens: int64 [B, T], the clean text.
            batch: Its masked positions and their weights.
        """
        assert batch.flat is not None
        assert batch.weights is not None
        total = self._allocate() if self.gradient is None else self.gradient
        rows, seq_len = tokens.shape
        clean = tokens.reshape(-1)
        noisy = clean.index_fill(0, batch.flat, self._model.mask_id)
        targets = clean.index_select(0, batch.flat)
        weights = batch.weights.to(total.dtype) / batch.normaliser
        at_once = max(1, _POSITIONS // seq_len)
        firsts = range(0, rows, at_once)
        # Where each part's masked positions begin: they are ascending by row.
        edges = torch.tensor([*firsts, rows]) * seq_len
        owners = batch.flat.div(seq_len, rounding_mode="floor").mul_(seq_len)
        ends = torch.searchsorted(owners, edges).tolist()
        losses = []
        for first, begin, end in zip(firsts, ends, ends[1:], strict=False):
            last = min(first + at_once, rows)
            step = self._pass_of(last - first, seq_len)
            place = slice(begin, end)
            flat = batch.flat[place] - first * seq_len if first else batch.flat[place]
            part = noisy[first * seq_len : last * seq_len]
            losses.append(step(part, flat, targets[place], weights[place]))
            self._add(total)
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Return the model's hidden states [B, T, d] of noisy tokens [B, T]."""
        if self.gradient is None:
            self._allocate()
        seq_len = tokens.shape[1]
        at_once = max(1, _POSITIONS_READ // seq_len)
        parts = [
            self._pass_of(len(part), seq_len).states(part.reshape(-1)).unflatten(0, part.shape)
            for part in tokens.split(at_once)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def masked_losses(self, tokens: Tensor, flat: Tensor) -> Tensor:
        """Return -log p(token | unmasked tokens) of each masked position, [M].

        Args:
            tokens: int64 [B, T], the clean text.
            flat: int64 [M], masked positions of the flattened batch, row by row.
        """
        clean = tokens.reshape(-1)
        noisy = clean.index_fill(0, flat, self._model.mask_id).view_as(tokens)
        rows = self.states(noisy).flatten(0, 1).index_select(0, flat)
        targets = clean.index_select(0, flat)
        return functional.cross_entropy(self._model.logits(rows), targets, reduction="none")

    def _pass_of(self, rows: int, seq_len: int) -> "_Pass":
        shape = (rows, seq_len)
        if shape not in self._passes:
            self._passes[shape] = _Pass(self._model, self._gradients, *shape)
        return self._passes[shape]

    def _add(self, total: Tensor) -> None:
        """Add what was written to the parameters' gradients, or make it them."""
        if self._parameters[0].grad is not None:
            total.add_(self._fresh)
            return
        total.copy_(self._fresh)
        for parameter, part in zip(self._parameters, self._totals, strict=True):
            parameter.grad = part


class _Pass:
    """Forward and backward of sequences of one shape, with the memory that they take."""

    def __init__(
        self, model: DiffusionTransformer, gradients: dict[str, Tensor], rows: int, seq_len: int
    ) -> None:
        weight = model.embedding.weight.detach()
        width, positions = weight.shape[1], rows * seq_len
        pool = Pool(weight)
        self._embedding = _Embedding(model, gradients, positions)
        self._stream, self._d_stream = (weight.new_empty(width, positions) for _ in range(2))
        self._blocks = [
            FusedBlock(
                block, f"blocks.{i}.", gradients, model.rotary[:seq_len], self._stream, rows, pool
            )
            for i, block in enumerate(model.blocks)
            if isinstance(block, Block)
        ]
        self._head = _Head(model, gradients, pool)

    def __call__(self, noisy: Tensor, flat: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the loss and write all gradients.

        Args:
            noisy: int64 [N], what the model sees.
            flat: int64 [M], positions with a loss.
            targets: int64 [M], what was there.
            weights: [M], of their cross-entropies.
        """
        self._stream.copy_(self._embedding.forward(noisy))
        for block in self._blocks:
            block.forward(self._stream)
        loss, d_rows = self._head(self._stream.index_select(1, flat), targets, weights)
        self._d_stream.zero_().index_copy_(1, flat, d_rows)
        for block in reversed(self._blocks):
            block.backward(self._d_stream)
        self._embedding.backward(noisy, self._d_stream)
        return loss

    def states(self, noisy: Tensor) -> Tensor:
        """Return hidden states [N, d] of noisy tokens, int64 [N]."""
        self._stream.copy_(self._embedding.forward(noisy))
        for block in self._blocks:
            block.forward(self._stream)
        return self._head.states(self._stream)


class FusedDenoiser:
    """The model of a fused step for whoever only reads it: a `Denoiser`, without gradients."""

    def __init__(self, model: DiffusionTransformer, step: FusedStep) -> None:
        self._model, self._step = model, step
        self.mask_id = model.mask_id

    def __call__(self, tokens: Tensor, time: Tensor | None = None) -> Tensor:
        """Return hidden states [B, T, d]; no model that has a fused step is told the time."""
        return self._step.states(tokens)

    def logits(self, rows: Tensor) -> Tensor:
        """Return logits [M, K] of hidden states [M, d]."""
        return self._model.logits(rows)

    def masked_losses(self, tokens: Tensor, flat: Tensor) -> Tensor:
        """Return -log p(token | unmasked tokens) of each masked position, [M], row by row."""
        return self._step.masked_losses(tokens, flat)


class _Embedding:
    """The table's rows, normalised where the model has a norm there."""

    def __init__(
        self, model: DiffusionTransformer, gradients: dict[str, Tensor], positions: int
    ) -> None:
        self._weight = weight = model.embedding.weight.detach()
        self._d_weight = gradients["embedding.weight"]
        self._rows = weight.new_empty(positions, weight.shape[1])
        self._rows_across = self._rows.t()
        self._norm = model.embedding_norm
        if self._norm is None:
            return
        self._gain = self._norm.weight.detach()
        self._d_gain = gradients["embedding_norm.weight"]
        self._normed, self._table, self._d_table = (torch.empty_like(weight) for _ in range(3))
        self._rate, self._mean = (weight.new_empty(len(weight)) for _ in range(2))
        self._average = weight.new_full((weight.shape[1],), 1 / weight.shape[1])
        self._mean_gain = torch.empty_like(self._average)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [d, N]."""
        if self._norm is None:
            torch.index_select(self._weight, 0, tokens, out=self._rows)
            return self._rows_across
        assert self._norm.eps is not None
        square = torch.mul(self._weight, self._weight, out=self._table)
        torch.mv(square, self._average, out=self._rate).add_(self._norm.eps).rsqrt_()
        torch.mul(self._weight, self._rate[:, None], out=self._normed)
        torch.mul(self._normed, self._gain, out=self._table)
        torch.index_select(self._table, 0, tokens, out=self._rows)
        return self._rows_across

    def backward(self, tokens: Tensor, d_stream: Tensor) -> None:
        """Add to the table's gradient, where the head has written its own."""
        self._rows_across.copy_(d_stream)
        if self._norm is None:
            self._d_weight.index_add_(0, tokens, self._rows)
            return
        d_table = self._d_table.zero_().index_add_(0, tokens, self._rows)
        product = torch.mul(d_table, self._normed, out=self._table)
        torch.sum(product, 0, out=self._d_gain)
        torch.mul(self._gain, self._average, out=self._mean_gain)
        torch.mv(product, self._mean_gain, out=self._mean)
        d_table.mul_(self._gain).addcmul_(self._normed, self._mean[:, None], value=-1)
        self._d_weight.addcmul_(d_table, self._rate[:, None])


class _Head:
    """Last norm, tied logits and weighted cross-entropy of M chosen positions, all in one.

    With E' = E diag(gain) of the real tokens, logits L = E' n [K, M] and weights w:

        loss = sum of w * (log sum exp L - L[target]),    dL = w * (softmax L - onehot).
    """

    def __init__(
        self, model: DiffusionTransformer, gradients: dict[str, Tensor], pool: Pool
    ) -> None:
        tokens = model.vocab_size
        norm = model.final_norm
        self._pool = pool
        self._norm = norm
        self._weight = model.embedding.weight.detach()[:tokens]
        self._d_weight = gradients["embedding.weight"][:tokens]
        self._d_mask = gradients["embedding.weight"][tokens:]
        self._gain, self._d_gain = norm.weight.detach(), gradients["final_norm.weight"]
        self._scale = model.transfer.logits
        self._folded, self._d_folded = (torch.empty_like(self._weight) for _ in range(2))
        self._folded_across = self._folded.t()

    def states(self, x: Tensor) -> Tensor:
        """Return the last norm's output [N, d] of x [d, N], gain and all."""
        assert self._norm.eps is not None
        normed = RmsNorm(x, self._norm.eps, self._pool).forward(x)
        return normed.t() * self._gain

    def __call__(self, x: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and dx [d, M] of x [d, M], and write the parameters' gradients."""
        count = x.shape[1]
        assert self._norm.eps is not None
        norm = RmsNorm(x, self._norm.eps, self._pool)
        n = norm.forward(x)
        gain = self._gain * self._scale
        torch.mul(self._weight, gain, out=self._folded)
        logits = self._pool.take("logits", len(self._weight), count)
        torch.mm(self._folded, n, out=logits)
        at_target = targets[None]
        top = logits.amax(0, keepdim=True)
        chosen = logits.gather(0, at_target)
        probabilities = logits.sub_(top).exp_()
        total = probabilities.sum(0, keepdim=True)
        losses = total.log().add_(top).sub_(chosen)
        loss = losses[0].dot(weights)
        d_logits = probabilities.mul_(weights / total)
        d_logits.scatter_add_(0, at_target, weights.neg()[None])
        torch.mm(d_logits, n.t(), out=self._d_folded)
        torch.mul(self._d_folded, gain, out=self._d_weight)
        self._d_mask.zero_()
        self._d_folded.mul_(self._weight)
        torch.mul(self._d_folded.sum(0), self._scale, out=self._d_gain)
        d_normed = self._pool.take("d_chosen", *x.shape)
        return loss, norm.gradient(torch.mm(self._folded_across, d_logits, out=d_normed))
