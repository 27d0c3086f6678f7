"""The fused step in C: one call for forward and backward of all sequences."""

import ctypes
from ctypes import POINTER, c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from quokka_ray.diffusion.objective import Batch
from quokka_ray.model.transformer import Block, DiffusionTransformer
from quokka_ray.training.fused_step import FusedStep
from quokka_ray.training.native.build import library
from quokka_ray.training.native.muon import NativeMuon

_VECTOR = 16
"""Sequences are of a multiple of this: `PAD` of vectors.h."""

_MOST_LAYERS = 64
_WIDEST = 128
"""Half the time of torch's operations at this width, and more than theirs at 256, where weights
and their gradients are read from beyond the second-level cache for each sequence."""

_OF_MODEL = ("embedding.weight", "embedding_norm.weight", "final_norm.weight")
_OF_LAYER = (
    "attention_norm.weight",
    "attention.conv.weight",
    "attention.qkv.weight",
    "attention.qk_gain",
    "attention.out.weight",
    "feed_forward_norm.weight",
    "feed_forward.gate_up.weight",
    "feed_forward.down.weight",
)


class _Model(ctypes.Structure):
    """`Model` of memory.h."""

    _fields_ = (
        *((name, c_int64) for name in ("width", "layers", "heads", "head", "ffn")),
        *((name, c_int64) for name in ("tokens", "seq_len", "taps")),
        *((name, c_double) for name in ("eps", "head_eps", "scale", "branch", "logit_scale")),
        ("parameters", POINTER(c_void_p)),
        ("gradients", POINTER(c_void_p)),
        ("cosine", c_void_p),
        ("sine", c_void_p),
    )


class NativeStep(FusedStep):
    """`FusedStep` with whole vectors of positions, a multiple of 16 tokens a sequence, in C.

    Other windows, and other types than float32 and float64, are left to `FusedStep`.
    """

    muon = NativeMuon

    def __init__(self, model: DiffusionTransformer) -> None:
        super().__init__(model)
        self._functions: ctypes.CDLL | None = None
        self._memory: dict[int, Tensor] = {}

    @staticmethod
    def covers(model: DiffusionTransformer) -> bool:
        """Return whether it is worth it for a model that has a fused step."""
        heads = [b.attention.head_dim for b in model.blocks if isinstance(b, Block)]
        widest = max(model.embedding.weight.shape[1], *heads)
        return widest <= _WIDEST and len(heads) <= _MOST_LAYERS

    def _allocate(self) -> Tensor:
        gradient = super()._allocate()
        self._functions = library(gradient.dtype)
        model = self._model
        block = model.blocks[0]
        assert isinstance(block, Block)
        attention = block.attention
        eps, scale, table = model.final_norm.eps, attention.scale, model.rotary[:, 0, 0]
        assert eps is not None
        names = [*_OF_MODEL]
        names += [f"blocks.{i}.{name}" for i in range(len(model.blocks)) for name in _OF_LAYER]
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        gradients = dict(zip(parameters, self._totals, strict=True))
        turns = [part.t().to(gradient.dtype).contiguous() for part in (table.real, table.imag)]
        # Who holds an address holds what is there.
        self._pointed_to = (parameters, gradients, turns)
        self._described = _Model(
            width=model.embedding.weight.shape[1],
            layers=len(model.blocks),
            heads=attention.out.weight.shape[1] // attention.head_dim,
            head=attention.head_dim,
            ffn=block.feed_forward.down.weight.shape[1],
            tokens=model.vocab_size,
            seq_len=len(table),
            taps=0 if attention.conv is None else attention.conv.weight.shape[1],
            eps=eps,
            head_eps=attention.norm_eps,
            scale=attention.head_dim**-0.5 if scale is None else scale,
            branch=block.branch,
            logit_scale=model.transfer.logits,
            parameters=_addresses([parameters.get(name) for name in names]),
            gradients=_addresses([gradients.get(name) for name in names]),
            cosine=turns[0].data_ptr(),
            sine=turns[1].data_ptr(),
        )
        return gradient

    @torch.no_grad()
    def __call__(self, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Return the loss (0-d) and add its gradient to the parameters' `grad`."""
        rows, seq_len = tokens.shape
        functions = self._functions_for(seq_len)
        if functions is None:
            return super().__call__(tokens, batch)
        total = self.gradient
        assert total is not None
        assert batch.flat is not None
        assert batch.weights is not None
        if self._parameters[0].grad is None:
            total.zero_()
            for parameter, part in zip(self._parameters, self._totals, strict=True):
                parameter.grad = part
        clean, flat = tokens.contiguous(), batch.flat.contiguous()
        weights = batch.weights.to(total.dtype).contiguous()
        noisy = clean.new_empty(seq_len)
        loss = functions.step(
            *self._model_and_memory(seq_len),
            clean.data_ptr(),
            noisy.data_ptr(),
            rows,
            seq_len,
            flat.data_ptr(),
            weights.data_ptr(),
            len(flat),
            batch.normaliser,
        )
        return total.new_tensor(loss)

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Return the model's hidden states [B, T, d] of noisy tokens [B, T]."""
        rows, seq_len = tokens.shape
        functions = self._functions_for(seq_len)
        if functions is None:
            return super().states(tokens)
        noisy = tokens.contiguous()
        out = self._parameters[0].new_empty(rows, seq_len, self._described.width)
        functions.states(
            *self._model_and_memory(seq_len),
            noisy.data_ptr(),
            rows,
            seq_len,
            out.data_ptr(),
        )
        return out

    @torch.no_grad()
    def masked_losses(self, tokens: Tensor, flat: Tensor) -> Tensor:
        """Return -log p(token | unmasked tokens) of each masked position, [M]."""
        rows, seq_len = tokens.shape
        functions = self._functions_for(seq_len)
        if functions is None:
            return super().masked_losses(tokens, flat)
        clean, flat = tokens.contiguous(), flat.contiguous()
        noisy = clean.new_empty(seq_len)
        losses = self._parameters[0].new_empty(len(flat))
        functions.losses(
            *self._model_and_memory(seq_len),
            clean.data_ptr(),
            noisy.data_ptr(),
            rows,
            seq_len,
            flat.data_ptr(),
            len(flat),
            losses.data_ptr(),
        )
        return losses

    def _functions_for(self, seq_len: int) -> ctypes.CDLL | None:
        """Return the compiled step, its memory allocated; None: torch's operations do it."""
        if self.gradient is None:
            self._allocate()
        return None if seq_len % _VECTOR else self._functions

    def _model_and_memory(self, seq_len: int) -> tuple[Any, int]:
        """Return what every function takes first: the model, and room for its work."""
        model = ctypes.byref(self._described)
        if seq_len not in self._memory:
            assert self._functions is not None
            size = self._functions.memory_of(model, seq_len)
            self._memory[seq_len] = self._parameters[0].detach().new_empty(size)
        return model, self._memory[seq_len].data_ptr()


def _addresses(tensors: list[Tensor | None]) -> "ctypes.Array[c_void_p]":
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors)
    values = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (c_void_p * len(values))(*values)
