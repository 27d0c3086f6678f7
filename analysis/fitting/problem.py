"""A table of runs made ready for a fit: centred points, the response's design, priors."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.laws.base import Derivatives, FloatArray, Law, Points, Prior
from analysis.laws.mixture import MixtureDesign
from analysis.laws.response import Response, ResponseDesign, ResponsePrior
from analysis.runs import trajectory_index

SMALLEST_LR_SPREAD = 0.1
"""Standard deviation of ln lr about its own trend in N and D under which no response is fitted:
rates within 10 % of a trend cannot be told from the trend's effect on the law."""


@dataclass(frozen=True)
class Problem:
    """Rows, law and response of one joint fit; theta is (law's centred coordinates, response's).

    Attributes:
        points: centred points, [R].
        centre: mean ln N and ln D, which were subtracted.
        log_loss: [R].
        trajectory: number of each row's trajectory, [R].
        design: what the response sees; None where nothing is fitted besides the law.
        lr_centre: ln of the learning rate at the prior's centre.
        prior: of all of theta.
        law_prior: whether the law's own coordinates have priors.
        notes: what a reader should know of how the response was treated.
        weights: precision of each row relative to a run's, [R]; ones unless given.
    """

    law: Law
    points: Points
    centre: tuple[float, float]
    log_loss: FloatArray
    trajectory: np.ndarray
    design: ResponseDesign | None
    lr_centre: float
    prior: Prior
    law_prior: bool
    fallback: Response
    notes: tuple[str, ...]
    weights: FloatArray = field(default_factory=lambda: np.ones(1))

    def __post_init__(self) -> None:
        # One number stands for all rows.
        object.__setattr__(self, "weights", np.broadcast_to(self.weights, self.log_loss.shape))

    @property
    def law_size(self) -> int:
        """Number of the law's parameters."""
        return len(self.law.coordinates)

    @property
    def size(self) -> int:
        """Number of all parameters."""
        return self.law_size + (self.design.size if self.design else 0)

    def model(self, theta: FloatArray) -> Derivatives:
        """Return the predicted log loss of all rows with derivatives, for theta [B, P]."""
        law = self.law.derivatives(theta[:, : self.law_size], self.points)
        if self.design is None:
            return law
        response = self.design.derivatives(theta[:, self.law_size :])
        p, q = self.law_size, self.size

        def curvature(weights: FloatArray) -> FloatArray:
            result = np.zeros((theta.shape[0], q, q))
            result[:, :p, :p] = law.curvature(weights)
            result[:, p:, p:] = response.curvature(weights)
            return result

        gradient = np.concatenate([law.gradient, response.gradient], axis=1)
        return Derivatives(law.value + response.value, gradient, curvature)

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box of theta."""
        low, high = self.law.bounds(self.log_loss)
        if self.design is None:
            return low, high
        more_low, more_high = self.design.bounds()
        return np.concatenate([low, more_low]), np.concatenate([high, more_high])

    def starts(self) -> FloatArray:
        """Return starting points [S, P]: the law's, with the response at several centres."""
        law = self.law.starts(self.points, self.log_loss)
        if self.law_prior:
            law = np.concatenate([law[:3], self.prior.mean[None, : self.law_size]])
        if self.design is None:
            return law
        centre = self.prior.mean[self.law_size :]
        if self.design.log_lr is None:
            return np.concatenate([law, np.tile(centre, (len(law), 1))], axis=1)
        law = law[:4]
        shifted = np.tile(centre, (3, 1))
        shifted[:, 1] += np.array([0.0, -0.7, 0.7])
        return np.concatenate([np.repeat(law, 3, axis=0), np.tile(shifted, (len(law), 1))], axis=1)


