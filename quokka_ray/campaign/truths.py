"""What the losses of a study may turn out to be, for searches that are played beforehand.

Before its first runs nothing is known of a study but where they will lie. Published laws agree on
little more than this: at the middle of the runs about half of the loss is irreducible, a fifth
each is for want of size and of data, exponents lie between .28 and .5, those of tiny byte-level
models up to .53, and no formula is exact. That is the prior (`prior_truths`): shares are drawn
over twice the spread between seven published tables, exponents over all of that range, and a
smooth misfit of the size that real tables show lies beside the formula, which is bounded where
the study's law is. How learning rates and schedules respond is drawn from the priors of that
response; what else is searched of a recipe is taken to make no difference, until runs show one.

Once there are runs, truths are drawn from the law that was fitted to them (`fitted_truths`):
parameters from its posterior, its misfit from what the runs leave of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky
from scipy.special import ndtri
from scipy.stats import qmc

from analysis.discrepancy import (
    DiscrepancyPrior,
    noise_covariance,
    reducible_share,
    trajectory_noise,
)
from analysis.fitting.fit import Fit
from analysis.laws.base import FloatArray, Law, Points, get_law
from analysis.laws.bounded import LOG_BOUND, LOG_BOUND_SPREAD
from analysis.laws.mixture import PREFIX
from analysis.laws.response import Response, ResponsePrior
from analysis.steering.forms import TYPICAL_MEAN, TYPICAL_SPREAD
from analysis.steering.smooth import SmoothBasis
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.trajectory import TrajectoryConfig

NOISE = 0.006
"""Scatter of ln loss between seeds before a study has shown its own: that of the quick start's
models (docs/results/live_pool)."""

EXPONENT, EXPONENT_SPREAD = 0.4, 0.08
"""Of both exponents: published laws .28 to .5, byte-level models of 10^3 to 10^5 parameters .46 to
.53 (`analysis/laws/chinchilla.py`)."""

PRIOR_IN_WORDS = (
    f"a weak prior: exponents of {EXPONENT:g} ± {EXPONENT_SPREAD:g}, shares of the loss as in "
    f"published tables with twice their spread, a misfit as theirs, noise of {100 * NOISE:.1g} %"
)
FIT_IN_WORDS = "the law fitted to the runs so far, as far as they leave it open"

_MEAN = TYPICAL_MEAN | {"ln_K": LOG_BOUND}
_SPREAD = TYPICAL_SPREAD | {"ln_K": LOG_BOUND_SPREAD}

_LEVEL = math.log(2.0)
"""ln L at the middle of the runs. Laws, priors and tolerances are relative: it changes nothing."""

_EXTREME = 2.0
"""Normal deviates of the prior are cut here: a truth that nobody has met says little."""

_LINE = np.linspace(-9.0, 9.0, 3601)


@dataclass(frozen=True)
class Surface:
    """ln L of tuned runs: a law and its misfit.

    Attributes:
        law: The formula.
        theta: Its numbers, about `centre`, [P].
        centre: ln N and ln D.
        basis: Features of the misfit.
        weights: Of the features, [M].
        amplitude: Of the misfit, as a share of the reducible loss.
    """

    law: Law
    theta: FloatArray
    centre: tuple[float, float]
    basis: SmoothBasis
    weights: FloatArray
    amplitude: float

    def log_loss(self, points: Points) -> FloatArray:
        """Return ln L, [S]."""
        there = points.shifted(*self.centre)
        value = self.law.log_loss(self.theta, there)
        share = reducible_share(self.law, self.theta, there, value)
        return np.asarray(
            value + self.amplitude * share * (self.basis.features(points) @ self.weights)
        )

    def optimum(self, flops: float) -> tuple[float, float]:
        """Return ln N_opt and ln L_opt on a compute budget of 6 N D."""
        work = math.log(flops / 6.0)
        x = 0.5 * (work - math.log(20.0)) + _LINE
        loss = self.log_loss(Points(x, work - x))
        best = int(loss.argmin())
        return float(x[best]), float(loss[best])


@dataclass(frozen=True)
class Truth:
    """What the trials of one played search observe.

    Attributes:
        surface: ln L of tuned runs.
        response: What an untuned learning rate, schedule or anything else of the recipe costs.
        noise: Scatter of ln L between trials.
        seed: Of that scatter.
    """

    surface: Surface
    response: Response
    noise: float
    seed: int

    def losses(self, config: TrajectoryConfig) -> list[float]:
        """Return the loss at each of a trajectory's points; the same one however often asked."""
        points = Points.of(config.params, config.points)
        off = self.response.penalty(
            [config.params], config.points, [config.lr], config.lr_schedule, self._recipe(config)
        )
        rng = np.random.default_rng([self.seed, config.seed])
        shared = np.linalg.cholesky(trajectory_noise(points.log_tokens[None])[0])
        noise = self.noise * (shared @ rng.standard_normal(len(config.points)))
        losses: list[float] = np.exp(self.surface.log_loss(points) + off + noise).tolist()
        return losses

    def _recipe(self, config: TrajectoryConfig) -> dict[str, list[Any]]:
        """Return what the response knows of a trial's recipe, as columns of one row."""
        row = {**config.training.model_dump(), **config.diffusion.model_dump()}
        row["batch_tokens"] = config.batch_tokens
        shares = {PREFIX + part: [share] for part, share in config.mixture_shares.items()}
        known = (*self.response.bowls, *self.response.choices)
        return {**shares, **{name: [row[name]] for name in known}}

    def through(self, states: Iterable[TrajectoryState]) -> "Truth":
        """Return the same, raised or lowered as a whole to what trials have observed."""
        off = []
        for state in states:
            expected = dict(zip(state.config.points, self.losses(state.config), strict=True))
            for row in state.observations:
                tokens = int(row.get("tokens") or state.config.tokens)
                off.append(math.log(row["loss"] / expected[tokens]))
        if not off:
            return self
        surface = self.surface
        relative = [kind in ("floor", "scale") for kind in surface.law.kinds]
        theta = surface.theta + np.where(relative, float(np.mean(off)), 0.0)
        return replace(self, surface=replace(surface, theta=theta))


