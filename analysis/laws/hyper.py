"""Laws of the training recipe: the best learning rate and batch size as powers of N and D.

    lr = c N^a D^b,    batch = c D^b   (Step Law, Li et al. 2025, arXiv 2503.04715)

Their numbers come from `analysis.fitting.hyper`, from grids of learning rates and batch sizes, or
from print: the Quokka paper finds that diffusion models want what autoregressive ones want and
reuses such a law; what it trained with itself is `quokka_learning_rate` and `quokka_batch`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from analysis.errors import LawFileError
from analysis.laws.base import FloatArray
from analysis.uncertainty import Prediction

SCHEMA_VERSION = 1
NAMES = ("learning_rate", "batch_size")
PARAMETERS = ("c", "N", "D")
"""The factor, and the exponents of N and D."""

_QUANTILE = 1.6448536269514722
_WIDEST = 0.35
"""Half width of an exponent's 90 % interval, relative to it, up to which it is identified: the
same as for a loss law's exponents."""


@dataclass(frozen=True)
class HyperLaw:
    """ln y = theta . (1, ln N/N0, ln D/D0), y a learning rate or tokens of a batch.

    Attributes:
        name: `learning_rate` or `batch_size`.
        theta: ln y at (N0, D0), and the exponents of N and D, [3].
        covariance: of theta, [3, 3]; infinite on the diagonal where the runs cannot say.
        reference: N0 and D0.
        fixed: which of the two exponents the form sets to 0, such as a batch's of N.
        validity: ranges of N and D that were seen.
        source: where the numbers come from, in words.
        notes: what a reader should know.
    """

    name: str
    theta: FloatArray
    covariance: FloatArray = field(default_factory=lambda: np.zeros((3, 3)))
    reference: tuple[float, float] = (1.0, 1.0)
    fixed: tuple[str, ...] = ()
    validity: dict[str, tuple[float, float]] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def predict(self, params: ArrayLike, tokens: ArrayLike) -> Prediction:
        """Return the best value at N and D with 90 % intervals, each of shape [R]."""
        n, d = np.broadcast_arrays(
            np.asarray(params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        )
        n, d = n.ravel(), d.ravel()
        basis = np.stack([np.ones_like(n), *(np.log(v / r) for v, r in self._scaled(n, d))])
        value = self.theta @ basis
        # An exponent of unknown spread does not matter at the reference itself.
        spread = np.diag(self.covariance)
        unknown = ~np.isfinite(spread)
        known = np.where(np.isfinite(self.covariance), self.covariance, 0.0)
        variance = np.einsum("pr,pq,qr->r", basis, known, basis)
        variance[np.any(np.abs(basis[unknown]) > 1e-9, axis=0)] = np.inf
        half = _QUANTILE * np.sqrt(variance)
        with np.errstate(over="ignore"):
            ends = np.exp(value - half), np.exp(value + half)
        return Prediction(np.exp(value), *ends, self._beyond(n, d))

    def _scaled(self, n: FloatArray, d: FloatArray) -> list[tuple[FloatArray, float]]:
        return [(n, self.reference[0]), (d, self.reference[1])]

    def _beyond(self, n: FloatArray, d: FloatArray) -> FloatArray:
        beyond = np.zeros_like(n)
        for what, values in (("params", n), ("tokens", d)):
            if what in self.validity:
                low, high = np.log10(self.validity[what])
                log = np.log10(values)
                beyond = np.maximum(beyond, np.maximum(log - high, low - log))
        return np.round(beyond, 6)

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """c, and the exponents of N and D, each with interval, standard error, identified."""
        to_printed = np.eye(3)
        to_printed[0, 1:] = -np.log(self.reference)
        theta = to_printed @ self.theta
        known = np.where(np.isfinite(self.covariance), self.covariance, 0.0)
        spread = np.sqrt(np.maximum(np.diag(to_printed @ known @ to_printed.T), 0.0))
        unknown = ~np.isfinite(np.diag(self.covariance))
        spread[unknown] = np.inf
        if unknown.any():
            spread[0] = np.inf
        result: dict[str, dict[str, Any]] = {}
        for index, name in enumerate(PARAMETERS):
            fixed = name in self.fixed
            half = 0.0 if fixed else _QUANTILE * float(spread[index])
            ends = (theta[index] - half, theta[index] + half)
            value, low, high = (
                (float(np.exp(v)) for v in (theta[0], *ends))
                if name == "c"
                else (float(theta[index]), float(ends[0]), float(ends[1]))
            )
            narrow = half <= (np.log(3.0) if name == "c" else _WIDEST * abs(theta[index]))
            stderr = spread[index] * (value if name == "c" else 1.0)
            result[name] = {
                "value": value,
                "low": low,
                "high": high,
                "stderr": 0.0 if fixed else float(stderr),
                "identified": bool(narrow or fixed),
            }
        return result

    def describe(self) -> str:
        """Return the formula with its numbers."""
        what = "lr" if self.name == "learning_rate" else "batch"
        numbers = {name: entry["value"] for name, entry in self.parameters.items()}
        powers = "".join(
            f" {name}^{numbers[name]:.3g}" for name in PARAMETERS[1:] if name not in self.fixed
        )
        return f"{what} = {numbers['c']:.3g}{powers}"

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a law file, plain values; unknown ends are None."""
        return {
            "schema_version": SCHEMA_VERSION,
            "law": self.name,
            "formula": self.describe(),
            "parameters": {
                name: {k: _finite(v) for k, v in entry.items()}
                for name, entry in self.parameters.items()
            },
            "theta": [float(v) for v in self.theta],
            "covariance": {
                "coordinates": ["ln_value", "N", "D"],
                "matrix": [[_finite(float(v)) for v in row] for row in self.covariance],
            },
            "reference": {"params": self.reference[0], "tokens": self.reference[1]},
            "fixed": list(self.fixed),
            "validity": {name: list(ends) for name, ends in self.validity.items()},
            "source": self.source,
            "warnings": list(self.notes),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Self:
        """Return the law that `as_dict` described.

        Raises:
            LawFileError: it is none of these laws, or damaged.
        """
        try:
            if document["law"] not in NAMES:
                raise LawFileError(
                    f"{document['law']!r} is no law of a recipe; those are {', '.join(NAMES)}"
                )
            if document["schema_version"] != SCHEMA_VERSION:
                raise LawFileError(f"schema_version {document['schema_version']!r} is unknown")
            matrix = document["covariance"]["matrix"]
            theta = np.array(document["theta"], dtype=np.float64)
            covariance = np.array(
                [[np.inf if v is None else float(v) for v in row] for row in matrix]
            )
            if theta.shape != (3,) or covariance.shape != (3, 3) or not np.isfinite(theta).all():
                raise ValueError("theta and covariance do not fit together")
            reference = document["reference"]
            return cls(
                name=document["law"],
                theta=theta,
                covariance=covariance,
                reference=(float(reference["params"]), float(reference["tokens"])),
                fixed=tuple(document["fixed"]),
                validity={k: (float(v[0]), float(v[1])) for k, v in document["validity"].items()},
                source=str(document["source"]),
                notes=tuple(document["warnings"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise LawFileError(f"the law file is incomplete or damaged ({error})") from error

    def save(self, path: str | Path) -> Path:
        """Write the law as JSON, whole or not at all; return its path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
        return target


def load_hyper_law(path: str | Path) -> HyperLaw:
    """Read a law file of a learning rate or a batch size.

    Raises:
        LawFileError: it is missing, damaged, or another kind of law.
    """
    file = Path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LawFileError(f"{file}: not a readable law file ({error})") from error
    if not isinstance(document, dict):
        raise LawFileError(f"{file}: not a law file")
    return HyperLaw.from_dict(document)


def printed_law(name: str, c: float, params: float, tokens: float, source: str) -> HyperLaw:
    """Return a published law c N^params D^tokens, which has no intervals."""
    fixed = ("N",) if params == 0.0 and name == "batch_size" else ()
    return HyperLaw(name, np.array([np.log(c), params, tokens]), fixed=fixed, source=source)


STEP_LAW = (
    printed_law("learning_rate", 1.79, -0.713, 0.307, "Step Law, N without embeddings"),
    printed_law("batch_size", 0.58, 0.0, 0.571, "Step Law, tokens of a batch"),
)
"""As printed, for autoregressive models with N not counting embeddings."""


def quokka_learning_rate(params: float) -> float:
    """Return the peak rate of the Quokka paper's compute-constrained runs (its appendix A)."""
    return 2e-4 if params < 8e9 else 1.25e-4


def quokka_batch(params: float, seq_len: int = 2048) -> int:
    """Return the tokens of a batch of the Quokka paper's runs (its appendix A)."""
    sequences = 256 if params <= 1.5e9 else 512 if params <= 5e9 else 1024
    return sequences * seq_len


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
