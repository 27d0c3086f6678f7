"""Which type the matrix products of a run have."""

import torch


def products_in_bf16(precision: str, device: str) -> bool:
    """Return whether `training.precision` means bfloat16 products on a device."""
    if precision != "auto":
        return precision == "bf16"
    if torch.device(device).type != "cuda":
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def fix_float32_products() -> None:
    """Let float32 mean float32 on every device: no TF32, whatever the process had set.

    TF32 keeps ten bits of a factor. It would make a run on a GPU differ from one on a CPU by far
    more than rounding, silently; whoever wants its speed says bf16, which is twice as fast again.
    """
    torch.set_float32_matmul_precision("highest")
    # Convolutions have a switch of their own, and it is on unless somebody turns it off.
    torch.backends.cudnn.allow_tf32 = False
