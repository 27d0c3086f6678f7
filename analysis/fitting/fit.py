"""Fit a law to a table of runs, together with how untuned runs deviate from it."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis.errors import FitError
from analysis.fitting.bootstrap import draw, refit, refit_globally
from analysis.fitting.problem import Problem, build_problem
from analysis.fitting.result import Fit, FitSettings
from analysis.fitting.solve import PointFit, fit_point
from analysis.laws.base import FloatArray, get_law
from analysis.laws.response import Response, ResponsePrior
from analysis.runs import count_rejected, validate_runs

FEWEST_ROWS = 4
PRIORS_UP_TO = 60
"""Tables with fewer trajectories than this, a dozen for each of the law's parameters, are fitted
with the law's weak priors unless asked otherwise."""


def fit_law(
    runs: pd.DataFrame,
    *,
    law: str = "chinchilla",
    huber_delta: float | Literal["auto"] = "auto",
    bootstrap: int = 1000,
    seed: int = 0,
    lr_prior: float | None = None,
    priors: Literal["auto", "weak", "none"] = "auto",
    response: Literal["auto", "none"] = "auto",
    response_prior: ResponsePrior | None = None,
    verify: bool = False,
) -> Fit:
    """Fit `law` to the finished rows of `runs`.

    Where the runs' learning rates vary, or their schedules, the law and the response to both are
    fitted jointly, and the law is that of a run at the best learning rate and schedule.

    Args:
        runs: a run table (`analysis.runs`).
        law: name of the law; `auto` takes Chinchilla's.
        huber_delta: threshold of the Huber loss on log loss. `auto` is 1.345 times the noise as
            the median residual shows it; published fits use 1e-3.
        bootstrap: resamples, drawn by trajectory.
        seed: of the resamples.
        lr_prior: learning rate that is thought good; centre of a weak prior.
        priors: `weak` puts the law's priors on its parameters, `none` leaves them off, `auto`
            uses them for fewer than 60 trajectories, where data alone seldom bound a law.
        response: `none` ignores learning rates and schedules.
        response_prior: replaces the default priors of the response.
        verify: search for a lower minimum of each resample too (`Fit.global_check`); it takes
            several times as long as the bootstrap.

    Raises:
        RunTableError: the table cannot be used.
        FitError: too few runs, or runs that no law can be fitted to.
    """
    table = validate_runs(runs)
    try:
        form = get_law("chinchilla" if law == "auto" else law)
    except KeyError as error:
        raise FitError(str(error.args[0])) from error
    if huber_delta != "auto" and not (np.isfinite(huber_delta) and huber_delta > 0):
        raise FitError(f"huber_delta must be above 0 or 'auto', not {huber_delta}")
    if lr_prior is not None and not (np.isfinite(lr_prior) and lr_prior > 0):
        raise FitError(f"lr_prior must be a learning rate above 0, not {lr_prior}")
    _check_enough(table, needed=FEWEST_ROWS)
    trajectories = table["trajectory"].nunique() if "trajectory" in table else len(table)
    law_prior = priors == "weak" or (priors == "auto" and trajectories < PRIORS_UP_TO)
    if not law_prior:
        _check_enough(table, needed=len(form.coordinates) + 1)
    problem = build_problem(
        table,
        form,
        law_prior=law_prior,
        fit_response=response == "auto",
        lr_prior=lr_prior,
        response_prior=response_prior or ResponsePrior(),
    )
    point = fit_point(problem, huber_delta)
    draws = draw(problem, bootstrap, seed)
    resampled = refit(problem, point, draws)
    if verify:
        resampled, check = refit_globally(problem, point, draws, resampled)
        point = replace(point, global_check=check)
    settings = FitSettings(
        law=form.name,
        huber_delta=huber_delta,
        bootstrap=bootstrap,
        seed=seed,
        lr_prior=lr_prior,
        law_prior=law_prior,
        response=problem.design is not None,
    )
    return _assemble(problem, point, resampled.theta, table, settings, count_rejected(runs))


def _check_enough(table: pd.DataFrame, needed: int) -> None:
    if len(table) < needed:
        raise FitError(
            f"{len(table)} finished runs are too few to fit this law; at least {needed} are needed"
        )
    for column, what in (("params", "model size"), ("tokens", "number of tokens")):
        if np.ptp(np.log(table[column].to_numpy(dtype=np.float64))) < 0.01:
            raise FitError(
                f"all {len(table)} runs have the same {what} ({table[column].iloc[0]:g}); a law "
                f"of N and D needs runs of at least two"
            )


def _assemble(
    problem: Problem,
    point: PointFit,
    samples: FloatArray,
    table: pd.DataFrame,
    settings: FitSettings,
    rejected: dict[str, int],
) -> Fit:
    """Undo the centring, and state the law at the best schedule."""
    p = problem.law_size
    to_law = np.zeros((p, problem.size))
    to_law[:, :p] = problem.law.centring(*problem.centre)
    response, best_offset = _response(problem, point.theta, samples)
    if best_offset is not None:
        to_law[:, best_offset] = problem.law.scale_direction()
    spread = problem.prior.spread
    return Fit(
        law=problem.law.located(*problem.centre),
        theta=to_law @ point.theta,
        covariance=to_law @ point.covariance @ to_law.T,
        samples=samples @ to_law.T,
        response=response,
        sigma=point.sigma,
        delta=point.delta,
        objective=point.objective,
        converged=point.converged,
        runs=table,
        residuals=point.residual,
        settings=settings,
        rejected=rejected,
        notes=problem.notes,
        learned=1.0 - np.sqrt(np.diag(point.covariance)) / spread,
        at_bound=_at_bound(problem, point.theta),
        global_check=point.global_check,
        problem=problem,
        point=point,
    )


def _at_bound(problem: Problem, theta: FloatArray) -> np.ndarray:
    low, high = problem.bounds()
    return (theta - low < 1e-6) | (high - theta < 1e-6)


def _response(
    problem: Problem, theta: FloatArray, samples: FloatArray
) -> tuple[Response, int | None]:
    """Return the fitted response, and which entry of theta is the best schedule's offset."""
    design = problem.design
    if design is None:
        return problem.fallback, None
    first = problem.law_size
    first_offset = first + (0 if design.log_lr is None else 4)
    offsets = np.concatenate([[0.0], theta[first_offset:]])
    drawn = np.concatenate([np.zeros((len(samples), 1)), samples[:, first_offset:]], axis=1)
    best = int(np.argmin(offsets))
    response = replace(
        problem.fallback,
        offsets=dict(
            zip(design.schedules, (float(v) for v in offsets - offsets[best]), strict=False)
        ),
        offset_samples=drawn - drawn[:, best : best + 1],
    )
    index = None if best == 0 else first_offset + best - 1
    if design.log_lr is None:
        return response, index
    lr_samples = samples[:, first : first + 4].copy()
    lr_samples[:, 1] += problem.lr_centre
    return (
        replace(
            response,
            lr_fitted=True,
            curvature=float(np.exp(theta[first])),
            log_lr=float(theta[first + 1] + problem.lr_centre),
            slope_params=float(theta[first + 2]),
            slope_tokens=float(theta[first + 3]),
            samples=lr_samples,
        ),
        index,
    )
