"""Where the time of a training step goes on a CPU, by kind.

    python benchmarks/profile_step.py --width 256 --layers 6 --seq-len 256 --vocab 32000 --rows 4

Each operation is clocked in CPU time, of which other work on the machine takes none; a profiler's
wall-clock times are worthless where cores are shared. Dispatch is the rest of an unclocked step:
Python, autograd, and finding kernels. The last line is the share of matrix products.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training.runs import run_of, step_flops, windows_of
from quokka_ray.training.allocator import keep_freed_memory
from quokka_ray.training.loop import Trainer

_PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}
_OPTIMISER = ("adamw", "foreach", "linalg_vector_norm")
_NORMS = {"pow", "mean", "rsqrt", "sum", "div", "expand", "add"}


class Clock(TorchDispatchMode):
    """CPU seconds of operations, by kind.

    Args:
        vocab: What tells the head's and the embedding's tensors apart.
    """

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self._vocab = vocab

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        begun = time.thread_time()
        result = function(*args, **(kwargs or {}))
        spent = time.thread_time() - begun
        tensors = [t for t in (*args, result) if isinstance(t, torch.Tensor)]
        large = any(size >= self._vocab for t in tensors for size in t.shape)
        self.seconds[_kind(function.overloadpacket.__name__, large)] += spent
        return result


def _kind(name: str, large: bool) -> str:
    if name in _PRODUCTS:
        return "matrix products, head" if large else "matrix products, blocks"
    if "scaled_dot_product" in name:
        return "attention"
    if any(part in name for part in _OPTIMISER):
        return "optimiser and clipping"
    if large:
        return "loss, embedding and its gradient"
    return "norms' reductions" if name in _NORMS else "elementwise and copies"


def _clocked(trainer: Trainer, vocab: int) -> dict[str, float]:
    with Clock(vocab) as clock:
        trainer.advance()
    return clock.seconds


def main() -> None:
    """Parse, clock, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="the least time of so many is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    config = run_of(
        options.width,
        options.layers,
        vocab_size=options.vocab,
        seq_len=options.seq_len,
        rows=options.rows,
        # Compiled blocks, and a tiny model's step in C, have no operations to clock.
        compile="never",
    )
    trainer = Trainer(config, windows_of(config), "cpu")
    trainer.advance()
    steps: list[float] = []
    clocked: list[dict[str, Any]] = []
    for _ in range(options.steps):
        begun = time.process_time()
        trainer.advance()
        steps.append(time.process_time() - begun)
        clocked.append(_clocked(trainer, options.vocab))
    whole = min(steps)
    kinds = {kind: min(one.get(kind, 0.0) for one in clocked) for kind in clocked[0]}
    kinds["dispatch"] = max(0.0, whole - sum(kinds.values()))
    print(f"{config.params / 1e6:.1f}M parameters, {config.batch_tokens} tokens a step")
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"{kind:34} {spent * 1e3:9.1f} ms {spent / whole:6.1%}")
    print(f"{step_flops(config) / whole / 1e9:.0f} GFLOP/s, exact")
    products = sum(spent for kind, spent in kinds.items() if kind.startswith("matrix"))
    print(f"ratio {products / whole:.3f}: matrix products over the step's {whole * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
