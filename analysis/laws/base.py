"""What every law offers to the fitter, the allocation and the design: one small interface.

A law is a formula without numbers. Its numbers are an array `theta`, in coordinates in which the
fit is well conditioned (logarithms of scale factors, exponents as they are), so that every
function here works on one law, shape [P], or on a batch of bootstrapped laws, shape [B, P].
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Where a law is evaluated: natural logarithms, each of shape [R]."""

    log_params: FloatArray
    log_tokens: FloatArray
    log_unique: FloatArray | None = None

    @classmethod
    def of(cls, params: ArrayLike, tokens: ArrayLike, unique: ArrayLike | None = None) -> Self:
        """Return the points at these counts, broadcast against each other and flattened."""
        n, d = np.broadcast_arrays(
            np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        )
        u = None if unique is None else np.log(np.broadcast_to(unique, n.shape)).ravel()
        return cls(np.log(n).ravel(), np.log(d).ravel(), u)

    def shifted(self, log_params: float, log_tokens: float) -> "Points":
        """Return the points with these amounts subtracted from ln N and from ln D.

        ln U falls with ln D, so that epochs stay what they are.
        """
        unique = None if self.log_unique is None else self.log_unique - log_tokens
        return Points(self.log_params - log_params, self.log_tokens - log_tokens, unique)


class Derivatives(NamedTuple):
    """A function of theta at R points, for B parameter vectors."""

    value: FloatArray
    """[B, R]"""
    gradient: FloatArray
    """[B, P, R]"""
    curvature: Callable[[FloatArray], FloatArray]
    """Weights [B, R] to the sum over rows of weight times second derivative, [B, P, P]."""


def no_curvature(weights: FloatArray, size: int) -> FloatArray:
    """Return the second-derivative term of a law that gives none, zeros [B, P, P]."""
    return np.zeros((weights.shape[0], size, size))


class Prior(NamedTuple):
    """Independent normal priors on theta; an infinite spread is no prior."""

    mean: FloatArray
    spread: FloatArray


