"""Muon in C: one call a group for momentum, orthogonalisation and update."""

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn

from quokka_ray.training.native.build import library
from quokka_ray.training.optimizers import ITERATIONS, Muon

_LONGEST_SHORT_SIDE = 256
"""Larger matrices leave the caches, and torch's products are faster there."""


class _Matrices(ctypes.Structure):
    """`Matrices` of muon.c."""

    _fields_ = (
        *((name, c_int64) for name in ("parts", "rows", "columns")),
        *((name, c_void_p) for name in ("parameter", "gradient", "momentum")),
    )


class NativeMuon(Muon):
    """`Muon`, with small matrices on a CPU in C: the same numbers up to rounding."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._memory: Tensor | None = None
        self._are_small = all(
            min(rows, columns) <= _LONGEST_SHORT_SIDE for rows, columns in self._shapes()
        )

    def _shapes(self) -> list[tuple[int, int]]:
        """Return rows and columns of the matrices of each parameter."""
        return [
            (p.shape[0] // parts, p.shape[1])
            for group in self.param_groups
            for p, parts in zip(group["params"], group["parts"], strict=True)
        ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters from their gradients; every one must have a gradient."""
        first = self.param_groups[0]["params"][0]
        functions = library(first.dtype) if self._are_small and first.is_cpu else None
        if functions is None:
            super().step(closure)
            return
        # All memory first: after this nothing can end a step that has begun.
        for p in (p for group in self.param_groups for p in group["params"]):
            if p not in self.state:
                self.state[p]["momentum"] = torch.zeros_like(p)
        if self._memory is None or self._memory.dtype != first.dtype:
            size = max(functions.memory_of_muon(*shape) for shape in self._shapes())
            self._memory = first.detach().new_empty(size)
        for group in self.param_groups:
            matrices = [
                self._describe(*pair) for pair in zip(group["params"], group["parts"], strict=True)
            ]
            functions.muon(
                (_Matrices * len(matrices))(*matrices),
                len(matrices),
                group["lr"],
                group["momentum"],
                group["weight_decay"],
                ITERATIONS,
                self._memory.data_ptr(),
            )

    def _describe(self, parameter: nn.Parameter, parts: int) -> _Matrices:
        rows, columns = parameter.shape
        assert parameter.grad is not None
        tensors = (parameter, parameter.grad, self.state[parameter]["momentum"])
        assert all(tensor.is_contiguous() for tensor in tensors)
        return _Matrices(parts, rows // parts, columns, *(t.data_ptr() for t in tensors))
