"""What it takes to start a trial whose shape another trial has compiled."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.training.runs import run_of, windows_of
from benchmarks.training.table import Row, Setting, seconds_of, wait_for
from quokka_ray.training.loop import Trainer


def start_up(device: str, layers: int) -> dict[str, float]:
    """Return the seconds of a first and a second trial's start, each less an ordinary step."""
    config = run_of(256, layers, vocab_size=4_000, seq_len=256, rows=4, compile="always")

    def start() -> Trainer:
        trainer = Trainer(config, windows_of(config), device)
        trainer.advance()
        return trainer

    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    trainer = start()
    wait_for(device)
    first = clock() - begun
    step = statistics.median(seconds_of(trainer.advance, device) for _ in range(5))
    second = seconds_of(start, device)
    mode = trainer.compilation.mode
    return {"first": first - step, "second": second - step, "compiled": mode == "compiled"}


def _in_a_process(device: str, layers: int, cache: str) -> dict[str, float]:
    code = (
        "import json, torch; from benchmarks.training.start import start_up; "
        f"torch.set_num_threads(1); print(json.dumps(start_up({device!r}, {layers})))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=root,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the second trial's start in the process of the first, and in one of its own."""
    layers = 2 if setting.quick else 6
    with tempfile.TemporaryDirectory() as cache:
        cold = _in_a_process(setting.device, layers, cache)
        warm = _in_a_process(setting.device, layers, cache)
    if not cold["compiled"]:
        print("start: the blocks do not compile here (no C++ compiler?): left out")
        return
    clock = "CPU seconds" if setting.device == "cpu" else "seconds"
    yield Row(
        f"compiled trial of a known shape, same process: {clock} to start",
        max(cold["second"], warm["second"]),
        1.0,
        "lower",
    )
    yield Row(
        f"  the same in a process of its own, cache shared: {clock}",
        warm["first"],
        None,
        "lower",
        f"without a cache {cold['first']:.1f}, and its compiler's",
    )
