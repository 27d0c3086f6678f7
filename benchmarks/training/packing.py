"""Rows: several trials of one shape on one device, against one at a time.

Two ways: processes that share the device, as Ray's fractional GPUs do, and a cohort, one process
that trains all of them as one model with stacked parameters (`torch.func`), each with its own
seed, masks and data. The device's own way to run kernels of several processes side by
side is MPS: start `nvidia-cuda-mps-control -d` first to measure with it.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.runs import run_of, step_flops, windows_of
from benchmarks.training.table import Row, Setting, interleaved, wait_for
from quokka_ray.diffusion.build import build_objective
from quokka_ray.diffusion.objective import masked_cross_entropy
from quokka_ray.model.transformer import DiffusionTransformer, build_model
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.device_memory import release
from quokka_ray.training.loop import Trainer
from quokka_ray.training.precision import products_in_bf16

ROOT = Path(__file__).resolve().parents[2]
PEAK = 989e12
"""Dense bfloat16 FLOP/s of an H100 or H200, from the data sheet."""


@dataclass(frozen=True)
class Size:
    """One shape, and how many trials of it are run together."""

    run: dict[str, Any]
    together: tuple[int, ...]


SIZES = {
    # The byte vocabulary of the quick start, and its batch.
    "50k": Size(
        {"d_model": 48, "layers": 2, "vocab_size": 258, "seq_len": 64, "rows": 8,
         "model": {"head_dim": 8, "ffn_multiple": 8}, "precision": "fp32"}, (4,)
    ),
    "10M": Size(
        {"d_model": 256, "layers": 10, "vocab_size": 8192, "seq_len": 2048, "rows": 4,
         "precision": "bf16"}, (4, 8)
    ),
    "100M": Size(
        {"d_model": 768, "layers": 12, "vocab_size": 32_000, "seq_len": 2048, "rows": 8,
         "precision": "bf16"}, (2, 4)
    ),
}  # fmt: skip


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the rows."""
    if setting.device != "cuda":
        yield _cohort_on_cpu(setting)
        return
    for name, size in SIZES.items():
        if name == "50k":
            continue
        config = run_of(**size.run)
        seconds = 2.0 if setting.quick else 5.0
        one = _processes(name, 1, seconds)
        best, how = one, "one at a time"
        for count in size.together:
            ways = {
                f"{count} processes": partial(_processes, name, count, seconds),
                f"a cohort of {count}": partial(_cohort_rate, config, count, seconds),
            }
            for way, measured in ways.items():
                try:
                    rate = measured()
                except RuntimeError as error:
                    # Memory that is out among others: the other ways are measured all the same.
                    said = str(error).split("\n", 1)[0]
                    print(f"  {name}, {way}: left out: {said}", flush=True)
                    continue
                finally:
                    release("cuda")
                said = f"{rate:,.0f} tokens/s, {rate / one:.2f} of one"
                print(f"  {name}, {way}: {said}", flush=True)
                if rate > best:
                    best, how = rate, way
        mfu = best * step_flops(config) / config.batch_tokens / PEAK
        if name == "10M":
            yield Row("10M, aggregate tokens/s over one trial's", best / one, 4.0, detail=how)
        else:
            yield Row("100M, aggregate exact-FLOP MFU against 989 TFLOP/s", mfu, 0.35, detail=how)


