"""How a run that was not tuned differs from the law: the response to learning rate and schedule.

ln L = law(N, D) + c (ln lr - ln lr_opt(N, D))^2 + offset[lr_schedule]
ln lr_opt = l0 + l_N ln(N / N0) + l_D ln(D / D0)

N0 and D0 are the geometric means of the runs. Fitted together with the law, it lets runs of
unequal learning rates be compared without any of them being wasted, and says which rate to use.
Where runs read different mixtures of texts, terms of `mixture.py` join.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.laws.base import Derivatives, FloatArray, Prior
from analysis.laws.mixture import MixtureDesign, MixtureResponse


@dataclass(frozen=True)
class ResponsePrior:
    """Weak normal priors, so that a handful of runs already gives a usable learning rate."""

    curvature: float = 0.02
    """c: about 1 % of the loss for a learning rate off by a factor of 2, 4 % for 4. Between what
    tiny models showed here and the released Step Law runs; known to a factor of e."""
    curvature_spread: float = 1.0
    """Of ln c: positive whatever the data say, and free by a factor of 3 either way."""
    centre_spread: float = 0.7
    """Of l0: the stated learning rate is trusted to a factor of 2."""
    slope_params: float = 0.0
    slope_tokens: float = 0.0
    slope_spread: float = 0.15
    """Of l_N and l_D. Published slopes scatter from -.7 to 0 and 0 to .4; without data, none."""
    offset_spread: float = 0.03
    """Of a schedule's offset: schedules end within a few per cent of each other."""


@dataclass(frozen=True)
class ResponseDesign:
    """The rows of a joint fit as the response sees them.

    Attributes:
        log_lr: ln of the learning rate less the prior's centre, [R]; None: not fitted.
        basis: (1, ln N/N0, ln D/D0) for each row, [3, R].
        schedule: index of each row's schedule, [R]; 0 is the reference, which has no offset.
        schedules: their names.
        mixture: how the rows' mixtures differ; None: they do not.
    """

    log_lr: FloatArray | None
    basis: FloatArray
    schedule: np.ndarray
    schedules: tuple[str, ...]
    mixture: MixtureDesign | None = None

    @property
    def first_offset(self) -> int:
        """Number of the first schedule's offset among the parameters."""
        return 0 if self.log_lr is None else 4

    @property
    def first_mixture(self) -> int:
        """Number of the mixture's first parameter."""
        return self.first_offset + max(len(self.schedules) - 1, 0)

    @property
    def size(self) -> int:
        """Number of parameters: (ln c, l0, l_N, l_D), an offset for each other schedule, and the
        mixture's."""
        return self.first_mixture + (0 if self.mixture is None else self.mixture.size)

    def prior(self, settings: ResponsePrior) -> Prior:
        """Return the priors in the order of the parameters; l0 is relative to its prior centre."""
        mean: list[float] = []
        spread: list[float] = []
        if self.log_lr is not None:
            mean += [np.log(settings.curvature), 0.0, settings.slope_params, settings.slope_tokens]
            spread += [settings.curvature_spread, settings.centre_spread]
            spread += [settings.slope_spread] * 2
        offsets = max(len(self.schedules) - 1, 0)
        mean += [0.0] * offsets
        spread += [settings.offset_spread] * offsets
        if self.mixture is not None:
            more = self.mixture.prior()
            mean, spread = [*mean, *more.mean], [*spread, *more.spread]
        return Prior(np.array(mean), np.array(spread))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Return the box that the fit stays in."""
        offsets = max(len(self.schedules) - 1, 0)
        low = [] if self.log_lr is None else [np.log(1e-5), -6.0, -2.0, -2.0]
        high = [] if self.log_lr is None else [np.log(3.0), 6.0, 2.0, 2.0]
        low, high = low + [-1.0] * offsets, high + [1.0] * offsets
        if self.mixture is not None:
            more_low, more_high = self.mixture.bounds()
            low, high = [*low, *more_low], [*high, *more_high]
        return np.array(low), np.array(high)

    def derivatives(self, theta: FloatArray) -> Derivatives:
        """Return the response's log loss and derivatives for theta [B, Q]."""
        batch, rows = theta.shape[0], self.basis.shape[1]
        value = np.zeros((batch, rows))
        gradient = np.zeros((batch, self.size, rows))
        first_offset = self.first_offset
        if self.log_lr is not None:
            c = np.exp(theta[:, 0:1])
            off = self.log_lr - theta[:, 1:4] @ self.basis
            value += c * off * off
            gradient[:, 0] = value
            gradient[:, 1:4] = (-2.0 * c * off)[:, None, :] * self.basis
        for index in range(1, len(self.schedules)):
            mask = (self.schedule == index).astype(np.float64)
            value += theta[:, first_offset + index - 1, None] * mask
            gradient[:, first_offset + index - 1] = mask
        mixed = None
        if self.mixture is not None:
            mixed = self.mixture.derivatives(theta[:, self.first_mixture :])
            value += mixed.value
            gradient[:, self.first_mixture :] = mixed.gradient

        def curvature(weights: FloatArray) -> FloatArray:
            result = np.zeros((batch, self.size, self.size))
            if mixed is not None:
                place = self.first_mixture
                result[:, place:, place:] = mixed.curvature(weights)
            if self.log_lr is None:
                return result
            result[:, 0, 0] = (weights * c * off * off).sum(axis=-1)
            cross = (-2.0 * weights * c * off) @ self.basis.T
            result[:, 0, 1:4] = cross
            result[:, 1:4, 0] = cross
            weighted = (2.0 * weights * c)[:, None, :] * self.basis
            result[:, 1:4, 1:4] = weighted @ self.basis.T
            return result

        return Derivatives(value, gradient, curvature)


