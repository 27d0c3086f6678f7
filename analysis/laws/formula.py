"""A law of one's own, from a formula: `E + A/N**alpha + B/D**beta` and all that follows.

    register_formula("mine", "E + (A/N**(alpha/beta) + B/D)**beta")
    fit_law(runs, law="mine")

Every name but N, D, U and e (= D / U) is a parameter, positive unless it is named in `real`.
Gradients and second derivatives come from SymPy, which the extra `formula` installs; the text is
never run (`analysis.formulas.text`).

N is counted in units of the runs' geometric mean N0, and D and U in units of D0, so that an
unknown formula is as well conditioned as it can be: a fitted A is the term's size at N0. The law
file keeps both units, and `describe` names them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from analysis.fitting.newton import minimise
from analysis.formulas.code import compiled, expression, sympy_module
from analysis.formulas.text import VARIABLES, Formula, FormulaError, read_formula
from analysis.laws.base import (
    Derivatives,
    FloatArray,
    Law,
    Points,
    Prior,
    get_law,
    law_names,
    register_law,
)
from analysis.units import format_quantity

_EXAMPLE = "E + A/N**alpha + B/D**beta"

_BOXES = {
    "floor": ((-12.0, 1.0), (-1.5, 0.0)),
    "scale": ((-12.0, 8.0), (-4.0, 1.0)),
    "exponent": ((np.log(0.01), np.log(5.0)), (np.log(0.05), np.log(1.2))),
    "shape": ((np.log(1e-3), np.log(1e3)), (np.log(0.1), np.log(10.0))),
}
"""Of ln p: the box that a fit stays in and the one that it starts in; floors and scales are
relative to the mean log loss, for N and D are about 1 at the middle of the runs."""

_REAL_BOX = ((-20.0, 20.0), (-2.0, 2.0))
_DRAWS = 2048
_POLISHED = 48
_RETURNED = 8
_ROWS = 300
_ABSURD = 50.0
"""Stands for the log loss where a formula has no positive value, so that no fit goes there."""


class FormulaLaw(Law):
    """ln L = ln(formula). Coordinates: ln p of positive parameters, p itself of real ones."""

    name: ClassVar[str] = "formula"

    def __init__(
        self,
        name: str,
        text: str,
        *,
        real: Sequence[str] = (),
        bounds: Mapping[str, tuple[float, float]] | None = None,
        units: tuple[float, float] | None = None,
    ) -> None:
        """Read a formula.

        Args:
            name: what the law is called.
            text: the formula.
            real: parameters that may be negative.
            bounds: of parameters, in the units that the fit uses (module docstring).
            units: ln N0 and ln D0; unset: those of the points that the law is given.

        Raises:
            FormulaError: the text is no formula, or `real` or `bounds` do not fit it.
        """
        self.formula: Formula = read_formula(text)
        self.label = name
        self.real = tuple(real)
        self.limits = {k: (float(v[0]), float(v[1])) for k, v in (bounds or {}).items()}
        self.units = units
        unknown = (set(self.real) | set(self.limits)) - set(self.formula.parameters)
        if unknown:
            raise FormulaError(
                f"{', '.join(sorted(unknown))} is no parameter of {self.formula.text}"
            )
        for parameter, (low, high) in self.limits.items():
            if not (np.isfinite([low, high]).all() and low < high):
                raise FormulaError(f"the bounds of {parameter} must be two rising numbers")
            if low <= 0 and parameter not in self.real:
                raise FormulaError(
                    f"{parameter} is positive; bound it above 0, or name it in `real`"
                )
        parameters = self.formula.parameters
        # The interface has these as class variables; here every instance has its own.
        vars(self).update(
            # A located law is rebuilt from a law file by its settings, under the common name.
            name=name if units is None else "formula",
            parameters=parameters,
            coordinates=tuple(p if p in self.real else f"ln_{p}" for p in parameters),
            kinds=self.formula.kinds,
            needs_unique=bool({"U", "e"} & set(self.formula.variables)),
        )

    def _evaluate(
        self, theta: FloatArray, points: Points, order: int
    ) -> tuple[FloatArray, list[FloatArray], list[FloatArray]]:
        """Return ln L [..., R], its gradient's and its Hessian's rows, up to `order`.

        A formula that is not positive somewhere has an absurd loss there, and no slope.
        """
        theta = np.asarray(theta, dtype=np.float64)
        here = points.shifted(*(self.units or (0.0, 0.0)))
        unique = here.log_tokens if here.log_unique is None else here.log_unique
        with np.errstate(over="ignore"):
            counts = {
                "N": np.exp(here.log_params),
                "D": np.exp(here.log_tokens),
                "U": np.exp(unique),
                "e": np.exp(here.log_tokens - unique),
            }
        arguments = [theta[..., i : i + 1] for i in range(theta.shape[-1])]
        function = compiled(self.formula.text, self.real)[order]
        with np.errstate(all="ignore"):
            outputs = function(*arguments, *(counts[v] for v in VARIABLES))
        shape = np.broadcast_shapes(theta[..., :1].shape, here.log_params.shape)
        value, *rest = (np.broadcast_to(np.asarray(v, dtype=np.float64), shape) for v in outputs)
        sound = np.isfinite(value) & (value > 0.0)
        safe = np.where(sound, value, 1.0)
        relative = [np.where(sound & np.isfinite(v), v, 0.0) / safe for v in rest]
        size = theta.shape[-1]
        return np.where(sound, np.log(safe), _ABSURD), relative[:size], relative[size:]

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        return self._evaluate(theta, points, 0)[0]

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        value, slopes, bends = self._evaluate(np.atleast_2d(theta), points, 2)
        gradient = np.stack(slopes, axis=-2)
        size = gradient.shape[-2]
        upper = np.triu_indices(size)

        def curvature(weights: FloatArray) -> FloatArray:
            # (ln F)_ij = F_ij / F - F_i F_j / F^2.
            result = -np.matmul(gradient * weights[:, None, :], gradient.swapaxes(-1, -2))
            for i, j, bend in zip(*upper, bends, strict=True):
                total = (weights * bend).sum(axis=-1)
                result[:, i, j] += total
                if i != j:
                    result[:, j, i] += total
            return result

        return Derivatives(value, gradient, curvature)

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        del log_params, log_tokens
        return np.eye(len(self.parameters))

    def located(self, log_params: float, log_tokens: float) -> "FormulaLaw":
        units = (float(log_params), float(log_tokens))
        return FormulaLaw(
            self.label, self.formula.text, real=self.real, bounds=self.limits, units=units
        )

    def settings(self) -> dict[str, Any]:
        x0, z0 = self.units or (0.0, 0.0)
        return {
            "name": self.label,
            "formula": self.formula.text,
            "real": list(self.real),
            "bounds": {k: list(v) for k, v in self.limits.items()},
            "log_params": x0,
            "log_tokens": z0,
        }

    def with_settings(self, settings: Mapping[str, Any]) -> "FormulaLaw":
        if not settings:
            return self
        return FormulaLaw(
            str(settings["name"]),
            settings["formula"],
            real=[str(name) for name in settings["real"]],
            bounds={str(k): (float(v[0]), float(v[1])) for k, v in settings["bounds"].items()},
            units=(float(settings["log_params"]), float(settings["log_tokens"])),
        )

    def _boxes(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the box of fits and the box of starts, each [P, 2]."""
        level = float(np.mean(log_loss))
        fits, starts = [], []
        for parameter, kind in zip(self.parameters, self.kinds, strict=True):
            fit, start = (np.array(box) for box in _BOXES[kind])
            if kind in ("floor", "scale"):
                fit, start = fit + level, start + level
            if parameter in self.real:
                fit, start = (np.array(box) for box in _REAL_BOX)
                if kind in ("floor", "scale"):
                    fit, start = (box * np.exp(level) for box in (fit, start))
            if parameter in self.limits:
                given = np.array(self.limits[parameter])
                fit = given if parameter in self.real else np.log(given)
                start = np.clip(start, *fit)
                start = fit if np.ptp(start) <= 0 else start
            fits.append(fit)
            starts.append(start)
        return np.array(fits), np.array(starts)

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        fits = self._boxes(log_loss)[0]
        return fits[:, 0], fits[:, 1]

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        """Return the best of a scrambled Sobol sequence, polished; the same at every call."""
        box = self._boxes(log_loss)[1]
        rng = np.random.default_rng(0)
        rows = np.arange(log_loss.size)
        if rows.size > _ROWS:
            rows = np.sort(rng.choice(rows, _ROWS, replace=False))
        unique = None if points.log_unique is None else points.log_unique[rows]
        some = Points(points.log_params[rows], points.log_tokens[rows], unique)
        observed = log_loss[rows]
        from scipy.stats import qmc  # half a second that other laws need not wait

        drawn = qmc.Sobol(len(box), scramble=True, seed=rng).random(_DRAWS)
        candidates = box[:, 0] + drawn * (box[:, 1] - box[:, 0])
        error = np.abs(observed - self.log_loss(candidates, some)).mean(axis=1)
        best = candidates[np.argsort(error, kind="stable")[:_POLISHED]]
        for delta in (0.1, 0.02):
            found = minimise(
                lambda theta: self.derivatives(theta, some),
                observed,
                best,
                weights=np.ones((1, observed.size)),
                delta=delta,
                bounds=self.bounds(log_loss),
                tolerance=1e-5,
                max_iterations=100,
            )
            best = found.theta
        return best[np.argsort(found.objective, kind="stable")][:_RETURNED]

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        """Return no priors, or, where wanted, normal ones as wide as the box of starts."""
        size = len(self.parameters)
        if not weak:
            return Prior(np.zeros(size), np.full(size, np.inf))
        box = self._boxes(log_loss)[1]
        return Prior(box.mean(axis=1), 0.5 * (box[:, 1] - box[:, 0]))

    def scale_direction(self) -> FloatArray:
        """Return v with theta + t v the law of e^t L; zeros where a formula has no such v.

        With zeros, runs of several schedules give the law of the commonest, not of the best.
        """
        direction = super().scale_direction() * self._logarithmic
        rng = np.random.default_rng(0)
        theta = rng.uniform(-0.5, 0.5, (4, direction.size))
        points = Points(*rng.uniform(-0.5, 0.5, (3, 6)))
        change = self.log_loss(theta + 0.3 * direction, points) - self.log_loss(theta, points)
        return direction if np.allclose(change, 0.3, atol=1e-9) else np.zeros_like(direction)

    def describe(self, theta: FloatArray) -> str:
        numbers = ", ".join(
            f"{n} = {v:.4g}" for n, v in zip(self.parameters, self.natural(theta), strict=True)
        )
        if self.units is None:
            return f"L = {self.formula.text} with {numbers}"
        n0, d0 = (format_quantity(float(np.exp(u)), 4) for u in self.units)
        return f"L = {self.formula.text} with {numbers}; N in units of {n0}, D and U of {d0}"

    def latex(self) -> str:
        return "L = " + str(sympy_module().latex(expression(self.formula.text)[0]))


def register_formula(
    name: str,
    text: str,
    *,
    real: Sequence[str] = (),
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> FormulaLaw:
    """Make a formula known to `fit_law` as `name`; return the law.

    Raises:
        FormulaError: the text is no formula, or another law has the name.
    """
    law = FormulaLaw(name, text, real=real, bounds=bounds)
    if name in law_names() and not isinstance(get_law(name), FormulaLaw):
        raise FormulaError(f"a law is already called {name!r}; give the formula another name")
    register_law(law)
    return law


register_law(FormulaLaw("formula", _EXAMPLE))
