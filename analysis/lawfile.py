"""The law file: a fitted law with its intervals, ranges and provenance, in JSON.

`law.json` holds everything that a reader needs; the bootstrap's samples lie beside it in
`bootstrap.npz`. A law file without its samples still predicts, from its covariance, and says so.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.discrepancy import Discrepancy
from analysis.errors import LawFileError
from analysis.fitting.result import Fit
from analysis.lawdocument import (
    LAW_NAME,
    RUNS_NAME,
    SAMPLES_NAME,
    SCHEMA_VERSION,
    digest,
    law_document,
)
from analysis.laws.base import FloatArray, Law, get_law
from analysis.laws.bowls import BowlResponse
from analysis.laws.choices import ChoiceResponse
from analysis.laws.mixture import MixtureResponse
from analysis.laws.response import Response
from analysis.runs import write_runs
from analysis.state import LawState
from analysis.uncertainty import Allocation, Prediction

_SUBSTITUTE_DRAWS = 1000


@dataclass(frozen=True)
class LawFile:
    """A law read from disk.

    Attributes:
        path: of the JSON file.
        document: its content.
        state: the law with its numbers.
        notes: what was missing beside it.
    """

    path: Path
    document: dict[str, Any]
    state: LawState
    notes: tuple[str, ...] = ()

    def predict(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        unique_tokens: ArrayLike | None = None,
        *,
        noise: bool = False,
    ) -> Prediction:
        """Return the loss at N and D with 90 % intervals, and how far that extrapolates.

        Args:
            params, tokens: counts.
            unique_tokens: U, counts; a law of N and D alone takes repeated tokens for new ones.
            noise: widen the intervals by the noise of one run.
        """
        return self.state.predict(params, tokens, unique_tokens, noise=noise)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        """Return the best N, D and loss for a budget of 6 N D."""
        return self.state.optimum(flops, unique_tokens)

    @property
    def warnings(self) -> list[str]:
        """What must be known before using the numbers."""
        return [*self.document.get("warnings", []), *self.notes]

    @cached_property
    def runs(self) -> pd.DataFrame | None:
        """The fitted runs, where their table lies beside the law; else None."""
        table = self.path.with_name(RUNS_NAME)
        return pd.read_csv(table) if table.is_file() else None


def save_law(fit: Fit, folder: str | Path, search: Mapping[str, Any] | None = None) -> Path:
    """Write `law.json`, its samples and its runs into `folder`; return the JSON's path.

    `search`: how the search that bought the runs ended, where there was one.

    Each file appears whole or not at all, the JSON last.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    response = fit.response
    mixture = response.mixture
    more: dict[str, Any] = {} if mixture is None else {"mixture": mixture.samples}
    for terms in (response.bowls, response.choices):
        more |= {column: term.samples for column, term in terms.items()}
    partial = target / f".{SAMPLES_NAME}.partial"
    with partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            law=fit.samples,
            response=response.samples,
            offsets=response.offset_samples,
            **more,
            **_process_arrays(fit.discrepancy),
        )
    partial.replace(target / SAMPLES_NAME)
    write_runs(fit.runs, target / RUNS_NAME)
    text = json.dumps(law_document(fit, search), indent=2, allow_nan=False) + "\n"
    partial = target / f".{LAW_NAME}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(target / LAW_NAME)
    return target / LAW_NAME


def _process_arrays(process: Discrepancy | None) -> dict[str, Any]:
    """Return what the discrepancy was conditioned on, as arrays."""
    if process is None:
        return {}
    names = ("log_params", "log_tokens", "trajectory", "residual", "weights")
    rows = [getattr(process, name) for name in names]
    return {"process": np.stack(rows, axis=1), "nuisance": process.nuisance}


def load_law(path: str | Path) -> LawFile:
    """Read a law file, or the one in a folder.

    Raises:
        LawFileError: it is missing, no law file, or of another schema.
    """
    file = Path(path)
    if file.is_dir():
        file = file / LAW_NAME
    if not file.is_file():
        raise LawFileError(
            f"{file}: no such law file; name a law.json, or the folder that `fit --out` wrote"
        )
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LawFileError(f"{file}: not a readable law file ({error})") from error
    if not isinstance(document, dict) or "schema_version" not in document:
        raise LawFileError(f"{file}: not a law file, since it names no schema_version")
    if document["schema_version"] != SCHEMA_VERSION:
        raise LawFileError(
            f"{file}: schema_version is {document['schema_version']!r}, but this program reads "
            f"{SCHEMA_VERSION}; fit the runs again"
        )
    if document.get("law") in ("learning_rate", "batch_size"):
        raise LawFileError(
            f"{file}: a law of the recipe, not of the loss; `analysis.laws.hyper.load_hyper_law` "
            "reads it"
        )
    try:
        state, notes = _state(document, file)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LawFileError(
            f"{file}: the law file is incomplete or damaged ({error}); fit the runs again"
        ) from error
    return LawFile(file, document, state, notes)


