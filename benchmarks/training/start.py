"""What it takes to start a trial, whose shape another one has compiled.

A process of its own has to import torch and what torch's optimisers load at their first step, and
to run compiled code its compiler too: that much any program pays, and rows count what is beyond
it. All are printed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from benchmarks.training.runs import run_of, windows_of
from benchmarks.training.table import Row, Setting, seconds_of, wait_for
from quokka_ray.training.loop import Trainer

Mode = Literal["always", "never"]
"""Whether blocks are compiled."""


def start_up(device: str, layers: int, mode: Mode) -> dict[str, float]:
    """Return the seconds of a first and a second trial's start, each less an ordinary step."""
    config = run_of(256, layers, vocab_size=4_000, seq_len=256, rows=4, compile=mode)

    def start() -> Trainer:
        trainer = Trainer(config, windows_of(config), device)
        trainer.advance()
        return trainer

    begun = now(device)
    trainer = start()
    wait_for(device)
    first = now(device) - begun
    step = statistics.median(seconds_of(trainer.advance, device) for _ in range(5))
    second = seconds_of(start, device)
    found = trainer.compilation.mode
    return {"first": first - step, "second": second - step, "compiled": found == "compiled"}


def now(device: str) -> float:
    """Return the clock that starts are measured by: CPU time without a GPU."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def _in_a_process(device: str, layers: int, cache: str, mode: Mode) -> dict[str, float]:
    """Return `start_up` of a new process, and what its imports took.

    `torch`, `optimizers` and `compiler` are the floor: what any program pays that trains with
    torch, and that runs code which torch has compiled. `ours` is what the package's modules add.
    """
    compiler = "import torch._inductor.compile_fx; " if mode == "always" else ""
    code = (
        "import json, time; "
        f"clock = time.{'process_time' if device == 'cpu' else 'perf_counter'}; a = clock(); "
        f"import torch; b = clock(); import torch._dynamo; o = clock(); {compiler}c = clock(); "
        "from quokka_ray.training.run import train; d = clock(); "
        "from benchmarks.training.start import start_up; torch.set_num_threads(1); "
        f"found = start_up({device!r}, {layers}, {mode!r}); "
        "print(json.dumps(found | {'torch': b - a, 'optimizers': o - b, "
        "'compiler': c - o, 'ours': d - c}))"
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
    clock = "CPU seconds" if setting.device == "cpu" else "seconds"
    plain = _in_a_process(setting.device, layers, "", "never")
    yield Row(
        f"trial that is not compiled, process of its own: {clock} beyond torch's",
        plain["ours"] + plain["first"],
        1.0,
        "lower",
        f"import torch alone {plain['torch']:.2f}, for its optimisers {plain['optimizers']:.2f}; "
        f"the package {plain['ours']:.2f}, the first step beyond an ordinary one "
        f"{plain['first']:.2f}",
    )
    with tempfile.TemporaryDirectory() as cache:
        cold = _in_a_process(setting.device, layers, cache, "always")
        warm = _in_a_process(setting.device, layers, cache, "always")
    if not cold["compiled"]:
        print("start: the blocks do not compile here (no C++ compiler?): left out")
        return
    yield Row(
        f"compiled trial of a known shape, same process: {clock} to start",
        max(cold["second"], warm["second"]),
        1.0,
        "lower",
    )
    yield Row(
        f"  process of its own, cache shared: {clock} beyond torch's",
        warm["ours"] + warm["first"],
        1.0,
        "lower",
        f"import torch alone {warm['torch']:.2f}, for its optimisers {warm['optimizers']:.2f}, "
        f"its compiler {warm['compiler']:.2f}; the package {warm['ours']:.2f}, the first step "
        f"{warm['first']:.2f}, without a cache {cold['first']:.1f} and the compiler's processes",
    )
