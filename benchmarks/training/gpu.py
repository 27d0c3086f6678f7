"""Models on one GPU: the share of its peak that a 1B model reaches, and what a graph saves."""

from collections.abc import Iterator

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention

from benchmarks.training.runs import run_of, step_flops, windows_of
from benchmarks.training.table import GiB, Row, Setting, interleaved
from quokka_ray.training.device_memory import release
from quokka_ray.training.loop import Trainer

DATA_SHEET = {
    "H200": 989e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "4090": 165e12,
}
"""Dense bfloat16 FLOP/s of NVIDIA's data sheets (SXM modules), by a part of the device's name."""

_SQUARE = 8192


def measured_peak(device: str) -> float:
    """Return the bfloat16 FLOP/s of a large square matrix product."""
    a, b = (torch.randn(_SQUARE, _SQUARE, device=device).bfloat16() for _ in range(2))

    def products() -> None:
        for _ in range(20):
            a @ b

    seconds = min(interleaved({"product": products}, device, 3)["product"])
    return 20 * 2 * _SQUARE**3 / seconds


def _flash(device: str) -> bool:
    """Return whether the 1B model's attention takes the flash kernel."""
    q = torch.empty(8, 32, 2048, 64, dtype=torch.bfloat16, device=device)
    return bool(can_use_flash_attention(SDPAParams(q, q, q, None, 0.0, False, False)))


def rows(setting: Setting) -> Iterator[Row]:
    """Yield 1B at T 2048 against the data sheet and a matrix product, then a small model."""
    name = torch.cuda.get_device_name(setting.device)
    yield from _large_rows(setting, name)
    release(setting.device)
    yield _graph_row(setting.device, name)


def _large_rows(setting: Setting, name: str) -> Iterator[Row]:
    device = setting.device
    peak = measured_peak(device)
    layers, many = (2, 2) if setting.quick else (18, 10)
    config = run_of(
        2048,
        layers,
        vocab_size=50_000,
        seq_len=2048,
        rows=32,
        micro_batch_sequences=8,
        precision="bf16",
        compile="always",
    )
    trainer = Trainer(config, windows_of(config), device)
    torch.cuda.reset_peak_memory_stats(device)

    def steps() -> None:
        for _ in range(many):
            trainer.advance()

    seconds = min(interleaved({"steps": steps}, device, 2)["steps"]) / many
    trainer.close()
    rate = step_flops(config) / seconds
    what = f"{name}, bf16, {config.params / 1e9:.2f}B, T 2048, micro-batch 8"
    detail = (
        f"{config.batch_tokens / seconds:,.0f} tokens/s, "
        f"{torch.cuda.max_memory_allocated(device) / GiB:.1f} GiB, "
        f"{trainer.compilation.mode}, flash attention: {'yes' if _flash(device) else 'NO'}"
    )
    sheet = next((value for part, value in DATA_SHEET.items() if part in name), None)
    if sheet is not None:
        line = f"{what}: exact MFU, {sheet / 1e12:.0f} TFLOP/s"
        yield Row(line, rate / sheet, 0.5, "higher", detail)
    products = f"{rate / 1e12:.0f} of {peak / 1e12:.0f} TFLOP/s; {detail}"
    yield Row("  the same: over a matrix product's FLOP/s", rate / peak, None, "higher", products)


def _graph_row(device: str, name: str) -> Row:
    """Return what a graph makes of a 10M model's steps."""
    ways = {}
    for graphs in ("auto", "never"):
        config = run_of(
            256,
            6,
            vocab_size=16_000,
            seq_len=256,
            rows=16,
            precision="bf16",
            compile="never",
            cuda_graphs=graphs,
        )
        ways[graphs] = Trainer(config, windows_of(config), device)

    def steps(trainer: Trainer) -> None:
        for _ in range(20):
            trainer.advance()

    seconds = interleaved(
        {way: lambda trainer=trainer: steps(trainer) for way, trainer in ways.items()}, device, 3
    )
    gain = min(seconds["never"]) / min(seconds["auto"])
    for trainer in ways.values():
        trainer.close()
    torch.testing.assert_close(
        ways["auto"].smoothed_loss, ways["never"].smoothed_loss, rtol=1e-2, atol=1e-2
    )
    return Row(f"{name}, {config.params / 1e6:.0f}M: a CUDA graph's steps over eager ones", gain)
