"""The mixture of forms as an estimator: a run table in, predictions and optima out."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.errors import FitError
from analysis.laws.base import FloatArray, Points
from analysis.steering.belief import Belief, believe
from analysis.steering.forms import LENGTH, Form, trained
from analysis.steering.goals import Optimum
from analysis.steering.posterior import Observed
from analysis.steering.smooth import SmoothBasis
from analysis.uncertainty import Allocation, Estimate, Prediction

FEWEST_ROWS = 3


@dataclass(frozen=True)
class Mixture:
    """What a run table says under several forms; answers like a fit."""

    forms: tuple[Form, ...]
    runs: Observed

    def predict(self, params: ArrayLike, tokens: ArrayLike, *, noise: bool = False) -> Prediction:
        """Return the loss at N and D with 90 % intervals, each of shape [R]."""
        points = Points.of(params, tokens)
        value, low, high = np.exp(self._belief(points).predict(points, noise=noise))
        seen = self.runs.log_flops
        flops = float(np.log(6.0)) + points.log_params + points.log_tokens
        beyond = np.maximum(np.maximum(flops - seen.max(), seen.min() - flops), 0.0)
        return Prediction(value, low, high, beyond / float(np.log(10.0)))

    def optimum(self, flops: float) -> Allocation:
        """Return N, D and loss that are best for a compute budget of 6 N D, with intervals."""
        goal = Optimum(flops)
        found = self._belief(goal.points()).interval(goal)
        params, loss = np.exp(found[:, 0]), np.exp(found[:, 1])
        work = flops / 6.0
        return Allocation(
            flops=float(flops),
            params=_estimate(params),
            tokens=_estimate(work / params[[0, 2, 1]]),
            loss=_estimate(loss),
            extrapolation_decades=max(
                float(np.log(flops) - self.runs.log_flops.max()) / float(np.log(10.0)), 0.0
            ),
        )

    def _belief(self, wanted: Points) -> Belief:
        basis = SmoothBasis.of([self.runs.points, wanted], LENGTH)
        return believe(self.forms, self.runs, basis)


def _estimate(numbers: FloatArray) -> Estimate:
    value, low, high = (float(v) for v in numbers)
    return Estimate(value, low, high)


def mixture(runs: pd.DataFrame, forms: tuple[Form, ...] | None = None) -> Mixture:
    """Return the mixture for a table with columns `params`, `tokens`, `loss`.

    Raises:
        FitError: too few runs.
    """
    if len(runs) < FEWEST_ROWS:
        raise FitError(f"{len(runs)} runs are too few; at least {FEWEST_ROWS} are needed")
    observed = Observed(
        Points.of(runs["params"], runs["tokens"]),
        np.log(runs["loss"].to_numpy(dtype=np.float64)),
        np.arange(len(runs)),
    )
    return Mixture(trained() if forms is None else forms, observed)
