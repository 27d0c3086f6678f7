"""Does the five-parameter form hold? Evidence that may be read after every run.

A test of level 1 % that is repeated whenever a run ends raises far more than 1 % of false alarms.
An e-value is a nonnegative statistic of mean at most 1 while the null is true; along a sequence
of looks it exceeds 1/a at any time with probability at most a (Ville's inequality). So evidence
of 100 may be acted upon whenever it is seen, and averages of e-values are e-values.

Two gates, since they see different failures:
- `form_evidence` looks at the runs in hand. It sets the five-parameter law against wider ones: the
  super-law's four directions, hinges in compute under which small runs follow another line, and
  a smooth discrepancy. Parameters and noise have right-Haar priors, under which the Bayes factor
  is an e-value whatever their true values (Perez-Ortiz et al. 2022), for a law made linear at its
  fit.
- `surprise_evidence` looks at runs that were predicted before they were trained. Offsets of small
  runs can be absorbed by the exponents, and then show in nothing but the failure of predictions.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.discrepancy import DiscrepancyPrior, correlation
from analysis.fitting.fit import fit_law
from analysis.laws.base import FloatArray, get_law
from analysis.laws.coupled import LOG_KAPPA_SPREAD
from analysis.laws.shrinkage import GAMMA_SPREAD, OFFSET_SPREAD

DECISIVE = 100.0
"""Evidence to act upon: at most one false alarm in a hundred searches, read as often as wanted."""

_NOISE = 0.004
"""Noise in units of which the alternatives' sizes are stated, in log loss."""

_HINGE = 0.01
"""Slope of a small run's deviation, in log loss for each e-fold of compute below the hinge."""

_QUANTILES = (0.2, 0.35, 0.5)
_SHIFT = 1.0
_SCALES = (2.0, 3.0)


@dataclass(frozen=True)
class FormEvidence:
    """Evidence against the five-parameter form, as odds.

    Attributes:
        total: the mean of the parts, itself an e-value.
        directions: against the super-law's coupling, drift and offsets.
        hinges: against a break in compute.
        smooth: against a Gaussian process beside the law.
    """

    total: float
    directions: float
    hinges: float
    smooth: float

    @property
    def rejected(self) -> bool:
        """Whether the form should no longer be trusted to extrapolate."""
        return self.total >= DECISIVE


def form_evidence(runs: pd.DataFrame) -> FormEvidence:
    """Return the evidence of runs against the five-parameter law.

    Args:
        runs: a run table; learning rates and schedules are fitted as `fit_law` does.

    Raises:
        RunTableError, FitError: no law can be fitted.
    """
    fit = fit_law(runs, law="chinchilla", discrepancy="none", priors="weak", bootstrap=20)
    problem, point = fit.problem, fit.point
    assert problem is not None
    assert point is not None
    nuisance = problem.model(point.theta[None]).gradient[0].T
    wide = get_law("super")
    theta = np.concatenate([point.theta[: problem.law_size], np.zeros(4)])
    bends = wide.gradient(theta, problem.points)[:, 5:]
    sizes = np.array([LOG_KAPPA_SPREAD, GAMMA_SPREAD, OFFSET_SPREAD, OFFSET_SPREAD]) / _NOISE
    flops = problem.points.log_params + problem.points.log_tokens
    frame = _Frame.of(point.residual, nuisance)
    directions = frame.evidence((bends * sizes) @ (bends * sizes).T)
    hinges = [
        frame.evidence(np.outer(hinge, hinge) * (_HINGE / _NOISE) ** 2)
        for hinge in (np.maximum(np.quantile(flops, q) - flops, 0.0) for q in _QUANTILES)
    ]
    prior = DiscrepancyPrior()
    here = (problem.points.log_params, problem.points.log_tokens)
    smooth = frame.evidence(
        (prior.amplitude / _NOISE) ** 2 * correlation(here, here, prior.length)
    )
    parts = (directions, float(np.mean(hinges)), smooth)
    return FormEvidence(float(np.mean(parts)), *parts)


@dataclass(frozen=True)
class _Frame:
    """Residuals with what the law's parameters could still explain projected out.

    Attributes:
        residual: [R - P].
        turn: maps rows to the remaining directions, [R - P, R].
    """

    residual: FloatArray
    turn: FloatArray

    @classmethod
    def of(cls, residual: FloatArray, nuisance: FloatArray) -> "_Frame":
        vectors, values, _ = np.linalg.svd(nuisance, full_matrices=True)
        rank = int((values > 1e-9 * values[0]).sum())
        turn = vectors[:, rank:].T
        return cls(turn @ residual, turn)

    def evidence(self, covariance: FloatArray) -> float:
        """Return the Bayes factor of noise plus `covariance` (per noise variance) over noise."""
        freedom = self.residual.size
        if freedom < 2:
            return 1.0
        total = np.eye(freedom) + self.turn @ covariance @ self.turn.T
        factor = np.linalg.cholesky(total)
        explained = np.linalg.solve(factor, self.residual)
        before, after = self.residual @ self.residual, explained @ explained
        if before <= 0:
            return 1.0
        log = 0.5 * freedom * np.log(before / after) - np.log(np.diag(factor)).sum()
        return float(np.exp(min(log, 700.0)))


def surprise_evidence(z: ArrayLike) -> float:
    """Return the evidence that predictions made before training do not hold.

    The mean of three test martingales: a common shift of unknown sign (Robbins' mixture) and
    errors two and three times as large as stated.

    Args:
        z: (observed - predicted) / predicted standard deviation of ln L, in order, each
            predicted from what was known before, [T].
    """
    values = np.asarray(z, dtype=np.float64)
    count, total, square = values.size, values.sum(), float(values @ values)
    spread = 1.0 + _SHIFT**2 * count
    logs = [0.5 * _SHIFT**2 * total**2 / spread - 0.5 * np.log(spread)]
    logs += [0.5 * square * (1.0 - 1.0 / s**2) - count * np.log(s) for s in _SCALES]
    return float(np.mean(np.exp(np.minimum(logs, 700.0))))


def trusted_from(runs: pd.DataFrame, *, fewest: int = 20) -> tuple[float, FormEvidence]:
    """Return the smallest compute (6 N D) above which the five-parameter form is not rejected.

    Small runs are dropped an e-fold of compute at a time while the evidence is decisive and
    `fewest` runs are left.

    Returns:
        The compute, and the evidence of the runs from there on, which may still be decisive.
    """
    flops = 6.0 * runs["params"] * runs["tokens"]
    floor = float(flops.min())
    evidence = form_evidence(runs)
    while evidence.rejected:
        higher = floor * np.e
        kept = runs[flops >= higher]
        if len(kept) < fewest:
            break
        floor = float(flops[flops >= higher].min())
        evidence = form_evidence(kept)
    return floor, evidence
