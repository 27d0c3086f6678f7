"""What a device could do at most: measured with one matrix product, and by its data sheet."""

import time
from functools import lru_cache

import torch

_SECONDS = 0.2

# Dense tensor-core FLOP/s of the product pages of NVIDIA (nvidia.com/en-us/data-center/<name>),
# read without sparsity; float32 is TF32's where torch uses that, so only bf16 stands here.
_DATA_SHEET = {
    "H200": 989.4e12,
    "H100 PCIe": 756.5e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "B200": 2250e12,
}


@lru_cache
def measured_peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """Return the FLOP/s of a large matrix product, measured once in a process for each device.

    Args:
        device: Such as `cpu` or `cuda:0`.
        dtype: Of both factors.
        threads: Torch threads that are set, which a CPU's peak depends on.
    """
    size = 1024 if torch.device(device).type == "cpu" else 8192
    # Random factors, since a GPU multiplies constant ones faster than it ever does a model's, and
    # from a generator of their own.
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    square = drawn.to(device, dtype)

    def once() -> float:
        begun = time.perf_counter()
        product = square @ square
        product[0, 0].item()  # waits for the device
        return time.perf_counter() - begun

    once()
    begun, best = time.perf_counter(), once()
    while time.perf_counter() - begun < _SECONDS:
        best = min(best, once())
    return 2.0 * size**3 / best


def data_sheet_peak(device: str, dtype: torch.dtype) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU by its data sheet; None where it is not known."""
    if torch.device(device).type != "cuda" or dtype is not torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    # "L40S" before "L4", "H100 PCIe" before "H100".
    known = sorted(_DATA_SHEET, key=len, reverse=True)
    return next((_DATA_SHEET[model] for model in known if model in name), None)
