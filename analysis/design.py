"""The next run worth paying for, and the first runs to make before any law is known.

Runs near the predicted optimum say little of the exponents. What a run is worth is how much it
would narrow the law's answer at the target: with V the covariance of theta, f the gradient of
the run's predicted log loss and g the gradient of the answer, a run of noise sigma lowers the
answer's variance by (g^T V f)^2 / (sigma^2 + f^T V f) (c-optimal design).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from analysis.laws.base import FloatArray, Law, Points


class Steerable(Protocol):
    """What the design needs of a fit: `analysis.fitting.result.Fit` and `LawState` have it."""

    @property
    def law(self) -> Law: ...

    @property
    def theta(self) -> FloatArray: ...

    @property
    def covariance(self) -> FloatArray: ...

    @property
    def sigma(self) -> float: ...


@dataclass(frozen=True)
class Tolerances:
    """How well the answer at the target is wanted: half widths in logarithms."""

    params: float = 0.1
    """Of ln N_opt."""
    loss: float = 0.01
    """Of ln L_opt."""


def answer_gradients(
    law: Law, theta: FloatArray, target_flops: float, tolerances: Tolerances
) -> FloatArray:
    """Return the gradients of ln N_opt and ln L_opt at the target over tolerances, [2, P]."""
    of_params, of_loss = law.optimum_gradient(theta, target_flops)
    return np.stack([of_params / tolerances.params, of_loss / tolerances.loss])


def condition_on(
    covariance: FloatArray, gradients: FloatArray, noise_variance: float
) -> FloatArray:
    """Return the covariance after runs with these gradients, [P, P].

    A rank-1 update for each run. It needs no losses, so runs that are still training count.

    Args:
        covariance: V, [P, P].
        gradients: f of each run, [R, P].
        noise_variance: sigma^2 of a run.
    """
    result = covariance.copy()
    for f in gradients:
        product = result @ f
        result -= np.outer(product, product) / (noise_variance + float(f @ product))
    return 0.5 * (result + result.T)


def score_candidates(
    fit: Steerable,
    candidates: pd.DataFrame,
    *,
    target_flops: float,
    tolerances: Tolerances | None = None,
    pending: pd.DataFrame | None = None,
    sigma: float | None = None,
    exponent: float = 0.4,
    overhead: float = 0.0,
) -> FloatArray:
    """Return what each candidate is worth for its price, [K]; the largest is the next run.

    Args:
        fit: the law as it stands.
        candidates: columns `params`, `tokens` and `cost`.
        target_flops: the compute budget (6 N D) at which the answer is wanted.
        tolerances: what the two answers are wanted to; they set their exchange rate.
        pending: runs under way, columns `params` and `tokens`.
        sigma: noise of a run in log loss; unset: the fit's.
        exponent: k of score / (cost + overhead)^k.
        overhead: what any run costs besides, in the unit of `cost`.
    """
    noise = (fit.sigma if sigma is None else sigma) ** 2
    covariance = fit.covariance
    if pending is not None and len(pending):
        covariance = condition_on(covariance, _gradients(fit, pending), noise)
    f = _gradients(fit, candidates)
    g = answer_gradients(fit.law, fit.theta, target_flops, tolerances or Tolerances())
    moved = f @ covariance
    variance = np.einsum("kp,kp->k", moved, f)
    gained = ((moved @ g.T) ** 2).sum(axis=1) / (noise + variance)
    cost = candidates["cost"].to_numpy(dtype=np.float64) + overhead
    return gained / cost**exponent


def expected_widths(
    fit: Steerable, target_flops: float, runs: pd.DataFrame | None = None
) -> dict[str, float]:
    """Return the half widths of the 90 % intervals of ln N_opt and ln L_opt at the target.

    Args:
        fit: the law as it stands.
        target_flops: budget in 6 N D.
        runs: count these runs as finished; columns `params` and `tokens`.
    """
    covariance = fit.covariance
    if runs is not None and len(runs):
        covariance = condition_on(covariance, _gradients(fit, runs), fit.sigma**2)
    g = answer_gradients(fit.law, fit.theta, target_flops, Tolerances(1.0, 1.0))
    spread = np.sqrt(np.einsum("ap,pq,aq->a", g, covariance, g))
    return {"params": 1.645 * float(spread[0]), "loss": 1.645 * float(spread[1])}


def _gradients(fit: Steerable, runs: pd.DataFrame) -> FloatArray:
    return fit.law.gradient(fit.theta, Points.of(runs["params"], runs["tokens"]))


def space_filling(
    levels: Iterable[pd.DataFrame], *, allowance: float, sizes: int = 6
) -> pd.DataFrame:
    """Return the first runs: several sizes on a few shared budgets, the cheapest first.

    Sizes that share a budget draw the U of an IsoFLOP curve, whose two arms show the exponents
    of N and of D apart; several budgets show how fast the minimum falls. On each, sizes are
    spread evenly in the logarithm, from the middle outwards: should the search end early, minima
    come first.

    Args:
        levels: for each budget, the cheapest first, the runs that it could buy, one a size;
            columns `params` and `cost`, and whatever else a run needs.
        allowance: what the runs may cost in all; the first level that has runs is always bought.
        sizes: sizes on each budget.

    Returns:
        The rows chosen, with a column `level` (from 0); empty when no level has runs.
    """
    chosen: list[pd.DataFrame] = []
    spent = 0.0
    for number, runs in enumerate(levels):
        if runs.empty:
            continue
        runs = runs.sort_values("params", ignore_index=True)
        size = np.log(runs["params"].to_numpy(dtype=np.float64))
        wanted = np.linspace(size[0], size[-1], sizes)
        picks = np.unique(np.abs(size[:, None] - wanted).argmin(axis=0))
        middle = (len(picks) - 1) / 2
        outwards = picks[np.argsort(np.abs(np.arange(len(picks)) - middle), kind="stable")]
        level = runs.iloc[outwards].assign(level=number)
        spent += float(level["cost"].sum())
        if chosen and spent > allowance:
            break
        chosen.append(level)
    if not chosen:
        return pd.DataFrame(columns=["params", "tokens", "cost", "level"])
    return pd.concat(chosen, ignore_index=True)
