"""Fit a law to a table of runs, together with how untuned runs deviate from it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis.discrepancy import Discrepancy, DiscrepancyPrior
from analysis.errors import FitError
from analysis.fitting.bootstrap import draw, refit, refit_globally
from analysis.fitting.mixed import (
    OUTLIER,
    MixedFit,
    condition,
    fit_mixed,
    posterior_draws,
)
from analysis.fitting.problem import Problem, build_problem
from analysis.fitting.responded import fitted_response
from analysis.fitting.responding import first_choices, leading_choices
from analysis.fitting.result import Fit, FitSettings
from analysis.fitting.solve import PointFit, fit_point, fit_point_near
from analysis.fitting.warm import carried
from analysis.laws.base import FloatArray, get_law, law_names
from analysis.laws.response import ResponsePrior
from analysis.runs import count_rejected, validate_runs

FEWEST_ROWS = 4
MOST_ROWS = 600
"""Rows that a fit with a discrepancy takes: its cost grows with their cube."""

PRIORS_UP_TO = 60
"""Tables with fewer trajectories than this, a dozen for each of the law's parameters, are fitted
with the law's weak priors unless asked otherwise."""


def fit_law(
    runs: pd.DataFrame,
    *,
    law: str = "auto",
    huber_delta: float | Literal["auto"] = "auto",
    bootstrap: int = 1000,
    seed: int = 0,
    lr_prior: float | None = None,
    priors: Literal["auto", "weak", "none"] = "auto",
    response: Literal["auto", "none"] = "auto",
    response_prior: ResponsePrior | None = None,
    discrepancy: DiscrepancyPrior | Literal["auto", "none"] = "auto",
    verify: bool = False,
    near: Fit | None = None,
    checked: bool = False,
) -> Fit:
    """Fit `law` to the finished rows of `runs`.

    Where the runs' learning rates vary, or their schedules, the mixtures of texts that they read
    (columns `share_<part>`), or what `analysis.laws.response` lists besides (batch, warmup,
    weight decay, noise schedule, objective, kernel), the law and the response to these are fitted
    jointly, and the law is that of a run at the best of each.

    Args:
        runs: a run table (`analysis.runs`).
        law: name of the law; `auto` takes Chinchilla's, which with a discrepancy predicts
            held-out larger runs no worse than wider laws (`benchmarks/coverage.py`).
        huber_delta: threshold of the Huber loss on log loss. `auto` is 1.345 times the noise as
            the median residual shows it; published fits use 1e-3.
        bootstrap: resamples, drawn by trajectory; with a discrepancy, draws of the posterior; with
            0, intervals are those of the fit's curvature.
        seed: of the resamples.
        lr_prior: learning rate that is thought good; centre of a weak prior.
        priors: `weak` puts the law's priors on its parameters, `none` leaves them off, `auto`
            uses them for fewer than 60 trajectories, where data alone seldom bound a law.
        response: `none` ignores the recipe, whatever varies.
        response_prior: replaces the default priors of the response.
        discrepancy: fit what the law's form misses together with the law, for intervals that
            cover (`analysis.discrepancy`). `auto` does so for laws of N and D alone, unless
            `huber_delta` or `priors="none"` ask for a fit like published ones.
        verify: search for a lower minimum of each resample too (`Fit.global_check`); it takes
            several times as long as the bootstrap.
        near: an earlier fit of this law to most of these rows. The fit starts at its optimum and
            searches the whole space only where that is plainly not the lowest any more.
        checked: the table is one that `taken_rows` returned: checking it takes longer than a fit
            that starts near its optimum.

    Raises:
        RunTableError: the table cannot be used.
        FitError: too few runs, or runs that no law can be fitted to.
    """
    table = runs if checked else validate_runs(runs)
    settings = _discrepancy_prior(discrepancy, law, huber_delta, priors)
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
    law_prior = law_prior or settings is not None
    if not law_prior:
        _check_enough(table, needed=len(form.coordinates) + 1)
    notes: tuple[str, ...] = ()
    if settings is not None and len(table) > MOST_ROWS:
        notes = (f"{MOST_ROWS} of {len(table)} rows, drawn evenly, were fitted",)
        table = _thinned(table)

    def solved(leading: Mapping[str, str]) -> tuple[Problem, PointFit]:
        problem = build_problem(
            table,
            form,
            law_prior=law_prior,
            fit_response=response == "auto",
            lr_prior=lr_prior,
            response_prior=response_prior or ResponsePrior(),
            leading=leading,
        )
        point = None
        if near is not None and (start := carried(problem, near)) is not None:
            point = fit_point_near(problem, huber_delta, start, near.sigma)
        return problem, point or fit_point(problem, huber_delta)

    before = None if near is None or near.problem is None else near.problem.design
    problem, point = solved(first_choices(before))
    if problem.design is not None:
        product = (table["params"] * table["tokens"]).to_numpy(dtype=np.float64)
        own = point.theta[problem.law_size :]
        leading = leading_choices(problem.design, own, product, problem.centre)
        if leading != first_choices(problem.design):
            # The law is stated for what is best at the largest runs, nearest to what it is for.
            problem, point = solved(leading)
    problem = replace(problem, notes=(*notes, *problem.notes))
    fit_settings = FitSettings(
        law=form.name,
        huber_delta=huber_delta,
        bootstrap=bootstrap,
        seed=seed,
        lr_prior=lr_prior,
        law_prior=law_prior,
        response=problem.design is not None,
        discrepancy=settings,
    )
    rejected = {} if checked else count_rejected(runs)
    if settings is not None:
        starts = np.stack([point.theta, problem.starts()[-1]])
        mixed = fit_mixed(problem, starts, settings)
        samples = posterior_draws(problem, mixed, settings, bootstrap, seed)
        chosen = _as_point(point, mixed)
        process = condition(problem, mixed, settings)
        return _assemble(problem, chosen, samples, table, fit_settings, rejected, point, process)
    if not bootstrap:
        nothing = np.zeros((0, problem.size))
        return _assemble(problem, point, nothing, table, fit_settings, rejected)
    draws = draw(problem, bootstrap, seed)
    resampled = refit(problem, point, draws)
    if verify:
        resampled, check = refit_globally(problem, point, draws, resampled)
        point = replace(point, global_check=check)
    return _assemble(problem, point, resampled.theta, table, fit_settings, rejected)