def _state(document: Mapping[str, Any], file: Path) -> tuple[LawState, tuple[str, ...]]:
    law = get_law(document["law"]).with_settings(document.get("law_settings") or {})
    natural = np.array([float(document["parameters"][n]["value"]) for n in law.parameters])
    with np.errstate(all="ignore"):
        theta = law.theta(natural)
    if not np.isfinite(theta).all():
        raise ValueError("a parameter has a value that the law cannot have")
    covariance = np.array(document["covariance"]["matrix"], dtype=np.float64)
    if covariance.shape != (theta.size, theta.size):
        raise ValueError("parameters and covariance do not fit together")
    side, notes = _beside(document, file, law, theta, covariance)
    response = _read_response(document.get("response") or {}, side)
    mixture = response.mixture
    if mixture is not None and "mixture" in side:
        mixture = replace(mixture, samples=side["mixture"])
    response = replace(
        response,
        samples=side["response"],
        offset_samples=side["offsets"],
        mixture=mixture,
    )
    validity = {k: (float(v[0]), float(v[1])) for k, v in document["validity"].items()}
    sigma = float(document["fit"]["noise"])
    process = _process(document.get("discrepancy"), sigma, side)
    state = LawState(law, theta, covariance, side["law"], sigma, response, validity, process)
    return state, notes


def _beside(
    document: Mapping[str, Any], file: Path, law: Law, theta: FloatArray, covariance: FloatArray
) -> tuple[dict[str, FloatArray], tuple[str, ...]]:
    """Return the arrays beside the law; normal draws where they are missing or another fit's."""
    side = file.with_name(document["bootstrap"]["file"])
    empty = {"response": (0, 4), "offsets": (0, 0), "process": (0, 5), "nuisance": (0, 0)}
    arrays: dict[str, FloatArray] = {name: np.zeros(shape) for name, shape in empty.items()}
    try:
        with np.load(side) as stored:
            found = {name: stored[name] for name in stored.files}
        if digest(found["law"]) == document["bootstrap"]["sha256"]:
            return {**arrays, **found}, ()
        reason = "belongs to another fit"
    except (OSError, KeyError, ValueError):
        reason = "is missing or unreadable"
    rng = np.random.default_rng(int(document["bootstrap"]["seed"]))
    draws = rng.multivariate_normal(theta, covariance, _SUBSTITUTE_DRAWS, method="eigh")
    note = f"{side.name} {reason}: intervals come from the covariance alone"
    return {**arrays, "law": law.clip(draws)}, (note,)


def _process(
    stored: Mapping[str, Any] | None, sigma: float, side: Mapping[str, FloatArray]
) -> Discrepancy | None:
    """Return the discrepancy; without its rows it is known by its size alone."""
    if not stored:
        return None
    log_params, log_tokens, trajectory, residual, weights = side["process"].T
    return Discrepancy(
        amplitude=float(stored["amplitude"]),
        length=float(stored["length"]),
        sigma=sigma,
        log_params=log_params,
        log_tokens=log_tokens,
        trajectory=trajectory.astype(np.intp),
        residual=residual,
        weights=weights,
        nuisance=side["nuisance"],
    )


def _read_response(stored: Mapping[str, Any], side: Mapping[str, FloatArray]) -> Response:
    if not stored:
        return Response()
    lr = stored["lr"]["value"]
    dimensions = stored.get("dimensions") or {}
    bowls = {
        column: BowlResponse.read(found, side.get(column, np.zeros((0, 3))))
        for column, found in dimensions.items()
        if "names" not in found
    }
    choices = {
        column: ChoiceResponse.read(found, side.get(column, np.zeros((0, 0, 3))))
        for column, found in dimensions.items()
        if "names" in found
    }
    return Response(
        lr_fitted=bool(stored["lr_fitted"]),
        curvature=float(stored["curvature"]),
        log_lr=float("nan") if lr is None else math.log(lr),
        slope_params=float(stored["slope_params"]),
        slope_tokens=float(stored["slope_tokens"]),
        reference_params=float(stored["reference_params"]),
        reference_tokens=float(stored["reference_tokens"]),
        offsets={str(k): float(v) for k, v in stored["offsets"].items()},
        mixture=MixtureResponse.read(stored["mixture"]) if stored.get("mixture") else None,
        slope_batch=float(stored.get("slope_batch", 0.0)),
        reference_batch=float(stored.get("reference_batch", 1.0)),
        bowls=bowls,
        choices=choices,
    )
