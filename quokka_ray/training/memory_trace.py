"""The peak memory of a step, by running the step on tensors that have sizes and no storage.

This is the judge of `memory.py`: the model, objective and optimisers themselves, forward,
backward and update, under `FakeTensorMode`, with every allocation and every release counted as a
caching allocator would count them. A model of a billion parameters takes seconds and no memory,
on any machine.

The tensors say that they are a CPU's, since autograd refuses other devices where torch was built
without them. Where a GPU's kernels save other things, they take their place: norms that are
fused and, under autocast, run in float32, and flash attention.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quokka_ray.diffusion import head
from quokka_ray.diffusion.build import build_objective
from quokka_ray.model.transformer import build_model
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training import optimizers
from quokka_ray.training.dropout import dropping, with_keys

_BLOCK = 512
"""Bytes that an allocation is rounded up to."""


@dataclass(frozen=True)
class Traced:
    """The most bytes that were held at once in each part of a step, the second of a run."""

    forward: int
    backward: int
    update: int

    @property
    def peak(self) -> int:
        """The most that was held at all."""
        return max(self.forward, self.backward, self.update)


def trace_step(config: TrajectoryConfig, rows: int, *, checkpointing: bool = False) -> Traced:
    """Return the peaks of a step whose batch is cut into parts of `rows` sequences.

    Two parts are run at most: from the second on, all are alike.
    """
    objective = build_objective(
        config.diffusion, config.vocab_size, config.model.seq_len, config.steps
    )
    batch = config.training.batch_sequences
    clean = np.zeros((batch, config.model.seq_len), np.int64)
    drawn = objective.draw(config.seed, 0, clean)
    drawn = with_keys(drawn, config.training.dropout, config.seed, 0, batch)
    parts = min(2, batch // rows)
    with FakeTensorMode(), Allocations() as allocations, _as_on_a_gpu():
        model = build_model(config)
        model.checkpointing = checkpointing
        for tensor in [*model.parameters(), *model.buffers()]:
            allocations.add(tensor)
        updating = optimizers.build_optimizers(model, config.training, config.lr)
        parameters = list(model.parameters())
        peaks = {"forward": 0, "backward": 0, "update": 0}
        for _ in range(2):
            peaks = dict.fromkeys(peaks, 0)
            for part in range(parts):
                noise = drawn.part(part * rows, (part + 1) * rows, clean.shape[1]).map(_sent)
                tokens = _sent(clean[:rows])
                half = config.training.precision != "fp32"
                with torch.autocast("cpu", torch.bfloat16, half, False):
                    loss = objective.loss(dropping(model, noise), tokens, noise)
                peaks["forward"] = max(peaks["forward"], allocations.peak_since())
                loss.backward()
                del loss, noise, tokens
                peaks["backward"] = max(peaks["backward"], allocations.peak_since())
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
            del gradients
            updating.step(1.0)
            for parameter in parameters:
                parameter.grad = None
            peaks["update"] = max(peaks["update"], allocations.peak_since())
    return Traced(**peaks)


def _sent(array: np.ndarray) -> Tensor:
    """Return a tensor of the array's shape and type; what it holds does not matter."""
    return torch.empty(array.shape, dtype=torch.from_numpy(array[:0]).dtype)


class Allocations(TorchDispatchMode):
    """Counts storages from their first tensor to their last reference.

    Args:
        round_to: Bytes that each is rounded up to.
    """

    def __init__(self, round_to: int = _BLOCK) -> None:
        super().__init__()
        self._round_to = round_to
        self._now = 0
        self._peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, once."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = -(-storage.nbytes() // self._round_to) * self._round_to
        self._now += size
        self._peak = max(self._peak, self._now)
        weakref.finalize(storage, self._free, size)

    def peak_since(self) -> int:
        """Return the most bytes held since this was last asked."""
        peak, self._peak = self._peak, self._now
        return peak

    def _free(self, size: int) -> None:
        self._now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Within it norms, attention and head keep what they do on a GPU.

    The functions themselves are replaced: a mode of torch's would not reach into the second run
    of a checkpointed block.
    """
    places: list[tuple[Any, str, Any]] = [
        (functional, "rms_norm", _rms_norm),
        (functional, "scaled_dot_product_attention", _attention),
        (functional, "embedding", _embedding),
        (head, "_AT_ONCE", {}),
        (head, "_IN_CACHE", 1 << 62),
        (head, "_Chunked", _ChunkedOnAGpu),
        (optimizers, "orthogonalise", _orthogonalise),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)


class _ChunkedOnAGpu(head._Chunked):
    """The chunked head, whose backward pass scales both gradients whatever the scale."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        of_rows, of_matrix = ctx.saved_tensors
        scaled = (of_rows * gradients[0], of_matrix * gradients[0])
        return *scaled, *[None] * (len(ctx.needs_input_grad) - 2)


_look_up = functional.embedding


def _embedding(tokens: Tensor, weight: Tensor, *, sparse: bool = False) -> Tensor:
    """As on a GPU, whatever `sparse` says for the CPU."""
    return _look_up(tokens, weight)


_in_its_own_type = optimizers.orthogonalise


def _orthogonalise(matrices: Tensor) -> Tensor:
    return _in_its_own_type(matrices.bfloat16()).to(matrices.dtype)


def _rms_norm(
    x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    # Autocast runs norms in float32 on a GPU since torch 2.12.
    result: Tensor = _FusedNorm.apply(x.float(), None if weight is None else weight.float())
    return result


class _FusedNorm(torch.autograd.Function):
    """Saves its input and one number a row, as the fused kernel does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, x.new_empty((*x.shape[:-1], 1)), weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        x, _, weight = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    aten = torch.ops.aten
    if query.dtype == torch.bfloat16:
        out = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, scale=scale
        )
    else:
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, is_causal, scale=scale
        )
    mixed: Tensor = out[0]
    return mixed