class Law(ABC):
    """A formula of the loss, in logarithms. Instances hold no fitted numbers and may be shared.

    A new law gives its names, `log_loss`, `derivatives`, `centring`, `bounds`, `starts` and
    `prior`; the rest follows. Coordinates called `ln_X` are logarithms of the parameter X.
    """

    name: ClassVar[str]
    parameters: ClassVar[tuple[str, ...]]
    """Names as they are printed, such as `A`."""
    coordinates: ClassVar[tuple[str, ...]]
    """Names of theta's entries, in the same order, such as `ln_A`."""
    kinds: ClassVar[tuple[str, ...]]
    """What each parameter is: `floor`, `scale`, `exponent` or `shape`; it decides how narrow an
    interval must be for the parameter to count as identified."""
    needs_unique: ClassVar[bool] = False
    """Whether the formula reads `Points.log_unique`."""

    @abstractmethod
    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        """Return ln L, shape [..., R], for theta of shape [..., P]."""

    @abstractmethod
    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        """Return ln L with its derivatives with respect to theta, shape [B, P].

        A law may leave the curvature at `no_curvature`: the fit is then Gauss-Newton's.
        """

    @abstractmethod
    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        """Return T [P, P] with theta = T @ centred: centred belongs to points shifted by these."""

    @abstractmethod
    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the box of centred coordinates that the fit stays in, each [P]."""

    @abstractmethod
    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        """Return starting points [S, P] of the fit, from a search of the whole space.

        Args:
            points: centred points.
            log_loss: observed ln L, [R].
        """

    def regrid(
        self, points: Points, log_loss: FloatArray, weights: FloatArray, *, most: int = 8
    ) -> FloatArray | None:
        """Return starts from a grid between the cells of the first, for weighted rows.

        Args:
            points: centred points.
            log_loss: observed ln L, [R].
            weights: of the rows, for several fits, [B, R].
            most: starts for each fit.

        Returns:
            Starts [B, S, P], best first, or None for a law without such a grid.
        """
        del points, log_loss, weights, most
        return None

    @abstractmethod
    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        """Return priors on the centred coordinates.

        Args:
            points: centred points.
            log_loss: observed ln L, [R].
            weak: include what published laws say, for small tables; otherwise only the priors
                without which the formula has no unique fit, and infinite spreads elsewhere.
        """

    def scale_direction(self) -> FloatArray:
        """Return v [P] such that theta + t v is the law of the loss times exp(t).

        The default raises every floor and scale, which is right for a sum of power laws.
        """
        return np.array([1.0 if kind in ("floor", "scale") else 0.0 for kind in self.kinds])

    def located(self, log_params: float, log_tokens: float) -> "Law":
        """Return the law stated about this centre; a formula that is free of one is itself."""
        del log_params, log_tokens
        return self

    def settings(self) -> dict[str, Any]:
        """Return what, besides its name, rebuilds this law from a law file; plain values."""
        return {}

    def with_settings(self, settings: Mapping[str, Any]) -> "Law":
        """Return the law that `settings` of a law file describe."""
        del settings
        return self

    def natural(self, theta: FloatArray) -> FloatArray:
        """Return the printed parameters, [..., P]."""
        theta = np.asarray(theta, dtype=np.float64)
        return np.where(self._logarithmic, np.exp(np.where(self._logarithmic, theta, 0.0)), theta)

    def theta(self, natural: FloatArray) -> FloatArray:
        """Return the coordinates of printed parameters, [..., P]."""
        natural = np.asarray(natural, dtype=np.float64)
        return np.where(
            self._logarithmic, np.log(np.where(self._logarithmic, natural, 1.0)), natural
        )

    @property
    def _logarithmic(self) -> NDArray[np.bool_]:
        return np.array([name.startswith("ln_") for name in self.coordinates])

    def clip(self, theta: FloatArray) -> FloatArray:
        """Return theta, [..., P], with values that the formula cannot have moved to its edge."""
        return theta

    def optimum(
        self, theta: FloatArray, flops: ArrayLike, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return ln N and ln D that minimise the loss where 6 N D is `flops`.

        Theta [..., P] and `flops` broadcast: [B, P] with a scalar gives [B]. The default
        searches the whole line, so it finds the lower of two minima.

        Args:
            theta: coordinates.
            flops: the budget.
            log_unique: ln U, for laws of repeated data; unset: all tokens are new.
        """
        from analysis.laws.search import lowest_on_budget

        return lowest_on_budget(self, theta, flops, log_unique)

    def optimum_gradient(
        self, theta: FloatArray, flops: float, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the gradients of ln N_opt and of ln L_opt with respect to theta, each [P]."""
        from analysis.laws.search import budget_gradients

        return budget_gradients(self, theta, flops, log_unique)

    def gradient(self, theta: FloatArray, points: Points) -> FloatArray:
        """Return the gradient of ln L with respect to one theta [P] at each point, [R, P]."""
        return self.derivatives(np.atleast_2d(theta), points).gradient[0].T

    def describe(self, theta: FloatArray) -> str:
        """Return the formula with its numbers, on one line."""
        pairs = zip(self.parameters, self.natural(theta), strict=True)
        return ", ".join(f"{name} = {value:.4g}" for name, value in pairs)

    def latex(self) -> str:
        """Return the formula without numbers, for a report."""
        return r"\text{" + self.name.replace("_", r"\_") + "}"


_LAWS: dict[str, Law] = {}


def register_law(law: Law) -> Law:
    """Make `law` known by its name to `fit_law` and to law files; return it."""
    _LAWS[law.name] = law
    return law


def load_laws() -> None:
    """Import every module of `analysis.laws`: each registers its laws."""
    import analysis.laws

    for module in pkgutil.iter_modules(analysis.laws.__path__):
        importlib.import_module(f"analysis.laws.{module.name}")


def law_names() -> list[str]:
    """Return the names of all registered laws."""
    load_laws()
    return sorted(_LAWS)


def get_law(name: str) -> Law:
    """Return the law called `name`.

    Raises:
        KeyError: there is none; the message lists the known ones.
    """
    load_laws()

    if name not in _LAWS:
        raise KeyError(f"no law is called {name!r}; known: {', '.join(sorted(_LAWS))}")
    return _LAWS[name]


def as_dict(law: Law, theta: FloatArray) -> dict[str, Any]:
    """Return the printed parameters by name."""
    return dict(zip(law.parameters, (float(v) for v in law.natural(theta)), strict=True))
