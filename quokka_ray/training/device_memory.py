"""What a device has to give, and what runs on it were seen to need.

The memory model (`memory.py`) is arithmetic; a device adds its kernels' workspaces and its
allocator's gaps, and a compiled step keeps other tensors. What was measured is kept in a file
beside the trajectories, so that the next run of a family is predicted better and the next run of
a shape starts from the micro-batch that fitted.
"""

import gc
import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from quokka_ray.atomic import write_text_atomically
from quokka_ray.training.memory import Recipe

logger = logging.getLogger(__name__)

NOTES_FILE = ".memory.json"
"""Where notes are kept, beside the folders of the trajectories that share them."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
"""How plain RuntimeErrors say that memory is out: torch's on a CPU, on Linux and elsewhere, and
those of libraries on a GPU that allocate past torch."""

_PLAUSIBLE = (0.5, 3.0)
"""Corrections outside this range were measured on something else."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's memory, or the machine's, is used up."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def release(device: str) -> None:
    """Give back what is no longer used, tensors in reference cycles among it."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: str) -> str:
    """Return what a device is, such as `NVIDIA H200`; `cpu`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return "cpu"


def free_memory(device: str) -> float | None:
    """Return the bytes that a run may take on `device`; None where nobody says.

    On a GPU that is shared, its share of it (`torch.cuda.set_per_process_memory_fraction`).
    """
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        share = torch.cuda.memory.get_per_process_memory_fraction(device) * total
        return float(min(free + torch.cuda.memory_reserved(device), share))
    if torch.device(device).type == "cpu":
        return _available_on_host()
    return None


def _available_on_host() -> float | None:
    """Return what Linux says is available, within the limit of the process's control group."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError):
        return None
    available = 1024.0 * int(kibibytes)
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        available = min(available, float(limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no limit, or none that this process may see
    return available


@dataclass(frozen=True)
class MicroBatch:
    """How a step is cut: sequences in memory at once, and whether blocks run twice."""

    rows: int
    checkpointing: bool = False

    def __str__(self) -> str:
        return f"{self.rows} sequences at once" + (
            " with activation checkpointing" if self.checkpointing else ""
        )


class Notes:
    """What was learnt of devices, in one file that the runs of a folder share.

    A file that is missing or cannot be read is an empty one, and one that cannot be written is
    left: notes save time, and no run depends on them.

    Args:
        path: The file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def correction(self, recipe: Recipe, device: str) -> float:
        """Return what was measured over what was predicted, 1 where nothing was measured."""
        low, high = _PLAUSIBLE
        value = self._read("corrections").get(_family(recipe, device), 1.0)
        return float(min(high, max(low, value)))

    def correct(self, recipe: Recipe, device: str, ratio: float) -> None:
        """Remember the largest ratio of measured to predicted memory of a family of shapes."""
        key = _family(recipe, device)
        known = self._read("corrections").get(key, 0.0)
        # Model sizes differ by some per cent: what is kept is the worst, and seldom rewritten.
        if ratio > 1.01 * known:
            self._write("corrections", key, ratio)

    def fitted(self, recipe: Recipe, device: str, batch: int) -> MicroBatch | None:
        """Return the micro-batch that a run of this shape had to come down to, if one had."""
        value = self._read("limits").get(_shape(recipe, device, batch))
        return None if value is None else MicroBatch(**value)

    def remember(self, recipe: Recipe, device: str, batch: int, fitted: MicroBatch) -> None:
        """Remember that a run of this shape had to come down to this micro-batch."""
        self._write("limits", _shape(recipe, device, batch), asdict(fitted))

    def _read(self, section: str) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            content: dict[str, Any] = json.loads(self._path.read_text("utf-8"))[section]
        except (OSError, ValueError, KeyError):
            return {}
        return content

    def _write(self, section: str, key: str, value: Any) -> None:
        if self._path is None:
            return
        try:
            with FileLock(f"{self._path}.lock", timeout=10):
                content = {name: self._read(name) for name in ("corrections", "limits")}
                content[section][key] = value
                write_text_atomically(self._path, json.dumps(content, indent=1) + "\n")
        except (OSError, TimeoutError) as error:
            logger.warning("%s cannot be written: %s", self._path, error)


def _family(recipe: Recipe, device: str) -> str:
    """Return a name of all sizes of a family on one kind of device."""
    training = recipe.training
    section = recipe.model.model_dump_json() + recipe.diffusion.model_dump_json()
    digest = hashlib.sha256(section.encode()).hexdigest()[:12]
    return "/".join(
        (
            device_name(device),
            f"torch {torch.__version__}",
            "bf16" if recipe.half else "fp32",
            training.optimizer,
            f"compile {training.compile}",
            f"{recipe.vocab_size} tokens",
            f"{recipe.shards} shards",
            digest,
        )
    )


def _shape(recipe: Recipe, device: str, batch: int) -> str:
    """Return a name of one size, its batch and its share of one kind of device."""
    shape = recipe.shape
    share = 1.0
    if torch.device(device).type == "cuda":
        share = torch.cuda.memory.get_per_process_memory_fraction(device)
    size = f"{shape.d_model}x{shape.layers}x{shape.heads}x{shape.ffn}"
    return f"{_family(recipe, device)}/{size}/{batch} rows/{share:.3f} of it"