def prior_truths(study: StudyConfig, places: Points, goal: Points, count: int) -> list[Truth]:
    """Return truths for a study without runs.

    Args:
        study: The study.
        places: Where its runs may lie.
        goal: Where its answer is read.
        count: How many; more of them begin with the same ones.
    """
    law = get_law("bounded" if study.law_name == "bounded" else "chinchilla")
    misfit, names = DiscrepancyPrior(), study.search.lr_schedule
    centre = float(places.log_params.mean()), float(places.log_tokens.mean())
    basis = SmoothBasis.of([places, goal], misfit.length)
    prior = [
        (EXPONENT, EXPONENT_SPREAD)
        if kind == "exponent"
        else (_LEVEL + _MEAN[name], _SPREAD[name])
        for name, kind in zip(law.coordinates, law.kinds, strict=True)
    ]
    mean, spread = np.array(prior).T
    size = len(mean) + 1 + 4 + len(names)
    truths = []
    for number, deviates in enumerate(_deviates(size, count, study.seed)):
        of_law, of_misfit, of_response = np.split(deviates, [len(mean), len(mean) + 1])
        rng = np.random.default_rng([study.seed, number])
        surface = Surface(
            law,
            mean + spread * of_law,
            centre,
            basis,
            rng.standard_normal(basis.size),
            misfit.amplitude * math.exp(misfit.amplitude_spread * float(of_misfit[0])),
        )
        response = _response(study.training.lr, names, centre, of_response)
        truths.append(Truth(surface, response, NOISE, study.seed + number))
    return truths


def _deviates(size: int, count: int, seed: int) -> FloatArray:
    """Return standard normal deviates that fill the space evenly, [count, size]."""
    power = max(3, math.ceil(math.log2(max(count, 1))))
    uniform = qmc.Sobol(size, rng=np.random.default_rng(seed)).random_base2(power)[:count]
    return np.clip(ndtri(np.clip(uniform, 1e-6, 1 - 1e-6)), -_EXTREME, _EXTREME)


def _response(
    lr: float, schedules: Sequence[str], centre: tuple[float, float], deviates: FloatArray
) -> Response:
    prior = ResponsePrior()
    offsets = prior.offset_spread * deviates[4:]
    return Response(
        lr_fitted=True,
        curvature=prior.curvature * math.exp(prior.curvature_spread * float(deviates[0])),
        log_lr=math.log(lr) + prior.centre_spread * float(deviates[1]),
        slope_params=prior.slope_params + prior.slope_spread * float(deviates[2]),
        slope_tokens=prior.slope_tokens + prior.slope_spread * float(deviates[3]),
        reference_params=math.exp(centre[0]),
        reference_tokens=math.exp(centre[1]),
        offsets=dict(zip(schedules, (float(o) for o in offsets - offsets.min()), strict=True)),
    )


def fitted_truths(fit: Fit, places: Points, goal: Points, seed: int) -> list[Truth]:
    """Return truths that the runs of a fit leave open, one for each of its draws.

    Args:
        fit: The law of a study under way, with posterior draws.
        places: Where further runs may lie.
        goal: Where its answer is read.
        seed: Of the misfit and of later noise.
    """
    known = fit.discrepancy
    basis = SmoothBasis.of([places, goal], known.length if known else DiscrepancyPrior().length)
    truths = []
    for number, theta in enumerate(fit.samples):
        rng = np.random.default_rng([seed, number])
        weights = _misfit_of(fit, theta, basis, rng)
        amplitude = known.amplitude if known else 0.0
        surface = Surface(fit.law, theta, (0.0, 0.0), basis, weights, amplitude)
        truths.append(Truth(surface, fit.response, fit.sigma, seed + number))
    return truths


def _misfit_of(
    fit: Fit, theta: FloatArray, basis: SmoothBasis, rng: np.random.Generator
) -> FloatArray:
    """Return weights of the misfit's features as the runs leave them under one theta, [M]."""
    drawn = rng.standard_normal(basis.size)
    known = fit.discrepancy
    if known is None or not known.residual.size:
        return drawn
    runs = Points(known.log_params, known.log_tokens)
    value = fit.law.log_loss(theta, runs)
    residual = known.residual + fit.law.log_loss(fit.theta, runs) - value
    share = reducible_share(fit.law, theta, runs, value)
    rows = (known.amplitude * share)[:, None] * basis.features(runs)
    scatter = known.sigma**2 * noise_covariance(known.log_tokens, known.trajectory, known.weights)
    if known.nuisance.size:
        scatter = scatter + known.nuisance @ known.nuisance.T
    solved = np.asarray(cho_solve(cho_factor(scatter), np.column_stack([rows, residual])))
    information = np.eye(basis.size) + rows.T @ solved[:, :-1]
    factor = cholesky(information, lower=True)
    mean = cho_solve((factor, True), rows.T @ solved[:, -1])
    return np.asarray(mean + np.linalg.solve(factor.T, drawn))
