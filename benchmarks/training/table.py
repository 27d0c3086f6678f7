"""What a group of rows hands back, and how it is measured and printed."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

GiB = 2**30


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured, in words.
        reached: The figure: a ratio of two things measured in this run, wherever one exists.
        aim: What it should be; None: a figure that others are to be read beside.
        better: Whether a higher or a lower figure is the better one.
        detail: What else was seen.
    """

    what: str
    reached: float
    aim: float | None = None
    better: Literal["higher", "lower"] = "higher"
    detail: str = ""

    @property
    def share(self) -> float:
        """How much of the aim is reached: 1 or more is all of it."""
        if self.aim is None:
            return math.inf
        if self.better == "higher":
            return self.reached / self.aim
        return self.aim / self.reached if self.reached else math.inf

    def line(self) -> str:
        """Return the row as it is printed."""
        sign = ">=" if self.better == "higher" else "<="
        aim = "" if self.aim is None else f"{sign} {self.aim:.3g}"
        mark = "" if self.share >= 1 else "  SHORT"
        detail = f"  ({self.detail})" if self.detail else ""
        return f"{self.what:62} {self.reached:10.4g} {aim:>10}{mark}{detail}"


@dataclass(frozen=True)
class Setting:
    """What a group of rows is told.

    Attributes:
        device: `cpu` or `cuda`.
        quick: Fewer and smaller measurements: whether the commands work, not what they reach.
    """

    device: str
    quick: bool = False


Group = Callable[[Setting], Iterator[Row]]


def wait_for(device: str) -> None:
    """Wait until an accelerator has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Return the seconds of one call: an accelerator's work included; on a CPU, CPU time.

    CPU time leaves out what other processes take; what they do to caches and clocks it does not.
    """
    clock = time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    wait_for(device)
    begun = clock()
    call()
    wait_for(device)
    return clock() - begun


def interleaved(
    calls: dict[str, Callable[[], object]], device: str, turns: int
) -> dict[str, list[float]]:
    """Return the seconds of each call in each of some turns, all calls once a turn.

    Other work on the machine then slows all of them alike: ratios are taken turn by turn, or of
    the least seconds of each. The first turn, which warms up, is left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            spent = seconds_of(call, device)
            if turn:
                seconds[name].append(spent)
    return seconds
