"""The C code of this folder, compiled once a machine and loaded once a process.

A step of fifty thousand parameters takes less time than torch needs to be asked for its two
hundred operations, and its activations fit a core's cache if they are not those of the whole
batch: so the step is one call of C (docs/log.md). It is compiled for the machine's own
instructions, in three seconds, when a process of this user first wants it. The library stays in
the user's cache folder under a name that says what it was made from and for which processor.
Without a compiler everything runs on torch's operations.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

_logger = logging.getLogger(__name__)

_HERE = Path(__file__).resolve().parent
_CACHE = Path("~/.cache/quokka-ray/native")
_FLAGS = (
    *("-O3", "-std=gnu11", "-fPIC", "-shared", "-Wno-psabi"),
    # Nothing here reads errno or traps. What is not finite stays so, and sums keep their order.
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
)
_TARGETS = ("-march=native", "-mcpu=native")
"""The second where a compiler does not know the first: some of those for ARM."""

_DEFINES = {torch.float32: (), torch.float64: ("-DDOUBLE",)}
_COMPILE_SECONDS = 120

_ADDRESS, _COUNT, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "memory_of": (_COUNT, [_ADDRESS, _COUNT]),
    "step": (_REAL, [*[_ADDRESS] * 4, _COUNT, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _REAL]),
    "losses": (None, [*[_ADDRESS] * 4, _COUNT, _COUNT, _ADDRESS, _COUNT, _ADDRESS]),
    "states": (None, [*[_ADDRESS] * 3, _COUNT, _COUNT, _ADDRESS]),
    "memory_of_muon": (_COUNT, [_COUNT, _COUNT]),
    "muon": (None, [_ADDRESS, _COUNT, _REAL, _REAL, _REAL, _COUNT, _ADDRESS]),
}


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Return the functions for numbers of one type, or None where they cannot be had."""
    found = compiler()
    if found is None or dtype not in _DEFINES:
        return None
    try:
        path = _CACHE.expanduser() / f"{_name(found, dtype)}.so"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _compile(found, dtype, path)
        functions = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _logger.warning("steps of small models stay with torch, which is slower: %s", error)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(functions, name)
        function.restype, function.argtypes = result, arguments
    return functions


def compiler() -> Path | None:
    """Return a C compiler that has GCC's vector types."""
    names = [os.environ.get("CC", ""), "gcc", "clang", "cc"]
    found = next(filter(None, (shutil.which(name) for name in names if name)), None)
    return None if found is None else Path(found)


def _name(with_: Path, dtype: torch.dtype) -> str:
    """Return a name for what this compiler makes of the sources on this processor."""
    status = with_.stat()
    made_from = hashlib.sha256(_processor().encode())
    made_from.update(f"{with_} {status.st_size} {status.st_mtime_ns} {_FLAGS}".encode())
    for source in sorted(_HERE.glob("*.[ch]")):
        made_from.update(source.read_bytes())
    return f"{made_from.hexdigest()[:20]}-{str(dtype).removeprefix('torch.')}"


def _processor() -> str:
    """Return what tells processors apart that code is compiled differently for."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.platform()} {platform.processor()}"
    return "".join(
        line for line in first if line.startswith(("flags", "Features", "model", "CPU"))
    )


def _compile(with_: Path, dtype: torch.dtype, path: Path) -> None:
    """Compile to `path`, whole or not at all, whoever else does so at the same time."""
    said = ""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        sources = sorted(map(str, _HERE.glob("*.c")))
        for target in _TARGETS:
            command = [str(with_), *_FLAGS, target, *_DEFINES[dtype], *sources, "-lm"]
            result = subprocess.run(
                [*command, "-o", str(draft)],
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
            )
            if result.returncode == 0:
                draft.replace(path)
                return
            said = said or result.stderr.strip()
    raise OSError(f"{with_} does not compile them: {said[:500]}")
