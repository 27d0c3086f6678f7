"""How near a search is to what it is wanted for, and why it ended, in words."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from analysis.fitting.fit import Fit
from analysis.steering.stopping import Trust
from analysis.units import format_flops, format_half_width
from quokka_ray.campaign.beliefs import surprise_of
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import TargetConfig

Kind = Literal["going on", "reached", "budget", "remainder", "trials", "no claim", "stopped"]

_WORDS: dict[Kind, str] = {
    "going on": "",
    "reached": "the tolerances are reached",
    "budget": "the budget is spent",
    "remainder": "what is left of the budget holds no trajectory that would turn",
    "trials": "the limit on trials is reached",
    "no claim": "the law fails",
    "stopped": "stopped from outside",
}


@dataclass(frozen=True)
class Ending:
    """Where a search stands, or why it ended.

    Attributes:
        kind: `no claim`: predictions of larger runs failed too often, whatever else ended.
        words: a sentence for a reader.
        surprises: z of each larger run that was predicted before it was trained, in order.
        trusted_flops: the smallest 6 N D that is trusted; None: all runs are.
    """

    kind: Kind
    words: str
    surprises: tuple[float, ...]
    trusted_flops: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the law file."""
        return asdict(self)


def widths(fit: Fit, target: TargetConfig) -> list[tuple[str, float, float]]:
    """Return name, half width of the law's 90 % interval and tolerance of all that is wanted.

    Both are in the logarithm.
    """
    if target.flops is None or target.unique_tokens is not None:
        return []
    best = fit.optimum(target.flops)
    wanted = (
        ("N_opt", best.params.relative_width, target.tolerance_params),
        ("the loss", best.loss.relative_width, target.tolerance_loss),
    )
    return [(name, width, limit) for name, width, limit in wanted if limit is not None]


def meets(fit: Fit, target: TargetConfig) -> bool:
    """Return whether the law's intervals are as narrow as was wanted."""
    return all(width <= limit for _, width, limit in widths(fit, target))


def ending(
    kind: Kind,
    fit: Fit | None,
    trust: Trust,
    states: Iterable[TrajectoryState],
    target: TargetConfig,
) -> Ending:
    """Return where a search stands.

    Args:
        kind: what stopped it; a law that failed makes it `no claim`.
        fit: the reported law, where there is one.
        trust: what became of predictions.
        states: all trajectories.
        target: what is wanted.
    """
    if trust.lost:
        kind = "no claim"
    words = _WORDS[kind]
    if kind == "no claim":
        words += f", so nothing is claimed: {failing(trust)}"
    elif fit is not None and widths(fit, target):
        known = " and ".join(
            f"{name} to {format_half_width(width)} (wanted: {format_half_width(limit)})"
            for name, width, limit in widths(fit, target)
        )
        words = f"{words}: the law knows {known}" if words else f"the law knows {known}"
    return Ending(kind, words, tuple(larger(states)), trusted_flops(trust))


def trusted_flops(trust: Trust) -> float | None:
    """Return the smallest 6 N D that is trusted; None where all runs are."""
    return float(np.exp(trust.log_floor)) if np.isfinite(trust.log_floor) else None


def larger(states: Iterable[TrajectoryState]) -> list[float]:
    """Return z of each run that was predicted as larger than all before it, in order."""
    found = (
        surprise_of(state)
        for state in states
        if (state.planned.get("predicted") or {}).get("beyond")
    )
    return [z for z in found if z is not None]


def failing(trust: Trust) -> str:
    """Return what failed predictions have led to."""
    times = f"{trust.raised} times" if trust.raised > 1 else "once"
    again = ", also after the smallest were left out" if trust.raised > 1 else ""
    return f"{times} larger runs fell outside what was predicted of them{again}"


def trust_notes(trust: Trust) -> tuple[str, ...]:
    """Return what a reader of the law must know of failed predictions."""
    if not trust.raised:
        return ()
    notes = [f"{failing(trust)} before they were trained"]
    floor = trusted_flops(trust)
    if floor is not None:
        notes.append(
            f"runs of less than {format_flops(floor, 2)} FLOPs are not trusted, and not fitted"
        )
    if trust.lost:
        notes.insert(0, "no claim is made: no form of the law that was tried extrapolates")
    return tuple(notes)
