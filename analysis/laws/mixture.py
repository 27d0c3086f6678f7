"""How the loss depends on the mixture of texts that a run read, where mixtures vary.

ln L = law(N, D) + ... + sum_k c_k (x_k - b_k)^2,    x_k = ln (share_k / share_last)

Log ratios to the last part are the coordinates in which weights are searched: any values of theirs
are a mixture. Parts whose ratios follow from others' (weights that stay) have no term. The best
mixture is taken to be the same for all N and D.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.laws.base import FloatArray, Prior
from analysis.laws.bowls import Bowl
from analysis.laws.summed import Summed

PREFIX = "share_"
"""What columns of a run table begin with that hold the share of a part."""

_CURVATURE, _CURVATURE_SPREAD = 0.02, 1.0
"""Of c: a ratio off by a factor of 2 costs 1 % of the loss, known to a factor of e."""

_SMALLEST_SPREAD = 0.05
"""Standard deviation of a log ratio under which its effect is not fitted."""


@dataclass(frozen=True)
class Ratios:
    """The log ratios in which mixtures of some parts vary.

    Attributes:
        parts: names of the parts.
        kept: numbers of the parts whose log ratios are coordinates, K of them.
        offset: log ratio of each part where all coordinates are 0, [P].
        basis: what each part's log ratio gains with each coordinate, [P, K].
    """

    parts: tuple[str, ...]
    kept: tuple[int, ...]
    offset: FloatArray
    basis: FloatArray

    @staticmethod
    def of(runs: pd.DataFrame) -> "Ratios | None":
        """Return the ratios that vary in a run table; None where none do, or are unknown."""
        columns = [name for name in runs if str(name).startswith(PREFIX)]
        if len(columns) < 2 or len(runs) < 4:
            return None
        shares = runs[columns].to_numpy(dtype=np.float64)
        if not (np.isfinite(shares) & (shares > 0)).all():
            return None
        ratios = np.log(shares / shares[:, -1:])
        kept: list[int] = []
        for part in range(len(columns) - 1):
            known = np.column_stack([np.ones(len(runs)), ratios[:, kept]])
            rest = ratios[:, part] - known @ np.linalg.lstsq(known, ratios[:, part])[0]
            if float(np.std(rest)) >= _SMALLEST_SPREAD:
                kept.append(part)
        if not kept:
            return None
        known = np.column_stack([np.ones(len(runs)), ratios[:, kept]])
        found = np.linalg.lstsq(known, ratios)[0]
        names = tuple(str(name).removeprefix(PREFIX) for name in columns)
        return Ratios(names, tuple(kept), found[0], found[1:].T)

    def coordinates(self, shares: Mapping[str, ArrayLike] | pd.DataFrame) -> FloatArray:
        """Return the coordinates of mixtures, [K, R], given columns `share_<part>`."""
        logs = [
            np.log(np.atleast_1d(np.asarray(shares[PREFIX + part], dtype=np.float64)))
            for part in self.parts
        ]
        return np.stack([logs[part] - logs[-1] for part in self.kept])

    def shares(self, coordinates: FloatArray) -> FloatArray:
        """Return the shares of all parts, [..., P], of coordinates [..., K]."""
        ratios = np.exp(self.offset + coordinates @ self.basis.T)
        return ratios / ratios.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class MixtureDesign(Summed):
    """The rows of a fit as the response to mixtures sees them: a bowl for each coordinate.

    Theta is (ln c_k, b_k) for each k.

    Attributes:
        ratios: what varies.
        middle: middle of the runs' coordinates, which b is relative to, [K].
    """

    ratios: Ratios
    middle: FloatArray

    @staticmethod
    def of(runs: pd.DataFrame) -> "MixtureDesign | None":
        """Return the design of a run table; None where mixtures do not vary.

        The priors are weak: the best mixture is somewhere about those that were tried.
        """
        ratios = Ratios.of(runs)
        if ratios is None:
            return None
        found = ratios.coordinates(runs)
        middle = (found.min(axis=1) + found.max(axis=1)) / 2
        bowls = {}
        for part, centre, coordinate in zip(ratios.kept, middle, found, strict=True):
            off = coordinate - centre
            prior = Prior(
                np.array([np.log(_CURVATURE), 0.0]),
                np.array([_CURVATURE_SPREAD, max(float(np.abs(off).max()), 0.5)]),
            )
            ones = np.ones((1, len(off)))
            bowls[ratios.parts[part]] = Bowl(off, float(centre), ones, np.zeros(0), prior)
        return MixtureDesign(bowls, len(runs), ratios, middle)

    def carried(self, then: object, old: FloatArray) -> FloatArray | None:
        """Return theta of an earlier fit's design `then` in these coordinates, or None."""
        if not isinstance(then, MixtureDesign):
            return None
        if (self.ratios.parts, self.ratios.kept) != (then.ratios.parts, then.ratios.kept):
            return None
        values = old.copy()
        values[1::2] += then.middle - self.middle
        return values

    def fitted(self, theta: FloatArray, samples: FloatArray) -> "MixtureResponse":
        """Return what theta [2K] and its resamples [B, 2K] say."""
        return MixtureResponse(
            self.ratios,
            curvature=np.exp(theta[0::2]),
            best=theta[1::2] + self.middle,
            samples=samples[:, 1::2] + self.middle,
        )