@dataclass(frozen=True)
class Response:
    """The fitted response. Where the learning rate was not fitted, the law is taken as it is.

    Attributes:
        lr_fitted: whether the runs' learning rates varied enough to be fitted.
        curvature: c.
        log_lr: l0, ln of the best learning rate at (N0, D0); NaN where nothing is known.
        slope_params, slope_tokens: l_N and l_D.
        reference_params, reference_tokens: N0 and D0.
        offsets: of ln L by schedule, relative to the best one, which has 0.
        samples: bootstrap of (ln c, l0, l_N, l_D), [B, 4]; empty where not fitted.
        offset_samples: bootstrap of the offsets, [B, schedules].
        mixture: the response to mixtures of texts; None: they did not vary.
    """

    lr_fitted: bool = False
    curvature: float = 0.0
    log_lr: float = float("nan")
    slope_params: float = 0.0
    slope_tokens: float = 0.0
    reference_params: float = 1.0
    reference_tokens: float = 1.0
    offsets: dict[str, float] = field(default_factory=dict)
    samples: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    offset_samples: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    mixture: MixtureResponse | None = None

    @property
    def fitted(self) -> bool:
        """Whether there is anything that runs can be untuned in."""
        return self.lr_fitted or bool(self.offsets) or self.mixture is not None

    @property
    def best_schedule(self) -> str | None:
        """The learning-rate schedule with the lowest loss; None where none is named."""
        return min(self.offsets, key=self.offsets.__getitem__) if self.offsets else None

    def _basis(self, params: ArrayLike, tokens: ArrayLike) -> tuple[FloatArray, FloatArray]:
        x = np.log(np.asarray(params, dtype=np.float64) / self.reference_params)
        z = np.log(np.asarray(tokens, dtype=np.float64) / self.reference_tokens)
        return x, z

    def lr_optimum(self, params: ArrayLike, tokens: ArrayLike) -> FloatArray:
        """Return the best learning rate at N and D; NaN where no learning rate is known."""
        x, z = self._basis(params, tokens)
        return np.exp(self.log_lr + self.slope_params * x + self.slope_tokens * z)

    def lr_samples(self, params: float, tokens: float) -> FloatArray:
        """Return the bootstrap of the best learning rate at one point, [B]."""
        x, z = self._basis(params, tokens)
        return np.exp(self.samples[:, 1] + self.samples[:, 2] * x + self.samples[:, 3] * z)

    def penalty(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        lr: ArrayLike,
        lr_schedule: str | ArrayLike | None = None,
        shares: Mapping[str, ArrayLike] | pd.DataFrame | None = None,
    ) -> FloatArray:
        """Return by how much ln L lies above the law's, at least 0.

        A schedule that was never seen counts as the best one, and so does a mixture that is not
        told: `shares` has the columns `share_<part>`.
        """
        result = np.zeros(np.broadcast_shapes(np.shape(params), np.shape(tokens), np.shape(lr)))
        if self.lr_fitted:
            distance = np.log(np.asarray(lr, dtype=np.float64) / self.lr_optimum(params, tokens))
            result = result + self.curvature * distance**2
        if lr_schedule is not None and self.offsets:
            names = np.asarray(lr_schedule, dtype=object)
            offset = np.vectorize(lambda name: self.offsets.get(str(name), 0.0), otypes=[float])
            result = result + offset(names)
        if self.mixture is not None and shares is not None:
            result = result + self.mixture.penalty(shares)
        return result
