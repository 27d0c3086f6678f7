"""A tiny model's step beside the bare matrix products that it consists of.

    python -m benchmarks.training.tiny              N near 50k and 200k, the quick start's recipe
    python -m benchmarks.training.tiny --profile    and where the time goes, by kind
    python -m benchmarks.training.tiny --autograd   the plain model under autograd

What counts. The step is `Trainer.advance` as a trial calls it: windows, masks, forward, backward,
clipping, Muon and AdamW. The loop multiplies matrices of the step's own shapes into tensors that
exist already, in the layout that is the faster one on a CPU (features first), and does nothing
else: for each linear layer one product forward and two backward, the head at masked positions
only, and for attention two products forward and four backward, all heads in one batch. Those are
the products that exact FLOPs count (`model/counts.py`), so the ratio of FLOP rates is the loop's
time over the step's.

Muon's Newton-Schulz products are no part of exact FLOPs, but no step that uses Muon is without
them, and at 200k parameters they take more than half as long as the model's own. So a second row
has them in the loop too: five iterations of three products for each stack of matrices. A step
that cost nothing else would reach 1 there, and less in the first row.

Step and loop take turns on one thread; medians of CPU time.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.training.runs import run_of, step_flops, windows_of
from benchmarks.training.table import Row, Setting
from quokka_ray.diffusion.masks import antithetic_masks
from quokka_ray.model.counts import head_dim_of
from quokka_ray.model.shapes import shape_for
from quokka_ray.study.loader import load_study
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.loop import Trainer

STUDY = Path(__file__).resolve().parent.parent.parent / "search_spaces" / "smoke.yaml"
BYTES = 257
SIZES = (50_000, 200_000)
AIM = 0.6

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::mv"),
    "attention": ("aten::bmm", "aten::exp_", "scaled_dot_product", "aten::amax"),
    "Newton-Schulz": ("aten::baddbmm",),
    "convolution": ("convolution",),
    "softmax and loss": ("softmax", "nll_loss", "gather", "scatter"),
    "optimiser": ("_fused_adamw", "_foreach", "aten::lerp", "vector_norm"),
    "embedding and rows": ("index", "embedding"),
    "copies and memory": ("copy", "cat", "empty", "fill", "zero", "clone", "contiguous"),
    "activations": ("sigmoid", "silu"),
    "autograd": ("autograd::", "Backward", "AccumulateGrad"),
    "norms, rotary, elementwise": ("aten::",),
    "Python, NumPy's draws": ("step", "Step"),
}
"""Kinds of operations by parts of their names, the first that fits; time inside a step but in no
operation of torch is Python's and NumPy's."""

Loop = Callable[[], None]


def configuration(params: float) -> TrajectoryConfig:
    """Return the quick start's run of the size next to `params`, on bytes."""
    study = load_study([STUDY], environ={})
    shape = shape_for(params, study.model, BYTES)
    return run_of(
        shape.d_model,
        shape.layers,
        vocab_size=BYTES,
        seq_len=study.model.seq_len,
        rows=study.training.batch_sequences,
        diffusion=study.diffusion,
        model=study.model.model_dump(exclude={"seq_len"}),
        **study.training.model_dump(exclude={"batch_sequences"}),
    )


def trainer_of(config: TrajectoryConfig, autograd: bool) -> Trainer:
    """Return a trainer, by choice of the plain model under autograd."""
    trainer = Trainer(config, windows_of(config), "cpu")
    if autograd:
        trainer.fused = None
    return trainer


def bare_products(config: TrajectoryConfig) -> Loop:
    """Return a call that does the step's forward and backward products and nothing else."""
    shape, model, rows = config.shape, config.model, config.training.batch_sequences
    head_dim, seq_len = head_dim_of(shape, model), model.seq_len
    inner = shape.heads * head_dim
    masked = int(antithetic_masks(0, 0, rows, seq_len).counts.sum())
    positions = rows * seq_len
    layers = [
        (3 * inner, shape.d_model, positions),
        (shape.d_model, inner, positions),
        (2 * shape.ffn, shape.d_model, positions),
        (shape.d_model, shape.ffn, positions),
    ] * shape.layers + [(config.vocab_size, shape.d_model, masked)]
    calls: list[Loop] = []

    def product(a: torch.Tensor, b: torch.Tensor) -> None:
        multiply = torch.mm if a.ndim == 2 else torch.bmm
        out = multiply(a, b)
        calls.append(lambda: multiply(a, b, out=out))

    for outs, ins, columns in layers:
        weight, x, dy = (
            torch.randn(outs, ins),
            torch.randn(ins, columns),
            torch.randn(outs, columns),
        )
        product(weight, x)
        product(weight.t(), dy)
        product(dy, x.t())
    for _ in range(shape.layers):
        query, key, value, d_mixed = (
            torch.randn(rows * shape.heads, head_dim, seq_len) for _ in range(4)
        )
        scores = torch.randn(rows * shape.heads, seq_len, seq_len)
        product(key.mT, query)
        product(value, scores)
        product(value.mT, d_mixed)
        product(d_mixed, scores.mT)
        product(key, scores)
        product(query, scores.mT)

    def loop() -> None:
        for call in calls:
            call()

    return loop