class Cohort:
    """Trials of one shape as one model: parameters [trials, ...], one fused AdamW over all.

    Each has its own seed, and with it its own start, masks and text, and is clipped by itself. All
    have one learning rate: another for each would be one more product a parameter, and is left
    out of what is measured.
    """

    def __init__(self, config: TrajectoryConfig, count: int, device: str) -> None:
        self.config, self.count, self.device = config, count, device
        models = [build_model(config) for _ in range(count)]
        for seed, model in enumerate(models):
            model.initialise(config.model, seed)
            model.to(device)
        self.parameters, self.buffers = torch.func.stack_module_state(models)  # type: ignore[arg-type]
        self._whole = _Whole(models[0]).to("meta")
        self._objective = build_objective(
            config.diffusion, config.vocab_size, config.model.seq_len, config.steps
        )
        self._windows = windows_of(config)
        self._update = torch.optim.AdamW(
            self.parameters.values(), lr=config.lr, betas=(0.9, 0.95), fused=True
        )
        self.step = 0

    def advance(self) -> None:
        """Take one step of every trial."""
        rows, length = self.config.training.batch_sequences, self.config.model.seq_len
        clean, drawn = [], []
        for trial in range(self.count):
            tokens = self._windows.batch((self.step * self.count + trial) * rows, rows)
            clean.append(torch.from_numpy(tokens))
            drawn.append(self._objective.draw(trial, self.step, tokens).map(torch.from_numpy))
        text = torch.stack(clean).to(self.device)
        flat = torch.stack([_given(batch.flat) for batch in drawn]).to(self.device)
        weights = torch.stack([_given(batch.weights) for batch in drawn]).to(self.device)

        def loss(parameters: Any, buffers: Any, text: Tensor, flat: Tensor, w: Tensor) -> Tensor:
            def total(model: DiffusionTransformer) -> Tensor:
                return masked_cross_entropy(model, text, flat).dot(w) / (rows * length)

            state = {f"model.{k}": v for k, v in (parameters | buffers).items()}
            result: Tensor = torch.func.functional_call(self._whole, state, (total,))
            return result

        half = products_in_bf16(self.config.training.precision, self.device)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, half, False):
            losses = torch.vmap(loss)(self.parameters, self.buffers, text, flat, weights)
        losses.sum().backward()
        gradients = [_given(p.grad) for p in self.parameters.values()]
        square = sum(g.square().flatten(1).sum(1) for g in gradients)
        assert isinstance(square, Tensor)
        scale = (self.config.training.grad_clip / (square.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
        self._update.step()
        self._update.zero_grad(set_to_none=True)
        self.step += 1


class _Whole(nn.Module):
    """Lets a function of a model, its head included, run with parameters from elsewhere."""

    def __init__(self, model: DiffusionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[DiffusionTransformer], Tensor]) -> Tensor:
        return function(self.model)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _cohort_rate(config: TrajectoryConfig, count: int, seconds: float) -> float:
    """Return the tokens a second of a cohort on the GPU."""
    cohort = Cohort(config, count, "cuda")
    return _rate(cohort.advance, count * config.batch_tokens, "cuda", seconds)


def _rate(step: Callable[[], object], tokens: int, device: str, seconds: float) -> float:
    for _ in range(10):
        step()
    wait_for(device)
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(5):
            step()
        wait_for(device)
        steps += 5
    return steps * tokens / (time.perf_counter() - begun)


def _processes(name: str, count: int, seconds: float) -> float:
    """Return the tokens a second of `count` processes that train at the same time, summed."""
    command = [sys.executable, "-m", "benchmarks.training.packing", name, str(seconds)]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a trial of {name} did not start; its error stands above")
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate()[0] for process in started]
    finally:
        # One that did not start leaves the others waiting, on a GPU that the next ones need.
        for process in started:
            process.kill()
            process.wait()
    if any(process.returncode for process in started):
        raise RuntimeError(f"a trial of {name} ended early; its error stands above")
    return sum(map(float, said))


def _cohort_on_cpu(setting: Setting) -> Row:
    """Return what a cohort on one thread gains over the same trials one after the other."""
    size = SIZES["50k"]
    config, count = run_of(**size.run), size.together[0]
    cohort, alone = Cohort(config, count, "cpu"), Trainer(config, windows_of(config), "cpu")
    steps = 2 if setting.quick else 20

    def together() -> None:
        for _ in range(steps):
            cohort.advance()

    def apart() -> None:
        for _ in range(steps * count):
            alone.advance()

    seconds = interleaved({"apart": apart, "cohort": together}, "cpu", 2 if setting.quick else 5)
    alone.close()
    gain = min(seconds["apart"]) / min(seconds["cohort"])
    each = min(seconds["cohort"]) / steps * 1e3
    return Row(
        f"{config.params / 1e3:.0f}k, {count} trials as a cohort over one by one, one thread",
        gain,
        detail=f"{each:.1f} ms a step of all",
    )


def _work(name: str, seconds: float) -> None:
    """Train one trial, as a process of `_processes`."""
    config = run_of(**SIZES[name].run)
    trainer = Trainer(config, windows_of(config), "cuda")
    for _ in range(20):
        trainer.advance()
    wait_for("cuda")
    print("ready", flush=True)
    sys.stdin.readline()
    print(_rate(trainer.advance, config.batch_tokens, "cuda", seconds))
    trainer.close()


if __name__ == "__main__":
    _work(sys.argv[1], float(sys.argv[2]))