def build_problem(
    table: pd.DataFrame,
    law: Law,
    *,
    law_prior: bool,
    fit_response: bool,
    lr_prior: float | None,
    response_prior: ResponsePrior,
) -> Problem:
    """Return the problem that a validated table of runs poses."""
    raw = points_of(table, law)
    centre = (float(raw.log_params.mean()), float(raw.log_tokens.mean()))
    points = raw.shifted(*centre)
    log_loss = np.log(table["loss"].to_numpy(dtype=np.float64))
    reference = (float(np.exp(centre[0])), float(np.exp(centre[1])))
    basis = np.stack([np.ones_like(log_loss), points.log_params, points.log_tokens])
    log_lr, fallback, notes = _learning_rates(table, basis, lr_prior, reference)
    lr_centre = np.nan
    if log_lr is not None:
        lr_centre = np.log(lr_prior) if lr_prior is not None else float(np.median(log_lr))
    schedule, schedules = _schedules(table)
    design: ResponseDesign | None = ResponseDesign(
        None if log_lr is None else log_lr - lr_centre,
        basis,
        schedule,
        schedules,
        MixtureDesign.of(table),
    )
    if design is not None and (not fit_response or design.size == 0):
        design = None
    prior = law.prior(points, log_loss, weak=law_prior)
    if design is not None:
        extra = design.prior(response_prior)
        prior = Prior(
            np.concatenate([prior.mean, extra.mean]), np.concatenate([prior.spread, extra.spread])
        )
    return Problem(
        law=law,
        points=points,
        centre=centre,
        log_loss=log_loss,
        trajectory=trajectory_index(table),
        design=design,
        lr_centre=float(lr_centre),
        prior=prior,
        law_prior=law_prior,
        fallback=fallback,
        notes=tuple(notes) if fit_response else (),
        weights=_weights(table),
    )


def _weights(table: pd.DataFrame) -> FloatArray:
    """Return each row's precision, [R]: the table's column `weight`, 1 where it says nothing."""
    if "weight" not in table:
        return np.ones(len(table))
    return table["weight"].fillna(1.0).to_numpy(dtype=np.float64)


def points_of(table: pd.DataFrame, law: Law) -> Points:
    """Return where the rows of a validated table lie.

    Rows without unique tokens are taken as one epoch where the law asks for them.
    """
    if not law.needs_unique:
        return Points.of(table["params"], table["tokens"])
    unique = table["tokens"]
    if "unique_tokens" in table:
        unique = table["unique_tokens"].fillna(table["tokens"])
    return Points.of(table["params"], table["tokens"], unique.to_numpy(dtype=np.float64))


def _learning_rates(
    table: pd.DataFrame,
    basis: FloatArray,
    lr_prior: float | None,
    reference: tuple[float, float],
) -> tuple[FloatArray | None, Response, list[str]]:
    """Return ln lr where a response can be fitted, what to say of lr where not, and why."""
    nowhere = Response(reference_params=reference[0], reference_tokens=reference[1])
    unknown = float("nan") if lr_prior is None else float(np.log(lr_prior))
    lr = table["lr"].to_numpy(dtype=np.float64) if "lr" in table else np.full(len(table), np.nan)
    known = np.isfinite(lr) & (lr > 0)
    if not known.any():
        return None, replace(nowhere, log_lr=unknown), []
    if not known.all():
        note = f"{int((~known).sum())} of {len(lr)} runs name no learning rate: it was not fitted"
        return None, replace(nowhere, log_lr=float(np.median(np.log(lr[known])))), [note]
    log_lr = np.log(lr)
    # Runs of one budget vary in N / D alone: across that line their trend is unknown, and taken
    # as flat rather than as whatever rounding makes of it.
    trend = np.linalg.lstsq(basis.T, log_lr, rcond=0.02)[0]
    spread = float(np.std(log_lr - trend @ basis))
    if spread >= SMALLEST_LR_SPREAD and len(lr) >= 4:
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


def _schedules(table: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return each row's schedule, the commonest first, where all rows name one."""
    if "lr_schedule" not in table or table["lr_schedule"].isna().any():
        return np.zeros(len(table), dtype=np.intp), ()
    names = [str(v) for v in table["lr_schedule"]]
    ordered = sorted(set(names), key=lambda name: (-names.count(name), name))
    return np.array([ordered.index(name) for name in names]), tuple(ordered)
