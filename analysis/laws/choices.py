"""A dimension of the recipe that is a choice of names: each but one has an offset of ln L.

ln L = ... + offset[name] . z,    z = (1, further regressors such as ln N/N0 and ln D/D0)

With further regressors one choice may be best for small runs and another for large ones. Then the
law is stated for the first name, which has no offset, so that it stays a law of its form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from analysis.laws.base import Derivatives, FloatArray, Prior

FARTHEST = 1.0


@dataclass(frozen=True)
class Choices:
    """The rows of a fit as one choice sees them; theta is K numbers for each name but the first.

    Attributes:
        names: what was chosen from; the first one has no offset.
        index: number of each row's name, [R].
        basis: z of each row, the first of them 1, [K, R].
        reference: logarithms at which the further regressors are 0, [K - 1].
        spread: prior standard deviation of each of the K numbers, [K].
    """

    names: tuple[str, ...]
    index: np.ndarray
    basis: FloatArray
    reference: FloatArray
    spread: FloatArray

    @property
    def size(self) -> int:
        """Number of parameters."""
        return max(len(self.names) - 1, 0) * len(self.basis)

    def prior(self) -> Prior:
        """Return the priors in the order of the parameters."""
        return Prior(np.zeros(self.size), np.tile(self.spread, max(len(self.names) - 1, 0)))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box that the fit stays in."""
        return np.full(self.size, -FARTHEST), np.full(self.size, FARTHEST)

    def derivatives(self, theta: FloatArray) -> Derivatives:
        """Return the log loss and derivatives for theta [B, (names - 1) K]."""
        batch, (width, rows) = len(theta), self.basis.shape
        value = np.zeros((batch, rows))
        gradient = np.zeros((batch, self.size, rows))
        for number in range(1, len(self.names)):
            own = slice((number - 1) * width, number * width)
            basis = self.basis * (self.index == number)
            value += theta[:, own] @ basis
            gradient[:, own] = basis

        def curvature(weights: FloatArray) -> FloatArray:
            return np.zeros((len(weights), self.size, self.size))

        return Derivatives(value, gradient, curvature)

    def table(self, theta: FloatArray) -> FloatArray:
        """Return theta [..., (names - 1) K] by name, [..., names, K]; zeros for the first."""
        count, width = len(self.names), len(self.basis)
        rest = theta.reshape(*theta.shape[:-1], max(count - 1, 0), width)
        return np.concatenate([np.zeros((*theta.shape[:-1], min(count, 1), width)), rest], axis=-2)

    def carried(self, then: "Choices", old: FloatArray) -> tuple[FloatArray, float]:
        """Return theta of an earlier fit's choice `then` in these coordinates.

        Returns:
            Theta, of names that were not known then their priors' means; and what the law's
            ln L gains, since another name may be the first now.
        """
        theta = np.zeros(self.size)
        if not self.names or len(then.basis) != len(self.basis):
            return theta, 0.0
        offsets = dict(zip(then.names, then.table(old), strict=True))
        moved = np.concatenate([[0.0], np.subtract(self.reference, then.reference)])
        for offset in offsets.values():
            offset[0] += offset @ moved
        first = offsets.get(self.names[0], np.zeros(len(self.basis)))
        for number, name in enumerate(self.names[1:]):
            if name in offsets:
                own = slice(number * len(first), (number + 1) * len(first))
                theta[own] = offsets[name] - first
        return theta, float(first[0])


@dataclass(frozen=True)
class ChoiceResponse:
    """A fitted choice whose offsets move with N and D.

    Attributes:
        names: what was chosen from; the law is stated for the first.
        offsets: of ln L: at (N0, D0), and with ln N and ln D, [names, 3].
        reference: N0 and D0.
        samples: resamples of the offsets, [B, names, 3].
    """

    names: tuple[str, ...]
    offsets: FloatArray
    reference: tuple[float, float]
    samples: FloatArray = field(default_factory=lambda: np.zeros((0, 0, 3)))

    def at(self, params: float, tokens: float) -> dict[str, float]:
        """Return each name's offset from the law's ln L at N and D."""
        there = self.offsets @ self._basis(params, tokens)
        return dict(zip(self.names, there.tolist(), strict=True))

    def standing(self, params: float, tokens: float) -> dict[str, dict[str, float | None]]:
        """Return by how much each name's ln L lies above the recommended one's at N and D.

        Recommended, and first here, is the name with the lowest loss; but the one that the law
        is stated for as long as the 90 % interval of what it loses there holds 0. Each is a value
        with its interval, where there are resamples.
        """
        there, basis = self.at(params, tokens), self._basis(params, tokens)
        drawn = self.samples @ basis if len(self.samples) else np.zeros((0, len(there)))
        chosen = min(there, key=there.__getitem__)
        stated = self._beyond(there, drawn, self.names[0], chosen)
        if chosen != self.names[0] and stated["low"] is not None and stated["low"] <= 0:
            chosen = self.names[0]
        order = sorted(there, key=lambda name: (name != chosen, there[name]))
        return {name: self._beyond(there, drawn, name, chosen) for name in order}

    def _beyond(
        self, there: Mapping[str, float], drawn: FloatArray, name: str, other: str
    ) -> dict[str, float | None]:
        """Return by how much a name's ln L lies above another's, with its 90 % interval."""
        low = high = None
        if len(drawn):
            apart = drawn[:, self.names.index(name)] - drawn[:, self.names.index(other)]
            low, high = np.percentile(apart, [5, 95]).tolist()
        return {"value": there[name] - there[other], "low": low, "high": high}

    def penalty(self, params: ArrayLike, tokens: ArrayLike, names: ArrayLike) -> FloatArray:
        """Return by how much ln L lies above the law's; a name never seen counts as the first.

        Below 0 where another choice than the law's is better.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        look = np.vectorize(lambda name: numbers.get(str(name), 0), otypes=[np.intp])
        offsets = self.offsets[look(np.asarray(names, dtype=object))]
        result: FloatArray = (offsets * np.moveaxis(self._basis(params, tokens), 0, -1)).sum(-1)
        return result

    def _basis(self, params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        n, d = np.broadcast_arrays(
            np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        )
        x, z = np.log(n / self.reference[0]), np.log(d / self.reference[1])
        return np.stack([np.ones_like(x), x, z])

    def document(self) -> dict[str, Any]:
        """Return what a law file says of it."""
        return {
            "names": list(self.names),
            "offsets": self.offsets.tolist(),
            "reference_params": self.reference[0],
            "reference_tokens": self.reference[1],
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any], samples: FloatArray) -> Self:
        """Return what `document` wrote, with its resamples."""
        names: Sequence[str] = stored["names"]
        return cls(
            tuple(str(name) for name in names),
            np.array(stored["offsets"], dtype=np.float64),
            (float(stored["reference_params"]), float(stored["reference_tokens"])),
            samples,
        )
