"""What `law.json` holds."""

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import AnalysisError
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray
from analysis.laws.mixture import PREFIX
from analysis.runs import SINGLE_VALUED

SCHEMA_VERSION = 1
LAW_NAME = "law.json"
SAMPLES_NAME = "bootstrap.npz"
RUNS_NAME = "runs.csv"
_APPROACH_RESAMPLES = 200
_MOST_INFLUENTIAL = 5


def law_document(fit: Fit, search: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what `law.json` holds, ready for JSON.

    Args:
        fit: the fit.
        search: how the search that bought the runs ended: `kind`, `words`, `surprises` (z of
            larger runs predicted before they were trained), `trusted_flops`.
    """
    errors = fit.standard_errors
    parameters = {
        name: {
            **estimate.as_dict(),
            "stderr": errors[name],
            "identified": fit.identified[name],
        }
        for name, estimate in fit.parameters.items()
    }
    trajectories = fit.runs["trajectory"].nunique() if "trajectory" in fit.runs else len(fit.runs)
    document = {
        "schema_version": SCHEMA_VERSION,
        "law": fit.law.name,
        "law_settings": fit.law.settings(),
        "formula": fit.law.describe(fit.theta),
        "parameters": parameters,
        "covariance": {
            "coordinates": list(fit.law.coordinates),
            "matrix": fit.covariance.tolist(),
        },
        "bootstrap": {
            "count": len(fit.samples),
            "seed": fit.settings.seed,
            "resampled": "trajectories",
            "file": SAMPLES_NAME,
            "sha256": digest(fit.samples),
        },
        "calibration": fit.calibration,
        "discrepancy": _discrepancy(fit),
        "form": None if fit.form_evidence is None else vars(fit.form_evidence),
        "validity": {name: list(bounds) for name, bounds in fit.state.validity.items()},
        "fit": {
            "objective": fit.objective,
            "huber_delta": fit.delta,
            "noise": fit.sigma,
            "converged": fit.converged,
        },
        "approaches": _approaches(fit),
        "influence": _influence(fit),
        "global_check": None if fit.global_check is None else fit.global_check.as_dict(),
        "runs": {
            "count": len(fit.runs),
            "trajectories": int(trajectories),
            "hash": runs_hash(fit.runs, (*fit.response.bowls, *fit.response.choices)),
            "rejected": fit.rejected,
        },
        **{column: _only_value(fit.runs, column) for column in SINGLE_VALUED},
        "batch_tokens": _only_value(fit.runs, "batch_tokens"),
        "response": _response_document(fit),
        "settings": fit.settings.as_dict(),
        "warnings": fit.warnings,
        "versions": _versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if search is not None:
        document["search"] = search
    document["flops_convention"] = document["flops_convention"] or "6nd"
    plain: dict[str, Any] = _plain(document)
    return plain


def _approaches(fit: Fit) -> dict[str, Any] | None:
    """Return what each approach says of the largest run's budget, `approaches.COLUMNS` by row."""
    from analysis.approaches import compare_approaches

    flops = fit.state.validity["flops"][1]
    try:
        found = compare_approaches(fit.runs, flops, fit=fit, bootstrap=_APPROACH_RESAMPLES)
    except AnalysisError:
        return None
    return {"flops": flops, "rows": found.table.to_dict(orient="records")}


def _influence(fit: Fit) -> dict[str, Any]:
    """Return the trajectories that the fit hangs on most, and what leaving each out moves."""
    from analysis.influence import influence

    flops = fit.state.validity["flops"][1]
    table = influence(fit, flops).head(_MOST_INFLUENTIAL)
    rows = []
    for _, row in table.iterrows():
        # Rows without a name are known by their place.
        own = row["trajectory"]
        named = "trajectory" in fit.runs
        mine = fit.runs[fit.runs["trajectory"] == own] if named else fit.runs.iloc[[int(own)]]
        last = mine.sort_values("tokens").iloc[-1] if len(mine) else None
        rows.append(
            {
                "trajectory": str(own) if named else f"row {int(mine.index[0]) + 1}",
                "params": None if last is None else float(last["params"]),
                "tokens": None if last is None else float(last["tokens"]),
                **{k: float(row[k]) for k in ("rows", "leverage", "distance")},
                **{k: float(row[k]) for k in ("shift_ln_params", "shift_ln_loss")},
            }
        )
    return {"flops": flops, "trajectories": rows}


def _discrepancy(fit: Fit) -> dict[str, float] | None:
    process = fit.discrepancy
    if process is None:
        return None
    return {"amplitude": process.amplitude, "length": process.length}


def runs_hash(runs: pd.DataFrame, fitted: Sequence[str] = ()) -> str:
    """Return a hash of what was fitted, whatever the order of the rows.

    `fitted`: further columns that the response read.
    """
    known = ("params", "tokens", "unique_tokens", "loss", "lr", "lr_schedule", "weight")
    columns = [c for c in known if c in runs]
    columns += fitted
    columns += [c for c in runs if str(c).startswith(PREFIX)]
    lines = sorted(
        ",".join(v.hex() if isinstance(v, float) else str(v) for v in row)
        for row in runs[columns].itertuples(index=False, name=None)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _response_document(fit: Fit) -> dict[str, Any]:
    response = fit.response
    low, high = (
        np.exp(np.percentile(response.samples[:, 1], [5, 95]))
        if len(response.samples)
        else (None, None)
    )
    return {
        "lr_fitted": response.lr_fitted,
        "curvature": response.curvature,
        "lr": {
            "value": None if math.isnan(response.log_lr) else math.exp(response.log_lr),
            "low": low,
            "high": high,
            "identified": fit.identified.get("lr"),
        },
        "slope_params": response.slope_params,
        "slope_tokens": response.slope_tokens,
        "reference_params": response.reference_params,
        "reference_tokens": response.reference_tokens,
        "best_schedule": response.best_schedule,
        "offsets": response.offsets,
        **({} if response.mixture is None else {"mixture": response.mixture.document()}),
        **_dimensions_document(fit),
    }


def _dimensions_document(fit: Fit) -> dict[str, Any]:
    """Return what the runs' other dimensions did, where they varied in them."""
    response = fit.response
    found: dict[str, Any] = {}
    if response.slope_batch:
        found |= {
            "slope_batch": response.slope_batch,
            "reference_batch": response.reference_batch,
        }
    bowls = {
        column: {**bowl.document(), "identified": fit.identified.get(column)}
        for column, bowl in response.bowls.items()
    }
    choices = {column: choice.document() for column, choice in response.choices.items()}
    return {**found, **({"dimensions": {**bowls, **choices}} if bowls or choices else {})}


def _only_value(runs: pd.DataFrame, column: str) -> Any:
    """Return the value that all runs share, or None."""
    if column not in runs:
        return None
    values = runs[column].dropna().unique()
    return values[0] if len(values) == 1 else None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("quokka-ray", "numpy", "scipy", "pandas"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def digest(samples: FloatArray) -> str:
    """Return a hash of the bootstrap, by which a law file knows its samples."""
    return hashlib.sha256(np.ascontiguousarray(samples).tobytes()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return `value` with NumPy's scalars made Python's, and no number that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
