"""Terms of the response to a recipe, added up: what a fit sees of all its dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np

from analysis.laws.base import Derivatives, FloatArray, Prior


class Term(Protocol):
    """One dimension's part of ln L, with parameters of its own."""

    @property
    def size(self) -> int:
        """Number of parameters."""

    def prior(self) -> Prior:
        """Return the priors in the order of the parameters."""

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box that the fit stays in."""

    def derivatives(self, theta: FloatArray) -> Derivatives:
        """Return the log loss and derivatives for theta [B, size]."""


@dataclass(frozen=True)
class Summed:
    """Terms by name, in the order of their parameters; itself a term.

    Attributes:
        terms: the terms.
        rows: number of rows, R.
    """

    terms: Mapping[str, Term]
    rows: int
    places: dict[str, slice] = field(init=False)
    """Where each term's parameters stand."""

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(term.size for term in self.terms.values())]).tolist()
        places = [slice(first, last) for first, last in pairwise(ends)]
        object.__setattr__(self, "places", dict(zip(self.terms, places, strict=True)))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(term.size for term in self.terms.values())

    def prior(self) -> Prior:
        """Return the priors in the order of the parameters."""
        priors = [term.prior() for term in self.terms.values()]
        return Prior(
            np.concatenate([np.zeros(0), *(prior.mean for prior in priors)]),
            np.concatenate([np.zeros(0), *(prior.spread for prior in priors)]),
        )

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box that the fit stays in."""
        boxes = [term.bounds() for term in self.terms.values()]
        return (
            np.concatenate([np.zeros(0), *(low for low, _ in boxes)]),
            np.concatenate([np.zeros(0), *(high for _, high in boxes)]),
        )

    def derivatives(self, theta: FloatArray) -> Derivatives:
        """Return the log loss and derivatives for theta [B, Q]."""
        batch = len(theta)
        value = np.zeros((batch, self.rows))
        gradient = np.zeros((batch, self.size, self.rows))
        found = []
        for name, place in self.places.items():
            own = self.terms[name].derivatives(theta[:, place])
            value += own.value
            gradient[:, place] = own.gradient
            found.append((place, own.curvature))

        def curvature(weights: FloatArray) -> FloatArray:
            result = np.zeros((batch, self.size, self.size))
            for place, own in found:
                result[:, place, place] = own(weights)
            return result

        return Derivatives(value, gradient, curvature)
