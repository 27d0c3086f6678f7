"""How near the machine's peak a run trains, row by row.

    python benchmarks/train.py                     every group that this machine can run
    python benchmarks/train.py --only step start   some of them
    python benchmarks/train.py --list
    python benchmarks/train.py --quick             whether the commands work, in seconds

It needs torch, numpy, scipy and pydantic, and this repository's files: neither Ray, nor a corpus,
nor an installation of the package. On a machine with an NVIDIA GPU the groups of a GPU run too;
the whole table takes less than ten minutes. Figures are ratios of things measured in turn in one
run, so that other work on the machine slows both sides of them. The last line is the smallest
share of an aim that was reached.
"""

import argparse
import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Before torch is loaded: idle threads must not spin on cores that others use.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.training.table import Setting  # noqa: E402


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


GROUPS = {
    "step": Group("step", "a small model's step on one CPU thread", "cpu"),
    "equality": Group("equality", "one run trained in two ways", "any"),
    "worlds": Group("worlds", "one run by one process and by two", "cpu"),
    "start": Group("start", "starting a trial whose shape is compiled already", "any"),
    "gpu": Group("gpu", "1B parameters on one GPU, and a small model's CUDA graph", "cuda"),
    "tiny": Group("tiny", "the quick start's steps beside their bare matrix products", "cpu"),
    "memory": Group("memory", "the memory model, and the micro-batch that it chooses", "any"),
    "packing": Group("packing", "several trials on one device", "any"),
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", default=None)
    parser.add_argument("--list", action="store_true", help="name the groups and leave")
    parser.add_argument("--quick", action="store_true", help="small sizes: a test of the command")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    options = parser.parse_args()
    if options.list:
        for name, group in GROUPS.items():
            print(f"{name:10} {group.device:5} {group.what}")
        return
    torch.set_num_threads(options.threads)
    has_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if has_gpu else "no GPU"
    print(f"torch {torch.__version__}, {options.threads} CPU thread(s), {device}")
    print(f"{'what':62} {'reached':>10} {'to reach':>10}")
    shares = []
    for name in options.only or GROUPS:
        group = GROUPS[name]
        if group.device == "cuda" and not has_gpu:
            print(f"{name}: {group.what}: left out, no GPU here")
            continue
        begun = time.monotonic()
        where = "cuda" if has_gpu and group.device != "cpu" else "cpu"
        module = importlib.import_module(f"benchmarks.training.{group.module}")
        for row in module.rows(Setting(where, options.quick)):
            print(row.line(), flush=True)
            shares.append((row.share, row.what.strip()))
        print(f"  {name}: {time.monotonic() - begun:.0f} s", flush=True)
    share, what = min(shares, default=(float("nan"), "nothing was measured"))
    print(f"ratio {share:.3f}: the least share of an aim that was reached ({what})")


if __name__ == "__main__":
    main()
