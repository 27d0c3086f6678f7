"""A table of runs made ready for a fit: centred points, the response's design, priors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pandas as pd

from analysis.fitting.responding import LR, best_offset, response_terms
from analysis.laws.base import Derivatives, FloatArray, Law, Points, Prior
from analysis.laws.response import Response, ResponsePrior
from analysis.laws.summed import Summed
from analysis.runs import trajectory_index

COMMONEST: Mapping[str, str] = MappingProxyType({})
"""Of choices: the law is stated for the commonest name of each."""


@dataclass(frozen=True)
class Problem:
    """Rows, law and response of one joint fit; theta is (law's centred coordinates, response's).

    Attributes:
        points: centred points, [R].
        centre: mean ln N and ln D, which were subtracted.
        log_loss: [R].
        trajectory: number of each row's trajectory, [R].
        design: the response's terms; None where nothing is fitted besides the law.
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
    design: Summed | None
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

    def to_law(self, theta: FloatArray) -> FloatArray:
        """Return the map from theta to the law's own parameters at the best schedule, [P, Q].

        Args:
            theta: where the best schedule is read, [Q].
        """
        p = self.law_size
        result = np.zeros((p, self.size))
        result[:, :p] = self.law.centring(*self.centre)
        if self.design is not None:
            best = best_offset(self.design, theta[p:])
            if best is not None:
                result[:, p + best] = self.law.scale_direction()
        return result

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
        if LR not in self.design.terms:
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
    leading: Mapping[str, str] = COMMONEST,
) -> Problem:
    """Return the problem that a validated table of runs poses.

    `leading`: of choices, the name that the law is stated for (`responding.response_terms`).
    """
    raw = points_of(table, law)
    centre = (float(raw.log_params.mean()), float(raw.log_tokens.mean()))
    points = raw.shifted(*centre)
    log_loss = np.log(table["loss"].to_numpy(dtype=np.float64))
    basis = np.stack([np.ones_like(log_loss), points.log_params, points.log_tokens])
    terms, fallback, notes = response_terms(
        table, basis, centre, lr_prior, response_prior, leading
    )
    design: Summed | None = terms
    if not fit_response or terms.size == 0:
        design = None
    prior = law.prior(points, log_loss, weak=law_prior)
    if design is not None:
        extra = design.prior()
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
