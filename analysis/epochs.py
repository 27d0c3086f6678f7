"""Repeated data: how many epochs are worth it, and what model unique tokens deserve."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.answers import Source, as_plain, beyond, estimates, state_of
from analysis.errors import AllocationError
from analysis.laws.base import FloatArray, Points
from analysis.laws.data_search import best_epochs, best_size_and_epochs
from analysis.state import LawState
from analysis.uncertainty import Estimate
from analysis.units import format_quantity

ADVICE = "data_constrained, data_constrained_ceiling or muennighoff"


@dataclass(frozen=True)
class EpochsLimit:
    """How often to repeat U unique tokens for a model of N parameters.

    Attributes:
        params, unique_tokens: N and U.
        epochs: the global optimum: the interior one or one epoch; None where the law gains from
            every further epoch.
        interior: the interior optimum, the largest number of epochs before degradation; None
            where the law has none.
        loss: at `epochs`; with endless epochs, of as many as the law needs to stop moving.
        interior_loss: at `interior`.
        one_epoch_loss: of one epoch.
        extrapolation_decades: by how far N, U or 6 N U e leave the ranges seen.
        warnings: what a reader must know.
    """

    params: float
    unique_tokens: float
    epochs: Estimate | None
    interior: Estimate | None
    enough: Estimate
    loss: Estimate
    interior_loss: Estimate | None
    one_epoch_loss: Estimate
    extrapolation_decades: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("epochs", "interior", "enough", "loss", "interior_loss", "one_epoch_loss")
        return {
            "params": self.params,
            "unique_tokens": self.unique_tokens,
            **as_plain([(name, getattr(self, name)) for name in names]),
            "extrapolation_decades": self.extrapolation_decades,
            "warnings": list(self.warnings),
        }


def epochs_limit(law: Source, params: float, unique_tokens: float) -> EpochsLimit:
    """Return the best number of epochs for N and U, compute aside.

    A law whose loss rises just after the first epoch, as the Quokka paper's with gamma < 1, has
    two minima: one epoch, and an interior one. `interior` is what the paper's table 3 lists;
    `epochs` is the lower of the two.

    Args:
        law: a law of repeated data.
        params: N.
        unique_tokens: U.

    Raises:
        AllocationError: the law takes repeated tokens for new ones.
    """
    state = of_repeated_data(law, "a limit of epochs")
    x, u = float(np.log(params)), float(np.log(unique_tokens))

    def logs(theta: FloatArray) -> FloatArray:
        found = best_epochs(state.law, theta, np.asarray(x), u)
        far = np.full((len(theta), 1), u + np.log(1e8))
        most = state.law.log_loss(theta, Points(np.full_like(far, x), far, np.full_like(far, u)))
        inside = found.interior < found.at_one
        epochs = np.where(inside, found.log_epochs, 0.0)
        loss = np.minimum(found.interior, found.at_one)
        # Between resamples that name a number and those that name none, the latter say nothing.
        epochs = np.where(found.endless, np.nan, epochs)
        loss = np.where(found.endless, most[:, 0], loss)
        interior_loss = np.where(np.isfinite(found.interior), found.interior, np.nan)
        columns = [epochs, found.log_epochs, found.log_enough, loss, interior_loss, found.at_one]
        return np.stack(columns, axis=1)

    epochs, interior, enough, loss, interior_loss, one = estimates(state, logs)
    warnings = []
    named = bool(np.isfinite(epochs.value))
    inner = bool(np.isfinite(interior.value))
    if not named:
        warnings.append("this law's loss never rises with epochs: it names no limit")
    elif inner and epochs.value == 1.0:
        warnings.append(
            f"the loss has a second minimum at {interior.value:.4g} epochs, which is "
            f"{interior_loss.value - one.value:.3g} nats worse than one epoch"
        )
    spent = 6.0 * params * unique_tokens * (epochs.value if named else 1.0)
    return EpochsLimit(
        params=float(params),
        unique_tokens=float(unique_tokens),
        epochs=_at_least_one(epochs) if named else None,
        interior=_at_least_one(interior) if inner else None,
        enough=_at_least_one(enough),
        loss=loss,
        interior_loss=interior_loss if inner else None,
        one_epoch_loss=one,
        extrapolation_decades=beyond(
            state, params=params, unique_tokens=unique_tokens, flops=spent
        ),
        warnings=tuple(warnings),
    )


def _at_least_one(epochs: Estimate) -> Estimate:
    return Estimate(epochs.value, max(epochs.low, 1.0), max(epochs.high, 1.0))


@dataclass(frozen=True)
class DataAllocation:
    """What to train on U unique tokens, with or without a compute budget.

    Attributes:
        unique_tokens: U.
        flops_budget: C; None: unlimited.
        params, tokens, epochs, flops, loss: the optimum; epochs below 1 leave tokens unused.
        binding: `compute` where all of C is spent, `data` where more compute would not help.
        extrapolation_decades: by how far N, U or 6 N D leave the ranges seen.
        warnings: what a reader must know.
    """

    unique_tokens: float
    flops_budget: float | None
    params: Estimate
    tokens: Estimate
    epochs: Estimate
    flops: Estimate
    loss: Estimate
    binding: str
    extrapolation_decades: float
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("params", "tokens", "epochs", "flops", "loss")
        return {
            "unique_tokens": self.unique_tokens,
            "flops_budget": self.flops_budget,
            **as_plain([(name, getattr(self, name)) for name in names]),
            "binding": self.binding,
            "extrapolation_decades": self.extrapolation_decades,
            "warnings": list(self.warnings),
        }


def allocate_data(law: Source, unique_tokens: float, flops: float | None = None) -> DataAllocation:
    """Return the best N and epochs for U unique tokens, within a budget of 6 N D if given.

    A budget is a ceiling: where the law's optimum for these tokens needs less, the rest is left
    unspent. Fewer tokens than there are may be used (epochs under 1).

    Args:
        law: a law of repeated data.
        unique_tokens: U.
        flops: C; unset: unlimited.

    Raises:
        AllocationError: the law takes repeated tokens for new ones, or, without a budget, gains
            from compute without end.
    """
    state = of_repeated_data(law, "an answer for a data budget")
    search = DataSearch(state, float(np.log(unique_tokens)), flops)
    params, tokens, epochs, spent, loss = estimates(state, search.logs)
    warnings = []
    if not np.isfinite(params.value):
        far = "".join(f". Also, {line}" for line in _unseen(state, unique_tokens))
        raise AllocationError(
            f"{state.law.name} gains from larger models or more epochs without end, so "
            f"{format_quantity(unique_tokens)} unique tokens alone have no best model; give a "
            f"compute budget too (--flops){far}"
        )
    binding = "data"
    if flops is not None:
        binding = "compute" if spent.value > 0.999 * flops else "data"
        if binding == "data":
            warnings.append(
                f"{format_quantity(unique_tokens)} unique tokens cannot use the budget: "
                f"{spent.value:.3g} of {flops:.3g} FLOPs give the lowest loss"
            )
    warnings += _unseen(state, unique_tokens)
    if _prefers_repetition(state, params.value, tokens.value, unique_tokens):
        warnings.append(
            "the law would rather repeat a part of these tokens more often than use them all: "
            "here it values repeated tokens above new ones, a flaw of its formula; use them all"
        )
    decades = beyond(state, params=params.value, unique_tokens=unique_tokens, flops=spent.value)
    return DataAllocation(
        unique_tokens=float(unique_tokens),
        flops_budget=None if flops is None else float(flops),
        params=params,
        tokens=tokens,
        epochs=epochs,
        flops=spent,
        loss=loss,
        binding=binding,
        extrapolation_decades=decades,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class DataSearch:
    """The optimum for one data budget as a function of theta."""

    state: LawState
    log_unique: float
    flops: float | None

    def logs(self, theta: FloatArray) -> FloatArray:
        """Return ln of N, D, e, 6 N D and L at the optimum of each theta, [B, 5]."""
        law, u = self.state.law, self.log_unique
        free = best_size_and_epochs(law, theta, u)
        x, tokens = free.log_params, u + free.log_epochs
        loss = np.where(free.endless, np.nan, free.log_loss)
        if self.flops is not None:
            on_line, line_tokens = law.optimum(theta, self.flops, u)
            unique = np.minimum(u, line_tokens)
            there = Points(on_line[:, None], line_tokens[:, None], unique[:, None])
            line_loss = law.log_loss(theta, there)[:, 0]
            spends = free.endless | (np.log(6.0) + x + tokens > np.log(self.flops))
            spends |= line_loss <= free.log_loss
            x = np.where(spends, on_line, x)
            tokens = np.where(spends, line_tokens, tokens)
            loss = np.where(spends, line_loss, loss)
        found = np.stack([x, tokens, tokens - u, np.log(6.0) + x + tokens, loss], axis=1)
        return np.where(np.isnan(loss)[:, None], np.nan, found)


def _unseen(state: LawState, unique_tokens: float) -> list[str]:
    decades = float(state.decades_beyond("unique_tokens", unique_tokens))
    if decades == 0:
        return []
    low, high = state.validity["unique_tokens"]
    return [
        f"{format_quantity(unique_tokens)} unique tokens lie {decades:.2g} decades outside those "
        f"that the law was fitted to ({format_quantity(low)} to {format_quantity(high)}); there "
        "the form of the law decides more than its interval: forms that fit alike have differed "
        "tenfold in N a decade out"
    ]


def _prefers_repetition(
    state: LawState, params: float, tokens: float, unique_tokens: float
) -> bool:
    """Return whether fewer unique tokens, for the same N and D, would lower the loss."""
    if tokens <= unique_tokens:
        return False
    fewer = np.array([1.0, 0.9, 0.7, 0.5, 0.3, 0.1]) * unique_tokens
    loss = state.law.log_loss(state.theta, Points.of(params, np.full(fewer.size, tokens), fewer))
    return bool(loss[1:].min() < loss[0] - 1e-9)


def of_repeated_data(law: Source, what: str) -> LawState:
    """Return the law with its numbers; refuse one that takes repeated tokens for new ones."""
    state = state_of(law)
    if not state.law.needs_unique:
        raise AllocationError(
            f"the law {state.law.name!r} takes repeated tokens for new ones, so it gives no "
            f"{what}; fit one of {ADVICE} to runs that repeat their data"
        )
    return state
