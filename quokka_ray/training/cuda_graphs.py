"""The passes of a small model replayed from one CUDA graph, where launching them is the bound.

A pass of a model of ten million parameters is some hundred kernels of a few microseconds each,
about what it takes to launch one: the device waits for the host. A graph launches all of them at
once. It reads its inputs from fixed buffers and adds to fixed gradients, so that nothing else of
the loop knows of it; the optimiser's step stays outside.

Exact-count masks in pairs give every micro-batch of whole pairs the same number of masked tokens,
so one graph serves the whole run. Other shapes are refused by `fits` rather than padded: where
the number of masked tokens is random, padding to the most would double the head's work.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quokka_ray.diffusion.objective import Batch
from quokka_ray.model.counts import flops_per_token
from quokka_ray.study.trajectory import TrajectoryConfig

Passes = Callable[[Tensor, Batch[Tensor]], Tensor]
"""Adds the gradients of a loss to the parameters' own, and returns the loss."""

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""Records what a function does; returns how to repeat it, and the tensor that it returned."""

_LAUNCHES_OF_A_BLOCK, _LAUNCHES_BESIDE = 120, 100
"""Kernels of a forward and backward pass, counted with the profiler in eager mode."""
_LAUNCH_SECONDS = 5e-6
_FLOPS_PER_SECOND = 2e14
"""What a data-centre GPU reaches in such a pass; a round figure, since at the sizes in question
either way is about as fast."""

_MOST_GRAPHS = 4


def fits(config: TrajectoryConfig, rows: int, device: str) -> bool:
    """Return whether passes of `rows` sequences are worth a graph, and have one shape.

    A function of the configuration alone: a resumed run decides alike.
    """
    if torch.device(device).type != "cuda" or config.training.cuda_graphs == "never":
        return False
    return _shapes_are_static(config, rows) and _launch_bound(config, rows)


def _shapes_are_static(config: TrajectoryConfig, rows: int) -> bool:
    diffusion, batch = config.diffusion, config.training.batch_sequences
    if config.model.document_attention == "within" or batch % rows:
        return False
    if diffusion.curriculum != "none":
        return False  # Whether there are weights depends on where the window stands.
    if diffusion.kernel != "mask":
        return True
    linear = diffusion.counts_exactly and diffusion.noise_schedule == "linear"
    return linear and rows % 2 == 0


def _launch_bound(config: TrajectoryConfig, rows: int) -> bool:
    tokens = rows * config.model.seq_len
    flops = tokens * flops_per_token(config.shape, config.model, config.vocab_size)
    launches = config.shape.layers * _LAUNCHES_OF_A_BLOCK + _LAUNCHES_BESIDE
    return flops / _FLOPS_PER_SECOND < launches * _LAUNCH_SECONDS


def capture_on_cuda(function: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Record a function as a CUDA graph, after the runs on a side stream that this needs."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result


class Replayed:
    """Passes that are recorded once for each shape of their inputs, and repeated afterwards.

    Dropping gradients by setting them to None is seen: the next pass begins from zero.

    Args:
        passes: The function that is recorded.
        parameters: All that it has gradients for.
        capture: How; tests on a CPU give one of their own.
    """

    def __init__(
        self,
        passes: Passes,
        parameters: Sequence[nn.Parameter],
        capture: Capture = capture_on_cuda,
    ) -> None:
        self._passes = passes
        self._parameters = list(parameters)
        self._capture = capture
        self._gradients: list[Tensor] = []
        self._recorded: dict[Any, tuple[Callable[[], object], Tensor, list[Tensor]]] = {}

    def __call__(self, tokens: Tensor, batch: Batch[Tensor]) -> Tensor:
        """Add the gradients and return the loss, as `passes` does."""
        given = _tensors(tokens, batch)
        shapes = (batch.normaliser, *[(name, t.shape, t.dtype) for name, t in given.items()])
        if shapes not in self._recorded and len(self._recorded) >= _MOST_GRAPHS:
            return self._passes(tokens, batch)
        if not self._gradients:
            self._gradients = [torch.zeros_like(p) for p in self._parameters]
        self._attach()
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(tokens, batch)
        replay, loss, inputs = self._recorded[shapes]
        for buffer, tensor in zip(inputs, given.values(), strict=True):
            buffer.copy_(tensor, non_blocking=True)
        replay()
        return loss.clone()

    def _attach(self) -> None:
        """Put the graphs' gradients in their places, at zero if the loop has dropped them."""
        if self._parameters[0].grad is not self._gradients[0]:
            torch._foreach_zero_(self._gradients)
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient

    def _record(
        self, tokens: Tensor, batch: Batch[Tensor]
    ) -> tuple[Callable[[], object], Tensor, list[Tensor]]:
        # Recording runs the passes: what they add to the gradients is taken back.
        before = [gradient.clone() for gradient in self._gradients]
        still = batch.map(torch.clone)
        text = tokens.clone()
        replay, loss = self._capture(lambda: self._passes(text, still))
        torch._foreach_copy_(self._gradients, before)
        return replay, loss, list(_tensors(text, still).values())


def _tensors(tokens: Tensor, batch: Batch[Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a pass by name; those that are not there are left out."""
    named = {
        "tokens": tokens,
        "flat": batch.flat,
        "noisy": batch.noisy,
        "weights": batch.weights,
        "time": batch.time,
        "dropout": batch.dropout,
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}
