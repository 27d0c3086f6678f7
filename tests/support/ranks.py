"""Runs functions on several ranks: processes that talk over gloo, one thread each.

They are started once and asked again and again, since importing torch is what takes time.
"""

import importlib
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

SECONDS = 240


class Ranks:
    """`size` processes, started when they are first asked and again after a failure."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what `function(world, *arguments)` gives on each rank.

        The function must be a module's own, and its module importable by name. What it raises is
        raised here, with the traces of all ranks, and the processes are started anew.
        """
        if not self._processes:
            self._start()
        call = pickle.dumps((function.__module__, function.__name__, arguments))
        watchdog = threading.Timer(SECONDS, self.close)
        watchdog.start()
        try:
            for process in self._processes:
                assert process.stdin
                pickle.dump((sys.path, call), process.stdin)
                process.stdin.flush()
            answers = [pickle.load(process.stdout) for process in self._processes]  # type: ignore[arg-type]
        except (EOFError, BrokenPipeError):
            assert self._folder is not None
            traces = [path.read_text() for path in Path(self._folder.name).glob("errors-*")]
            self.close()
            raise AssertionError("\n".join(traces)) from None
        finally:
            watchdog.cancel()
        return answers

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        for rank in range(self._size):
            with Path(self._folder.name, f"errors-{rank}").open("w") as errors:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, __file__, self._folder.name, str(rank), str(self._size)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                    )
                )

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes = []


def _main(folder: str, rank: int, size: int) -> None:
    import torch
    import torch.distributed as dist

    from quokka_ray.training.world import joined

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    world = joined()
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    while True:
        try:
            sys.path[:], call = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        module, name, arguments = pickle.loads(call)
        result = getattr(importlib.import_module(module), name)(world, *arguments)
        pickle.dump(result, answers)
        answers.flush()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
