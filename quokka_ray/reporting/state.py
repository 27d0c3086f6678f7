"""What a search looks like at one moment: all that the terminal shows, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.uncertainty import Estimate


@dataclass(frozen=True)
class RunningTrial:
    """A trial in flight.

    Attributes:
        id: Its trajectory.
        params: N.
        tokens: D that it is trained to.
        progress: Share of its training done, branches to earlier observations included, 0 to 1.
        loss: Its training loss as last reported; None before the first report.
    """

    id: str
    params: float
    tokens: float
    progress: float = 0.0
    loss: float | None = None


@dataclass(frozen=True)
class Optimum:
    """What the law advises for the target: each an estimate with its 90 % interval."""

    params: Estimate
    tokens: Estimate
    loss: Estimate
    extrapolation_decades: float = 0.0
    lr: float | None = None
    epochs: Estimate | None = None
    mixture: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    """Best share of each part of a mixture whose weights were searched, low and high."""
    recipe: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The best of each further dimension that was searched, as `Response.recommended` says."""


@dataclass(frozen=True)
class SearchState:
    """A search at one moment.

    Attributes:
        name: The study.
        target_unique_tokens: The target of a search of repeated data, which has no other here.
        formula: The law's formula in symbols.
        budget_flops: The cap, in exact FLOPs.
        spent_flops: What has been spent of it.
        reserved_flops: What trials in flight may still take.
        seconds_left: Time that the rest is expected to take; None before anything was measured.
        counts: Trials that have ended, by status.
        running: Trials in flight.
        parameters: The law's parameters by name; empty while there is no law.
        identified: Which of them the runs decide; a parameter that is missing counts as decided.
        sigma: Noise of one run in log loss; None without a law.
        optimum: What the law says about the target; None without a law.
        target_flops: The target in 6ND; None for a search of repeated data.
        goal: How well the target is known, or why the search ended.
        message: One line on what is going on, such as why there is no law yet.
        warnings: What a reader must know before using the law.
        events: One line for each trial that ended, oldest first; it only ever grows.
    """

    name: str
    budget_flops: float
    target_flops: float | None = None
    target_unique_tokens: float | None = None
    formula: str = "L = E + A/N^α + B/D^β"
    spent_flops: float = 0.0
    reserved_flops: float = 0.0
    seconds_left: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    running: Sequence[RunningTrial] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    identified: Mapping[str, bool] = field(default_factory=dict)
    sigma: float | None = None
    optimum: Optimum | None = None
    goal: str = ""
    message: str = ""
    warnings: Sequence[str] = ()
    events: Sequence[str] = ()
