"""A study that trains for seconds: real text, real models, real diffusion, all of it small."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

STUDY: dict[str, Any] = {
    "name": "tiny",
    "corpus": {"source": "files", "paths": [], "validation_fraction": 0.2},
    "model": {
        "seq_len": 32, "head_dim": 8, "ffn_multiple": 8, "rope_base": 100,
        "embedding_norm": True, "conv_width": 3, "zero_init_residual": True,
    },
    "diffusion": {"weight_power": 0.5},
    "training": {
        "optimizer": "adamw", "lr": 1e-2, "beta2": 0.98, "weight_decay": 0,
        "batch_sequences": 8, "cooldown_fraction": 0.4,
        "checkpoint_seconds": 0.2, "report_seconds": 0.1,
    },
    "evaluation": {"sequences": 32, "draws": 2},
    "search": {
        "params": {"low": "3k", "high": "30k"},
        "run_flops": {"low": 7e8, "high": 4e9},
        "tokens_per_param": {"low": 0.5, "high": 100},
        "lr_factor": {"low": 0.5, "high": 2},
        "initial_fraction": 0.7,
    },
    "budget": {"flops": 1.5e10},
    "target": {"flops": 1e11},
    "law": {"bootstrap": 50},
}  # fmt: skip


def write_study(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write a corpus of the interpreter's own sources and a study on it; return its file."""
    texts = folder / "texts"
    texts.mkdir()
    for module in ("argparse", "ast", "calendar", "difflib", "inspect", "pathlib", "tarfile"):
        source = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
        for part, text in enumerate(source.read_text().split("\n\n\n")):
            (texts / f"{module}-{part}.txt").write_text(text)
    study = {
        k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in STUDY.items()
    }
    study["corpus"] = {**study["corpus"], "paths": [str(texts)], "cache": str(folder / "cache")}
    study["storage"] = str(folder / "runs")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `quokka-ray` with these arguments in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "quokka_ray", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CI": "1"},
    )


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a study's ledger."""
    path = folder / "ledger.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def observed_on_disk(folder: Path) -> set[str]:
    """Return the ids of all observations in the trajectories' own records."""
    rows = [
        json.loads(line)
        for path in folder.glob("trajectories/*/metrics.jsonl")
        for line in path.read_text().split("\n")[:-1]
    ]
    return {row["observation"] for row in rows if row["kind"] == "observation"}


def await_(
    condition: Callable[[], bool],
    what: str,
    process: subprocess.Popen[str],
    seconds: float = 120,
) -> None:
    """Wait until `condition` holds, while `process` lives and for `seconds` at most."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {what} within {seconds} seconds"
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Return the processes that a search has started whose command line holds `name`."""
    workers = []
    for child in psutil.Process(process.pid).children(recursive=True):
        # One that ends meanwhile is none.
        with contextlib.suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()):
                workers.append(child)
    return workers


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a process and everything that it started, if it still lives."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
