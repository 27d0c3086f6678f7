"""What a CPU process does with the memory that a step frees."""

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
_NEVER = 1 << 30


def keep_freed_memory() -> bool:
    """Let the C library keep what the next step will ask for again; return whether it will.

    glibc gives each tensor of 32 MiB or more pages of its own and returns them when it is freed,
    so that every step has its gradients' pages zeroed and mapped anew: 29 % of the step's CPU
    time where a head has 32,000 rows (docs/log.md). The process then keeps the most that it ever
    held, up to a gibibyte at the top of its heap. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    kept: bool = library.mallopt(_MMAP_THRESHOLD, _NEVER) and library.mallopt(
        _TRIM_THRESHOLD, _NEVER
    )
    return bool(kept)
