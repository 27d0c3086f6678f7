"""Optimisers: AdamW, and Muon for the blocks' matrices with AdamW on everything else.

`torch.optim.Muon` is not used: it takes matrices one by one, in bfloat16, and does not know that
a fused projection holds several. Here all matrices of one shape, of all layers and of all parts
of fused projections, are orthogonalised in one batched product, which for small models is what
Muon's cost consists of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import TrainingConfig

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Keller Jordan, 2024)."""

ITERATIONS = 5

_PIECE = 1 << 15
"""Numbers whose squares are added in the gradients' own type."""


def orthogonalise(matrices: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Bring all singular values of a stack [n, rows, columns] near 1, rows <= columns.

    A quintic Newton-Schulz iteration; singular values end between about 0.7 and 1.2. It runs in
    bfloat16 on accelerators and in the matrices' own type on a CPU, where that is faster.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-12)
    for _ in range(iterations):
        gram = x @ x.mT
        inner = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, inner, x, beta=a)
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan 2024), for matrices [out, in].

    A parameter that holds `parts` matrices stacked on its first axis, such as a fused
    query-key-value projection, is orthogonalised part by part. Each update is scaled by
    sqrt(max(1, out / in)), so that its effect on activations does not depend on the shape.

    Args:
        parameters: Pairs of a parameter [parts * out, in] and its number of parts.
        lr: Learning rate: the spectral norm of an update of a square matrix.
        momentum: Nesterov momentum.
        weight_decay: Decoupled, times the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, int]],
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        stacks: dict[tuple[int, int], list[tuple[nn.Parameter, int]]] = defaultdict(list)
        for parameter, parts in parameters:
            rows, columns = parameter.shape[0] // parts, parameter.shape[1]
            stacks[min(rows, columns), max(rows, columns)].append((parameter, parts))
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        groups = [
            {"params": [p for p, _ in members], "parts": [n for _, n in members]}
            for members in stacks.values()
        ]
        super().__init__(groups, defaults)
        # Where a step stopped for want of memory: groups that are done, and whether the next
        # one's momenta have met their gradients.
        self._done = 0
        self._met = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters from their gradients; every one must have a gradient.

        A step that an out-of-memory error ended is gone on with by the next call.
        """
        for group in self.param_groups[self._done :]:
            parameters, parts, lr = group["params"], group["parts"], group["lr"]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if p not in self.state:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in parameters]
            if not self._met:
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                self._met = True
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
            stack = torch.cat([lying(u, n) for u, n in zip(updates, parts, strict=True)])
            flat = orthogonalise(stack)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            first = 0
            for parameter, n in zip(parameters, parts, strict=True):
                rows, columns = parameter.shape[0] // n, parameter.shape[1]
                update = flat[first : first + n]
                update = update.mT if rows > columns else update
                scale = max(1.0, rows / columns) ** 0.5
                parameter.view(n, rows, columns).add_(update, alpha=-lr * scale)
                first += n
            self._done, self._met = self._done + 1, False
        self._done = 0


def lying(matrix: Tensor, parts: int) -> Tensor:
    """Return [parts, short side, long side] of a parameter that holds `parts` matrices."""
    stack = matrix.view(parts, -1, matrix.shape[1])
    return stack.mT if stack.shape[1] > stack.shape[2] else stack


def norm_of(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients together, 0-d: the same however they are cut, on a CPU.

    torch's own norm on a CPU adds squares up in float32, in as many sums as a vector has numbers:
    2e-4 too little for eight million of them. Dot products of short pieces, added in float64, are
    as fast and right to 1e-7, so that one process and several clip alike.
    """
    if not gradients[0].is_cpu:
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    pieces = (piece for g in gradients for piece in g.reshape(-1).split(_PIECE))
    square = sum(torch.dot(piece, piece).item() for piece in pieces)
    return torch.tensor(square, dtype=torch.float64).sqrt()


class Optimizers:
    """The optimisers of one run, driven together: one step, one schedule, one state."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._peaks = [group["lr"] for group in self.groups]
        self._done = 0

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups. Loading a state replaces them, so they are never kept."""
        return [group for o in self._optimizers for group in o.param_groups]

    def step(self, multiplier: float) -> None:
        """Update at `multiplier` times each group's peak rate.

        A step that an out-of-memory error ended is gone on with by the next call: no parameter
        is updated twice.
        """
        for group, peak in zip(self.groups, self._peaks, strict=True):
            group["lr"] = peak * multiplier
        for optimizer in self._optimizers[self._done :]:
            if isinstance(optimizer, torch.optim.AdamW):
                _make_moments(optimizer)
            optimizer.step()
            self._done += 1
        self._done = 0

    def state_dict(self) -> list[dict[str, Any]]:
        """Return all state: tensors and numbers only."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _make_moments(optimizer: torch.optim.AdamW) -> None:
    """Allocate AdamW's state before its first step moves anything.

    After this a step allocates nothing, so that it is either done or not begun.
    """
    if optimizer.state:
        return
    try:
        for group in optimizer.param_groups:
            optimizer._init_group(group, [], [], [], [], [], [])
    except BaseException:
        optimizer.state.clear()
        raise


def build_optimizers(
    model: DiffusionTransformer,
    training: TrainingConfig,
    lr: float,
    muon: Callable[..., Muon] = Muon,
) -> Optimizers:
    """Return the optimisers of a run whose peak learning rate is `lr`.

    `muon` makes the optimiser of the blocks' matrices where `training.optimizer` is Muon.

    Weight decay touches the blocks' matrices only: no norm, no gain, no convolution, and not the
    embedding, whose rare rows would fade between their updates. `model.transfer` says what
    changes with the size: rate and decay of AdamW's matrices and its epsilon, nothing of Muon's.
    """
    transfer = model.transfer
    matrices: list[tuple[nn.Parameter, int]] = []
    rest: list[nn.Parameter] = []
    # Its width makes it hidden, but all other vectors of the stream's start have no decay.
    timing: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2 and "conv" not in name
        if is_matrix:
            matrices.append((parameter, _PARTS.get(name.split(".")[-2], 1)))
        elif name == "time_conditioning.leave.weight":
            timing.append(parameter)
        else:
            rest.append(parameter)
    adam: dict[str, Any] = {
        "lr": lr,
        "betas": (training.beta1, training.beta2),
        "eps": training.eps * transfer.eps,
        "weight_decay": 0.0,
        "fused": True,
    }
    timed: list[dict[str, Any]] = (
        [{"params": timing, "lr": lr * transfer.hidden_lr}] if timing else []
    )
    if training.optimizer == "muon":
        of_matrices = muon(
            matrices,
            lr=lr * training.muon_lr_ratio,
            momentum=training.muon_momentum,
            weight_decay=training.weight_decay,
        )
        return Optimizers([torch.optim.AdamW([{"params": rest}, *timed], **adam), of_matrices])
    hidden: dict[str, Any] = {
        "params": [p for p, _ in matrices],
        "lr": lr * transfer.hidden_lr,
        "weight_decay": training.weight_decay * transfer.hidden_decay,
    }
    return Optimizers([torch.optim.AdamW([hidden, {"params": rest}, *timed], **adam)])


_PARTS = {"qkv": 3, "gate_up": 2}
"""Matrices that fused projections of `model/transformer.py` hold."""
