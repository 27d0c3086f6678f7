"""A fitted law: what it predicts, where its optimum lies, and how far to trust it."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.discrepancy import Discrepancy, DiscrepancyPrior
from analysis.fitting.problem import Problem, points_of
from analysis.fitting.regrid import GlobalCheck
from analysis.fitting.solve import PointFit
from analysis.laws.base import FloatArray, Law
from analysis.laws.response import Response
from analysis.state import LawState
from analysis.uncertainty import Allocation, Estimate, Prediction

if TYPE_CHECKING:
    from analysis.gates import FormEvidence


@dataclass(frozen=True)
class FitSettings:
    """What decided a fit besides its runs."""

    law: str
    huber_delta: float | Literal["auto"]
    bootstrap: int
    seed: int
    lr_prior: float | None
    law_prior: bool
    """Whether the law's weak priors were in use."""
    response: bool
    """Whether a response to learning rate or schedule was fitted."""
    discrepancy: DiscrepancyPrior | None = None
    """Prior of what the law's form misses, where that was fitted too."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Fit:
    """A law fitted to runs.

    Attributes:
        law: the formula.
        theta: its coordinates, [P]; Chinchilla's are (ln E, ln A, ln B, alpha, beta).
        covariance: Laplace covariance of theta with the response integrated out, [P, P].
        samples: theta refitted to resampled trajectories, [B, P].
        response: how untuned runs deviate.
        sigma: noise of one run, standard deviation of log loss.
        delta: Huber threshold that was used.
        objective: Huber sum (plus priors, in units of the squared noise).
        runs: the fitted rows.
        residuals: observed less predicted ln L with the response included, [R].
        rejected: rows left out, by status.
        notes: what was noticed while the fit was set up.
        learned: share of each prior's spread that the runs removed, for theta and the response,
            were the law's form right.
        at_bound: which of those sit at a bound.
        global_check: whether the optimum is the global one, as far as a second search can tell.
        problem: what was solved, in centred coordinates and with the response.
        point: its solution.
        discrepancy: what the law's form misses; None for a fit like published ones.
        form_spread: standard deviations of theta were the law's form right, [P].
    """

    law: Law
    theta: FloatArray
    covariance: FloatArray
    samples: FloatArray
    response: Response
    sigma: float
    delta: float
    objective: float
    converged: bool
    runs: pd.DataFrame
    residuals: FloatArray
    settings: FitSettings
    rejected: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    learned: FloatArray = field(default_factory=lambda: np.zeros(0))
    at_bound: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    global_check: GlobalCheck | None = None
    problem: Problem | None = field(default=None, repr=False)
    point: PointFit | None = field(default=None, repr=False)
    discrepancy: Discrepancy | None = field(default=None, repr=False)
    form_spread: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)

    @cached_property
    def state(self) -> LawState:
        """The law with its numbers and ranges, as a law file keeps it."""
        return LawState(
            law=self.law,
            theta=self.theta,
            covariance=self.covariance,
            samples=self.samples,
            sigma=self.sigma,
            response=self.response,
            validity=ranges(self.runs),
            discrepancy=self.discrepancy,
        )

    def predict(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        unique_tokens: ArrayLike | None = None,
        *,
        noise: bool = False,
    ) -> Prediction:
        """Return the loss of tuned runs at N and D with 90 % intervals, each of shape [R].

        Args:
            params, tokens: counts, broadcast against each other.
            unique_tokens: for laws of repeated data; unset: one epoch.
            noise: widen the intervals by the noise of one run.
        """
        return self.state.predict(params, tokens, unique_tokens, noise=noise)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        """Return N, D and loss that are best for a compute budget of 6 N D, with intervals."""
        return self.state.optimum(flops, unique_tokens)

    @cached_property
    def parameters(self) -> dict[str, Estimate]:
        """The printed parameters with their intervals."""
        return self.state.parameters

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """How often intervals have covered, on these runs and on published tables; refits."""
        from analysis.calibration import calibrate

        return calibrate(self)

    @cached_property
    def form_evidence(self) -> "FormEvidence | None":
        """Evidence of the runs against the five-parameter form; None for laws of repeated data."""
        from analysis.gates import form_evidence

        return None if self.law.needs_unique else form_evidence(self.runs)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard errors of the printed parameters."""
        return self.state.standard_errors

    @cached_property
    def identified(self) -> dict[str, bool]:
        """Which parameters the runs, rather than priors or bounds, decide."""
        from analysis.diagnosis import identified

        return identified(self)

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before using the numbers, in sentences."""
        from analysis.diagnosis import warnings

        return warnings(self)

    @cached_property
    def excess(self) -> FloatArray:
        """Observed ln L less the law's alone, [R]: noise plus the price of being untuned."""
        points = points_of(self.runs, self.law)
        loss = self.runs["loss"].to_numpy(dtype=np.float64)
        return np.log(loss) - self.law.log_loss(self.theta, points)

    @property
    def tuned_loss(self) -> FloatArray:
        """The observed losses with the response's part taken off, [R]."""
        points = points_of(self.runs, self.law)
        return np.exp(self.law.log_loss(self.theta, points) + self.residuals)


def ranges(runs: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest N, D, C (6 N D) and, where known, U."""
    params = runs["params"].to_numpy(dtype=np.float64)
    tokens = runs["tokens"].to_numpy(dtype=np.float64)
    values = {"params": params, "tokens": tokens, "flops": 6.0 * params * tokens}
    if "unique_tokens" in runs and runs["unique_tokens"].notna().any():
        values["unique_tokens"] = runs["unique_tokens"].dropna().to_numpy(dtype=np.float64)
    return {name: (float(v.min()), float(v.max())) for name, v in values.items()}
