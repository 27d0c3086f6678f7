"""`doctor`: what this machine has for a search."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from quokka_ray.cli.output import say

LIBRARIES = ("ray", "torch", "optuna", "datasets", "tokenizers", "tensorboard", "scipy", "pandas")


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser("doctor", help="say what this machine has for a search")
    parser.add_argument("--storage", type=Path, default=Path("runs"), metavar="DIR",
                        help="where studies go (default: runs)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(func=examine)


def examine(options: argparse.Namespace) -> int:
    """Print versions, devices and storage; exit 3 when a search could not run here."""
    findings = _findings(options.storage)
    if options.json:
        say(json.dumps(findings))
    else:
        for name, value in findings.items():
            label = "free" if name == "free_gb" else name.replace("_", " ")
            say(f"{label:<12} {_shown(name, value)}")
    missing = [name for name in LIBRARIES if findings[name] is None]
    return 3 if missing or not findings["writable"] else 0


def _shown(name: str, value: Any) -> str:
    """Return a finding in words."""
    if name == "free_gb":
        return f"{value:g} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(value) or "none"
    return "none" if value is None else str(value)


def _findings(storage: Path) -> dict[str, Any]:
    findings: dict[str, Any] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            findings[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings[name] = None
    findings["cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    findings["gpus"] = _gpus() if findings["torch"] else []
    findings["c_compiler"] = _compiler() if findings["torch"] else None
    parent = next(path for path in [storage, *storage.absolute().parents] if path.exists())
    findings["storage"] = str(storage)
    findings["writable"] = os.access(parent, os.W_OK)
    findings["free_gb"] = round(shutil.disk_usage(parent).free / 1e9, 1)
    return findings


def _gpus() -> list[str]:
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices]


def _compiler() -> str | None:
    """Return what compiles the step of small models on a CPU, which is slower without."""
    from quokka_ray.training.native.build import compiler

    found = compiler()
    return None if found is None else str(found)