@dataclass(frozen=True)
class MixtureResponse:
    """The fitted response to mixtures.

    Attributes:
        ratios: what varied.
        curvature: c, [K].
        best: coordinates of the best mixture, [K].
        samples: resamples of them, [B, K].
    """

    ratios: Ratios
    curvature: FloatArray
    best: FloatArray
    samples: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))

    def penalty(self, shares: Mapping[str, ArrayLike] | pd.DataFrame) -> FloatArray:
        """Return by how much ln L lies above that of the best mixture, [R].

        Args:
            shares: columns `share_<part>` for all parts.
        """
        distance = self.ratios.coordinates(shares) - self.best[:, None]
        result: FloatArray = (self.curvature[:, None] * distance**2).sum(axis=0)
        return result

    def shares(self) -> dict[str, tuple[float, float | None, float | None]]:
        """Return each part's best share with its 90 % interval, where there are resamples."""
        value = self.ratios.shares(self.best)
        low = high = [None] * len(value)
        if len(self.samples):
            drawn = self.ratios.shares(self.samples)
            low, high = np.percentile(drawn, [5, 95], axis=0).tolist()
        return {
            part: (float(value[number]), low[number], high[number])
            for number, part in enumerate(self.ratios.parts)
        }

    def shares_document(self) -> dict[str, dict[str, float | None]]:
        """Return each part's best share as value, low and high."""
        return {
            part: {"value": value, "low": low, "high": high}
            for part, (value, low, high) in self.shares().items()
        }

    def document(self) -> dict[str, Any]:
        """Return what a law file says of it."""
        return {
            "shares": self.shares_document(),
            "coordinates": [self.ratios.parts[number] for number in self.ratios.kept],
            "curvature": self.curvature.tolist(),
            "best": self.best.tolist(),
            "offset": self.ratios.offset.tolist(),
            "basis": self.ratios.basis.tolist(),
        }

    @staticmethod
    def read(stored: Mapping[str, Any]) -> "MixtureResponse":
        """Return what `document` wrote, without resamples."""
        parts: Sequence[str] = list(stored["shares"])
        ratios = Ratios(
            tuple(parts),
            tuple(parts.index(name) for name in stored["coordinates"]),
            np.array(stored["offset"], dtype=np.float64),
            np.array(stored["basis"], dtype=np.float64),
        )
        return MixtureResponse(
            ratios,
            np.array(stored["curvature"], dtype=np.float64),
            np.array(stored["best"], dtype=np.float64),
        )
