"""How near the machine's peak a run trains, row by row.

    python benchmarks/train.py                     every group that this machine can run
    python benchmarks/train.py --only step start   some of them
    python benchmarks/train.py --list
    python benchmarks/train.py --quick             whether the commands work, in seconds

It needs torch, numpy, scipy and pydantic, and this repository's files: neither Ray, nor a corpus,
nor an installation of the package. On a machine with an NVIDIA GPU the groups of a GPU run too,
and first. A group that fails says why and the next one runs; after ten minutes (`--minutes`) what
has not begun is left out, and named. Figures are ratios of things measured in turn in one run, so
that other work on the machine slows both sides of them. The last line is the smallest share of an
aim that was reached; the exit code is 1 where a group failed.
"""

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Before torch is loaded: idle threads must not spin on cores that others use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.training.table import Row, Setting  # noqa: E402
from quokka_ray.training.device_memory import release  # noqa: E402


@dataclass(frozen=True)
class Group:
    """A module of `benchmarks/training`, whose `rows(setting)` yields rows.

    Attributes:
        module: Its name.
        what: What it measures.
        device: Where it runs: `cpu`, `cuda`, or `any`, which is the best that is there.
    """

    module: str
    what: str
    device: str


# What only a GPU can show comes first, so that its owner has it when the time is over.
GROUPS = {
    "gpu": Group("gpu", "1B parameters on one GPU, and a small model's CUDA graph", "cuda"),
    "packing": Group("packing", "several trials on one device", "any"),
    "memory": Group("memory", "the memory model, and the micro-batch that it chooses", "any"),
    "step": Group("step", "a small model's step on one CPU thread", "cpu"),
    "equality": Group("equality", "one run trained in two ways", "any"),
    "worlds": Group("worlds", "one run by one process and by two", "cpu"),
    "start": Group("start", "starting a trial whose shape is compiled already", "any"),
    "tiny": Group("tiny", "the quick start's steps beside their bare matrix products", "cpu"),
}


def measured(name: str, setting: Setting, deadline: float) -> Iterator[Row]:
    """Yield a group's rows as they come, none that begins after `deadline` (monotonic seconds)."""
    module = importlib.import_module(f"benchmarks.training.{GROUPS[name].module}")
    for row in module.rows(setting):
        yield row
        if time.monotonic() > deadline:
            print(f"{name}: the time is over: whatever rows it has left are left out")
            return


def main() -> int:
    """Parse, measure, print; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", default=None)
    parser.add_argument("--list", action="store_true", help="name the groups and leave")
    parser.add_argument("--quick", action="store_true", help="small sizes: a test of the command")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--minutes", type=float, default=10, help="no row begins later")
    options = parser.parse_args()
    if options.list:
        for name, group in GROUPS.items():
            print(f"{name:10} {group.device:5} {group.what}")
        return 0
    deadline = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(options.threads)
    has_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if has_gpu else "no GPU"
    print(f"torch {torch.__version__}, {options.threads} CPU thread(s), {device}")
    print(f"{'what':62} {'reached':>10} {'to reach':>10}")
    shares, failed = [], []
    for name in options.only or GROUPS:
        group = GROUPS[name]
        if group.device == "cuda" and not has_gpu:
            print(f"{name}: {group.what}: left out, no GPU here")
            continue
        begun = time.monotonic()
        if begun > deadline:
            print(f"{name}: {group.what}: left out, the time is over (--only {name} measures it)")
            continue
        where = "cuda" if has_gpu and group.device != "cpu" else "cpu"
        try:
            for row in measured(name, Setting(where, options.quick), deadline):
                print(row.line(), flush=True)
                shares.append((row.share, row.what.strip()))
        except Exception as error:
            # Its owner has waited for the other groups too.
            traceback.print_exc()
            said = str(error).split("\n", 1)[0]
            print(f"{name}: failed, its other rows are missing: {type(error).__name__}: {said}")
            failed.append(name)
        # Trainers lie in reference cycles; the next group's processes need what they hold.
        release(where)
        print(f"  {name}: {time.monotonic() - begun:.0f} s", flush=True)
    share, what = min(shares, default=(float("nan"), "nothing was measured"))
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"ratio {share:.3f}: the least share of an aim that was reached ({what})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