def muon_products(config: TrajectoryConfig) -> Loop:
    """Return a call that does Newton-Schulz's products for the step's stacks of matrices."""
    shape = config.shape
    inner = shape.heads * head_dim_of(shape, config.model)
    stacks: dict[tuple[int, int], int] = defaultdict(int)
    for rows, columns, parts in (
        (inner, shape.d_model, 3),
        (shape.d_model, inner, 1),
        (shape.ffn, shape.d_model, 2),
        (shape.d_model, shape.ffn, 1),
    ):
        stacks[min(rows, columns), max(rows, columns)] += parts * shape.layers
    operands = []
    for (short, long), count in stacks.items():
        x, gram = torch.randn(count, short, long) / 100, torch.empty(count, short, short)
        operands.append((x, gram, torch.empty_like(gram), torch.empty_like(x)))

    def loop() -> None:
        for x, gram, square, update in operands:
            for _ in range(5):
                torch.bmm(x, x.mT, out=gram)
                torch.bmm(gram, gram, out=square)
                torch.bmm(square, x, out=update)

    return loop


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one step and of its bare products, medians of interleaved turns."""

    config: TrajectoryConfig
    step: float
    products: float
    newton_schulz: float

    def line(self) -> str:
        """Return times and rates in words."""
        flops, tokens = step_flops(self.config), self.config.batch_tokens
        return (
            f"step {self.step * 1e3:.2f} ms, products {self.products * 1e3:.2f} ms, "
            f"Newton-Schulz {self.newton_schulz * 1e3:.2f} ms, "
            f"{tokens / self.step:,.0f} tokens/s, "
            f"{flops / self.step / 1e9:.0f} of {flops / self.products / 1e9:.0f} GFLOP/s"
        )


def measure(params: float, turns: int, autograd: bool = False, repeats: int = 4) -> Timing:
    """Time the size next to `params`."""
    config = configuration(params)
    calls: list[Loop] = [
        trainer_of(config, autograd).advance,
        bare_products(config),
        muon_products(config),
    ]
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 2):
        for call, times in zip(calls, seconds, strict=True):
            begun = time.process_time()
            for _ in range(repeats):
                call()
            if turn >= 2:
                times.append((time.process_time() - begun) / repeats)
    return Timing(config, *(statistics.median(times) for times in seconds))


def rows(setting: Setting, autograd: bool = False) -> Iterator[Row]:
    """Yield two rows for each size."""
    for size in SIZES:
        timing = measure(size, 3 if setting.quick else 60, autograd)
        what = f"CPU, quick start, N = {timing.config.params:,}: exact FLOP/s"
        bare, both = timing.products, timing.products + timing.newton_schulz
        yield Row(f"{what} over bare products'", bare / timing.step, AIM, detail=timing.line())
        yield Row("  the same, Muon's products among them", both / timing.step, AIM)


def kinds(params: float, autograd: bool, steps: int = 60) -> dict[str, float]:
    """Return the milliseconds of a step that each kind of operation takes."""
    trainer = trainer_of(configuration(params), autograd)
    for _ in range(20):
        trainer.advance()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            with torch.profiler.record_function("step"):
                trainer.advance()
    spent: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    for event in profile.key_averages():
        for kind, names in KINDS.items():
            if any(name in event.key for name in names):
                spent[kind] += event.self_cpu_time_total / 1e3 / steps
                break
    return spent


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--profile", action="store_true", help="time by kind of operation")
    parser.add_argument("--autograd", action="store_true", help="the plain model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in rows(Setting("cpu"), options.autograd):
        print(row.line(), flush=True)
    if options.profile:
        for size in SIZES:
            spent = kinds(size, options.autograd)
            total = sum(spent.values())
            print(f"N near {size:,}, under the profiler: {total:.2f} ms a step")
            for kind, milliseconds in spent.items():
                print(f"  {kind:28} {milliseconds:6.3f} ms  {milliseconds / total:6.1%}")


if __name__ == "__main__":
    main()
