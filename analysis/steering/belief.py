"""What the runs say, under several forms at once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy.special import ndtr

from analysis.laws.base import FloatArray, Points
from analysis.steering.forms import Form
from analysis.steering.goals import Answer, Goal
from analysis.steering.posterior import Observed, Posterior, fit_form
from analysis.steering.smooth import SmoothBasis
from analysis.uncertainty import LEVEL

_About = TypeVar("_About")
_Made = TypeVar("_Made")

_BISECTIONS = 45
_HOPELESS = 2e-3
_EVERY = 8


@dataclass(frozen=True)
class Belief:
    """A mixture of normal distributions, one for each form.

    Attributes:
        parts: the forms fitted, [F].
        shares: their probabilities, [F].
        basis: features of the misfit.
    """

    parts: tuple[Posterior, ...]
    shares: FloatArray
    basis: SmoothBasis
    _made: dict[int, tuple[object, object]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def once(self, about: _About, make: Callable[[_About], _Made]) -> _Made:
        """Return what was made of `about` under this belief, made where it is asked for first.

        A choice, the needs behind it and the verdict all want the goal's gradients; a batch
        wants the candidates' for each of its runs.
        """
        known = self._made.get(id(about))
        if known is None or known[0] is not about:
            known = self._made[id(about)] = (about, make(about))
        return known[1]  # type: ignore[return-value]

    def answers(self, goal: Goal, phi: FloatArray | None = None) -> list[Answer]:
        """Return the goal's numbers under each form."""

        def make(goal: Goal) -> list[Answer]:
            there = self.basis.features(goal.points()) if phi is None else phi
            return [goal.answer(part, there) for part in self.parts]

        return self.once(goal, make)

    def interval(self, goal: Goal, phi: FloatArray | None = None) -> FloatArray:
        """Return the median and the ends of 90 % intervals of the goal's numbers, [3, G]."""
        answers = self.answers(goal, phi)
        return self._quantiles(
            np.stack([answer.value for answer in answers]),
            np.stack(
                [
                    np.sqrt(np.einsum("gq,qr,gr->g", a.gradient, p.covariance, a.gradient))
                    for a, p in zip(answers, self.parts, strict=True)
                ]
            ),
        )

    def predict(self, points: Points, *, noise: bool = False) -> FloatArray:
        """Return the median and the ends of 90 % intervals of ln L at points, [3, S]."""
        phi = self.basis.features(points)
        flops = float(np.log(6.0)) + points.log_params + points.log_tokens
        values, spreads = [], []
        for part in self.parts:
            gradient = part.gradient(points, phi)
            variance = np.einsum("sq,qr,sr->s", gradient, part.covariance, gradient)
            if noise:
                variance = variance + part.noise.at(flops) ** 2
            values.append(part.log_loss(points, phi))
            spreads.append(np.sqrt(variance))
        return self._quantiles(np.stack(values), np.stack(spreads))

    def cumulative(self, points: Points, log_loss: float) -> float:
        """Return the probability that a run at one point has a loss below this, noise included."""
        phi = self.basis.features(points)
        flops = float(np.log(6.0)) + points.log_params + points.log_tokens
        total = 0.0
        for share, part in zip(self.shares, self.parts, strict=True):
            gradient = part.gradient(points, phi)[0]
            variance = float(gradient @ part.covariance @ gradient) + part.noise.at(flops)[0] ** 2
            off = log_loss - part.log_loss(points, phi)[0]
            total += float(share * ndtr(off / np.sqrt(variance)))
        return total

    def _quantiles(self, value: FloatArray, spread: FloatArray) -> FloatArray:
        """Return the quantiles of mixtures of normals, value and spread [F, G], as [3, G]."""
        spread = np.maximum(spread, 1e-12)
        levels = np.array([0.5, 0.5 - LEVEL / 2.0, 0.5 + LEVEL / 2.0])[:, None]
        low = np.tile((value - 8.0 * spread).min(axis=0), (3, 1))
        high = np.tile((value + 8.0 * spread).max(axis=0), (3, 1))
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            parts = ndtr((middle - value[:, None]) / spread[:, None])
            below = np.einsum("f,fqg->qg", self.shares, parts)
            high = np.where(below >= levels, middle, high)
            low = np.where(below >= levels, low, middle)
        return 0.5 * (low + high)


def believe(
    forms: tuple[Form, ...], runs: Observed, basis: SmoothBasis, before: Belief | None = None
) -> Belief:
    """Return all forms fitted to the runs, with their probabilities.

    Args:
        forms: hypotheses.
        runs: observations.
        basis: features of the misfit.
        before: the belief of fewer runs under the same forms and features, for a near start.
    """
    if before is None:
        parts = tuple(fit_form(form, runs, basis) for form in forms)
    else:
        parts = _refitted(forms, runs, basis, before)
    logs = np.array([p.log_evidence + np.log(p.form.share) for p in parts])
    shares = np.exp(logs - logs.max())
    return Belief(parts, shares / shares.sum(), basis)


def _refitted(
    forms: tuple[Form, ...], runs: Observed, basis: SmoothBasis, before: Belief
) -> tuple[Posterior, ...]:
    """Return all forms refitted, but for hopeless ones, which wait for every `_EVERY`-th run.

    The odds of a form that waits against the best one stay what they were.
    """
    waiting = (before.shares < _HOPELESS) & (runs.log_loss.size % _EVERY != 0)
    parts = [
        old if wait else fit_form(form, runs, basis, old)
        for form, old, wait in zip(forms, before.parts, waiting, strict=True)
    ]
    best = int(np.argmax(before.shares))
    gained = parts[best].log_evidence - before.parts[best].log_evidence
    return tuple(
        replace(part, log_evidence=part.log_evidence + gained) if wait else part
        for part, wait in zip(parts, waiting, strict=True)
    )
