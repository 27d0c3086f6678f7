"""From the columns of a run table to the terms of the response.

A dimension gets a term where all rows name it and their values vary: those of a bowl by more than
a trend in N and D, whose effect could not be told from the law's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pandas as pd

from analysis.laws.base import FloatArray, Prior
from analysis.laws.bowls import Bowl
from analysis.laws.choices import Choices
from analysis.laws.mixture import MixtureDesign
from analysis.laws.response import (
    CHOICE_SLOPE_SPREAD,
    CHOICES,
    DIMENSIONS,
    LR_BATCH_SLOPE,
    LR_BATCH_SLOPE_SPREAD,
    DimensionPrior,
    Response,
    ResponsePrior,
)
from analysis.laws.summed import Summed, Term

SMALLEST_LR_SPREAD = 0.1
"""Standard deviation of ln lr about its own trend in N and D under which no response is fitted:
rates within 10 % of a trend cannot be told from the trend's effect on the law."""

SMALLEST_SPREAD = 0.2
"""The same of other dimensions, which matter less."""

FEWEST_ROWS = 4

LR, SCHEDULE, MIXTURE = "lr", "lr_schedule", "mixture"
"""Names of terms; those of other dimensions are their columns'."""


def response_terms(
    table: pd.DataFrame,
    basis: FloatArray,
    centre: tuple[float, float],
    lr_prior: float | None,
    settings: ResponsePrior,
    leading: Mapping[str, str],
) -> tuple[Summed, Response, list[str]]:
    """Return the terms that rows get, what is known of the rest, and why rates were not fitted.

    Args:
        table: validated runs, [R].
        basis: (1, ln N/N0, ln D/D0) of each row, [3, R].
        centre: ln N0 and ln D0.
        lr_prior: learning rate that is thought good.
        settings: priors of rates and schedules.
        leading: of choices whose offsets move with N and D, the name that the law is stated for;
            unset: the commonest.
    """
    terms: dict[str, Term] = {}
    reference = (float(np.exp(centre[0])), float(np.exp(centre[1])))
    log_lr, fallback, notes = _learning_rates(table, basis, lr_prior, reference)
    bowls = {
        column: bowl
        for column, prior in DIMENSIONS.items()
        if (bowl := _bowl(table, column, basis, centre, prior)) is not None
    }
    if log_lr is not None:
        known = np.log(lr_prior) if lr_prior is not None else float(np.median(log_lr))
        batch = np.log(numbers(table, "batch_tokens")) if "batch_tokens" in bowls else None
        terms[LR] = _lr_bowl(log_lr, float(known), basis, centre, batch, settings)
    index, schedules = _names(table, SCHEDULE)
    spread = np.array([settings.offset_spread])
    terms[SCHEDULE] = Choices(schedules, index, basis[:1], np.zeros(0), spread)
    mixture = MixtureDesign.of(table)
    if mixture is not None:
        terms[MIXTURE] = mixture
    terms |= bowls
    for column, offset_spread in CHOICES.items():
        index, names = _names(table, column, leading.get(column))
        if len(names) > 1 and len(table) >= FEWEST_ROWS:
            spread = np.array([offset_spread, CHOICE_SLOPE_SPREAD, CHOICE_SLOPE_SPREAD])
            terms[column] = Choices(names, index, basis, np.array(centre), spread)
    return Summed(terms, len(table)), fallback, notes


def leading_choices(
    terms: Summed, theta: FloatArray, flops: FloatArray, centre: tuple[float, float]
) -> dict[str, str]:
    """Return, of choices whose offsets move, the best name at the largest run.

    Args:
        terms: the response's.
        theta: its parameters, [Q].
        flops: N D of each row, [R].
        centre: ln N0 and ln D0.
    """
    largest = int(np.argmax(flops))
    best = {}
    for column in CHOICES:
        term = terms.terms.get(column)
        if isinstance(term, Choices):
            there = term.table(theta[terms.places[column]]) @ term.basis[:, largest]
            best[column] = term.names[int(np.argmin(there))]
    return best


def first_choices(terms: Summed | None) -> dict[str, str]:
    """Return, of choices whose offsets move, the name that the law is stated for."""
    own = {} if terms is None else terms.terms
    return {
        column: term.names[0] for column in CHOICES if isinstance(term := own.get(column), Choices)
    }


def best_offset(terms: Summed, theta: FloatArray) -> int | None:
    """Return which of the response's parameters theta [Q] is the best schedule's offset.

    None where that schedule is the one without an offset, or none is named.
    """
    schedules, place = cast(Choices, terms.terms[SCHEDULE]), terms.places[SCHEDULE]
    offsets = schedules.table(theta[place])[:, 0]
    best = int(np.argmin(offsets)) if offsets.size else 0
    return None if best == 0 else place.start + best - 1