def _discrepancy_prior(
    wanted: DiscrepancyPrior | Literal["auto", "none"],
    law: str,
    huber_delta: float | Literal["auto"],
    priors: Literal["auto", "weak", "none"],
) -> DiscrepancyPrior | None:
    """Return the prior of the discrepancy that is to be fitted, or None for none."""
    if wanted == "none":
        return None
    if wanted != "auto":
        return wanted
    plain = huber_delta != "auto" or priors == "none"
    if plain or (law != "auto" and law in law_names() and get_law(law).needs_unique):
        return None
    return DiscrepancyPrior()


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return `MOST_ROWS` rows, spread evenly over compute."""
    flops = (table["params"] * table["tokens"]).to_numpy(dtype=np.float64)
    order = np.argsort(flops, kind="stable")
    kept = order[np.linspace(0, len(order) - 1, MOST_ROWS).round().astype(np.intp)]
    return table.iloc[np.sort(kept)]


def _as_point(point: PointFit, mixed: MixedFit) -> PointFit:
    """Return the joint estimate in the place of the plain fit that it started from."""
    return replace(
        point,
        theta=mixed.theta,
        covariance=mixed.covariance,
        sigma=mixed.sigma,
        delta=OUTLIER * mixed.sigma,
        objective=mixed.objective,
        converged=mixed.converged,
        residual=mixed.residual,
    )


def _check_enough(table: pd.DataFrame, needed: int) -> None:
    if len(table) < needed:
        raise FitError(
            f"{len(table)} finished {'run is' if len(table) == 1 else 'runs are'} too few to fit "
            f"this law; at least {needed} are needed"
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
    alone: PointFit | None = None,
    process: Discrepancy | None = None,
) -> Fit:
    """Undo the centring, and state the law at the best schedule.

    Args:
        alone: the fit of the law alone where a discrepancy, `process`, was fitted too.
    """
    turn, p = problem.to_law(point.theta), problem.law_size
    response = fitted_response(
        problem.design, problem.fallback, problem.centre, point.theta[p:], samples[:, p:], table
    )
    plain = (alone or point).covariance
    return Fit(
        law=problem.law.located(*problem.centre),
        theta=turn @ point.theta,
        covariance=turn @ point.covariance @ turn.T,
        samples=samples @ turn.T,
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
        learned=1.0 - np.sqrt(np.diag(plain)) / problem.prior.spread,
        at_bound=_at_bound(problem, point.theta),
        global_check=point.global_check,
        problem=problem,
        point=point,
        discrepancy=process,
        form_spread=np.sqrt(np.diag(turn @ plain @ turn.T)),
    )


def _at_bound(problem: Problem, theta: FloatArray) -> np.ndarray:
    low, high = problem.bounds()
    return (theta - low < 1e-6) | (high - theta < 1e-6)
