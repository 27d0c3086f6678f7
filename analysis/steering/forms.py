"""What the loss may look like: a few forms between which the runs decide.

Each is a law with priors on its parameters, with or without a smooth misfit beside it. The
five-parameter law is the super-law with its four further parameters held at zero, so that all
forms share one formula and their evidence compares. A form that leaves the five parameters is
not taken to be exact either: where one formula has failed, the next is a guess.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from analysis.laws.base import FloatArray, Law, Points, Prior, get_law
from analysis.laws.coupled import LOG_KAPPA_SPREAD
from analysis.laws.shrinkage import GAMMA_SPREAD, OFFSET_SPREAD

SMALL_MISFIT = 0.04
"""Amplitude beside a wider law, as a share of the reducible loss."""

MISFIT = 0.15
"""Amplitude beside five parameters: what real tables show (`analysis.discrepancy`)."""

LENGTH = 6.0
"""Correlation length of a misfit in ln N and ln D, as there."""


TYPICAL_MEAN = {"ln_E": -0.6, "ln_A": -1.55, "ln_B": -1.6, "alpha": 0.34, "beta": 0.325}
TYPICAL_SPREAD = {"ln_E": 0.3, "ln_A": 0.5, "ln_B": 0.5, "alpha": 0.1, "beta": 0.1}
"""Of fits with a misfit to seven tables (Quokka, Farseer, OpenLM's three corpora, Step Law,
datablations), floor and scales relative to the mean ln L at the runs' middle; the spreads are
twice those between the tables."""


@dataclass(frozen=True)
class Form:
    """One hypothesis.

    Attributes:
        name: as reasons and logs print it.
        law: its formula.
        share: prior probability, to a common factor.
        spread: prior spreads that replace the law's own, by coordinate; 0 holds one at its mean.
        mean: prior means that replace the law's own, by coordinate; those of a floor or a scale
            (a logarithm) relative to the runs' mean ln L.
        amplitude: of the smooth misfit, as a share of the reducible loss; 0 for none.
    """

    name: str
    law: Law
    share: float = 1.0
    spread: dict[str, float] = field(default_factory=dict)
    amplitude: float = 0.0
    mean: dict[str, float] = field(default_factory=dict)

    def prior(self, points: Points, log_loss: FloatArray) -> Prior:
        """Return the priors on theta, for centred points and their ln L."""
        own = self.law.prior(points, log_loss, weak=True)
        mean, spread = np.array(own.mean), np.array(own.spread, dtype=np.float64)
        for name, value in self.spread.items():
            spread[self.law.coordinates.index(name)] = value
        for name, value in self.mean.items():
            index = self.law.coordinates.index(name)
            relative = self.law.kinds[index] in ("floor", "scale")
            mean[index] = value + (float(np.mean(log_loss)) if relative else 0.0)
        return Prior(mean, spread)


_NONE = {"ln_kappa": 0.0, "gamma": 0.0, "lambda1": 0.0, "lambda2": 0.0}


def five_parameters() -> tuple[Form, ...]:
    """Return the five-parameter law alone."""
    return (Form("five parameters", get_law("super"), 1.0, _NONE),)


def standard() -> tuple[Form, ...]:
    """Return the forms of a search in N and D where a formula may be exact."""
    wide = get_law("super")
    coupled, drift = {"ln_kappa": LOG_KAPPA_SPREAD}, {"gamma": GAMMA_SPREAD}
    offsets = {"lambda1": OFFSET_SPREAD, "lambda2": OFFSET_SPREAD}
    return (
        Form("five parameters", wide, 0.4, _NONE),
        Form("coupled", wide, 0.12, _NONE | coupled, SMALL_MISFIT),
        Form("drifting exponent", wide, 0.12, _NONE | drift, SMALL_MISFIT),
        Form("offsets of small runs", wide, 0.12, _NONE | offsets, SMALL_MISFIT),
        Form("super-law", wide, 0.12, coupled | drift | offsets, SMALL_MISFIT),
        Form("misfit", wide, 0.12, _NONE, MISFIT),
    )


def trained() -> tuple[Form, ...]:
    """Return the forms of a search in N and D that trains models.

    Real runs have always shown a misfit, and their loss is bounded where a power law's is not.
    """
    shares = (0.25, 0.08, 0.08, 0.08, 0.08, 0.35)
    bounded = Form("bounded", get_law("bounded"), 0.3)
    return (
        *(replace(form, share=s) for form, s in zip(standard(), shares, strict=True)),
        bounded,
        replace(bounded, name="bounded, misfit", amplitude=MISFIT),
    )


def recorded() -> tuple[Form, ...]:
    """Return the forms of a pool of recorded runs: those of `trained`, with typical numbers."""
    *plain, bounded, other = trained()
    forms = [replace(f, mean=TYPICAL_MEAN, spread=TYPICAL_SPREAD | f.spread) for f in plain]
    large = replace(forms[-1], name="large misfit", share=0.08, amplitude=2 * MISFIT)
    return (*forms, large, bounded, other)


def with_misfit(law: Law) -> tuple[Form, ...]:
    """Return a law alone and with a smooth misfit, alike probable: for laws of repeated data."""
    return Form(law.name, law), Form("misfit", law, 1.0, {}, MISFIT)