def _lr_bowl(
    log_lr: FloatArray,
    known: float,
    basis: FloatArray,
    centre: tuple[float, float],
    log_batch: FloatArray | None,
    settings: ResponsePrior,
) -> Bowl:
    mean = [np.log(settings.curvature), 0.0, settings.slope_params, settings.slope_tokens]
    spread = [settings.curvature_spread, settings.centre_spread, *[settings.slope_spread] * 2]
    reference = list(centre)
    if log_batch is not None:
        middle = float(log_batch.mean())
        basis = np.concatenate([basis, (log_batch - middle)[None]])
        reference.append(middle)
        mean, spread = [*mean, LR_BATCH_SLOPE], [*spread, LR_BATCH_SLOPE_SPREAD]
    prior = Prior(np.array(mean), np.array(spread))
    return Bowl(log_lr - known, known, basis, np.array(reference), prior)


def _bowl(
    table: pd.DataFrame,
    column: str,
    basis: FloatArray,
    centre: tuple[float, float],
    settings: DimensionPrior,
) -> Bowl | None:
    """Return the bowl of a column; None where it does not vary, or has no logarithm."""
    values = numbers(table, column)
    if len(values) < FEWEST_ROWS or not (np.isfinite(values) & (values > 0)).all():
        return None
    logs = np.log(values)
    rest = logs - _trend(logs, basis) @ basis
    # Of few rows a trend takes much with it that is none.
    if float(np.sqrt((rest**2).sum() / (len(rest) - len(basis)))) < SMALLEST_SPREAD:
        return None
    middle = float((logs.min() + logs.max()) / 2)
    reach = max(settings.centre_spread, float(np.ptp(logs)) / 2)
    slopes = [settings.slope_params, settings.slope_tokens]
    prior = Prior(
        np.array([np.log(settings.curvature), 0.0, *slopes]),
        np.array([settings.curvature_spread, reach, *[settings.slope_spread] * 2]),
    )
    return Bowl(logs - middle, middle, basis, np.array(centre), prior)


def numbers(table: pd.DataFrame, column: str) -> FloatArray:
    """Return a column of a run table, [R]; not numbers where it is not there."""
    if column not in table:
        return np.full(len(table), np.nan)
    return table[column].to_numpy(dtype=np.float64)


def _trend(logs: FloatArray, basis: FloatArray) -> FloatArray:
    # Runs of one budget vary in N / D alone: across that line their trend is unknown, and taken
    # as flat rather than as whatever rounding makes of it.
    return np.asarray(np.linalg.lstsq(basis.T, logs, rcond=0.02)[0], dtype=np.float64)


def _learning_rates(
    table: pd.DataFrame,
    basis: FloatArray,
    lr_prior: float | None,
    reference: tuple[float, float],
) -> tuple[FloatArray | None, Response, list[str]]:
    """Return ln lr where a response can be fitted, what to say of lr where not, and why."""
    nowhere = Response(reference_params=reference[0], reference_tokens=reference[1])
    unknown = float("nan") if lr_prior is None else float(np.log(lr_prior))
    lr = numbers(table, "lr")
    known = np.isfinite(lr) & (lr > 0)
    if not known.any():
        return None, replace(nowhere, log_lr=unknown), []
    if not known.all():
        note = f"{int((~known).sum())} of {len(lr)} runs name no learning rate: it was not fitted"
        return None, replace(nowhere, log_lr=float(np.median(np.log(lr[known])))), [note]
    log_lr = np.log(lr)
    trend = _trend(log_lr, basis)
    spread = float(np.std(log_lr - trend @ basis))
    if spread >= SMALLEST_LR_SPREAD and len(lr) >= FEWEST_ROWS:
        return log_lr, nowhere, []
    if np.ptp(log_lr) < 1e-9:
        return None, replace(nowhere, log_lr=float(log_lr[0])), []
    note = (
        f"learning rates follow one trend in N and D to within a factor of {np.exp(spread):.2f}: "
        "their effect cannot be told from the law's and was not fitted"
    )
    follows = replace(
        nowhere,
        log_lr=float(trend[0]),
        slope_params=float(trend[1]),
        slope_tokens=float(trend[2]),
    )
    return None, follows, [note]


def _names(
    table: pd.DataFrame, column: str, first: str | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the number of each row's name, and the names, where all rows have one.

    `first`: a name that is to be the first of them; the others follow, the commonest first.
    """
    if column not in table or table[column].isna().any():
        return np.zeros(len(table), dtype=np.intp), ()
    names = [str(v) for v in table[column]]
    ordered = sorted(set(names), key=lambda name: (name != first, -names.count(name), name))
    return np.array([ordered.index(name) for name in names]), tuple(ordered)
