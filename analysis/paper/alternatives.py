"""The paper's three laws of repeated data on one table of curves: equations 15, 21 and 23."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.fitting.newton import huber
from analysis.laws.base import FloatArray
from analysis.paper.laws import DELTA
from analysis.reference import constants

Constants = dict[str, float]


def equation15(law: Constants, N: FloatArray, U: FloatArray, e: FloatArray) -> FloatArray:
    """Return L with the tokens' worth falling in repeats (equation 14)."""
    scale = law["c_p"] * U ** law["m_p"] / N ** law["k_p"]
    tokens = U * e ** law["p_e"] * np.exp(-((np.maximum(e - 1.0, 0.0) / scale) ** law["gamma"]))
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / tokens ** law["beta"]


def equation21(law: Constants, N: FloatArray, U: FloatArray, e: FloatArray) -> FloatArray:
    """Return L with a penalty in ln e (equation 18, R* so large that D' = U e)."""
    penalty = law["mu"] * (N / U) ** law["delta"] * np.log(np.maximum(e, 1.0)) ** law["gamma"]
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / (U * e) ** law["beta"] + penalty


def equation23(law: Constants, N: FloatArray, U: FloatArray, e: FloatArray) -> FloatArray:
    """Return L with a penalty that sets in softly at e = kappa (U / N)^eta (equation 22)."""
    R = law["R_star"]
    tokens = U * (1.0 + R * (1.0 - np.exp(-(e - 1.0) / R)))
    onset = (e - law["kappa"] * (U / N) ** law["eta"]) / law["tau"]
    penalty = law["mu"] * (N / tokens) ** law["delta"] * np.logaddexp(0.0, onset) ** law["gamma"]
    return law["E"] + law["A"] / N ** law["alpha"] + law["B"] / tokens ** law["beta"] + penalty


FORMS: dict[str, Callable[[Constants, FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "eq15": equation15,
    "eq21": equation21,
    "eq23": equation23,
}


def kept_rows(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations that count: neither before step 256 nor in a second descent.

    Raises:
        RunTableError: the table lacks a column.
    """
    needed = ("params", "unique_tokens", "epochs", "val_loss")
    missing = [c for c in (*needed, "before_step_256", "after_second_peak") if c not in curves]
    if missing:
        raise RunTableError(f"the table of curves has no column {', '.join(missing)}")
    return curves[(curves["before_step_256"] == 0) & (curves["after_second_peak"] == 0)]


def objectives(rows: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Return the sum of Huber's loss of log residuals by (law, `printed` or `recovered`)."""
    N, U, e, observed = (
        rows[c].to_numpy(dtype=np.float64)
        for c in ("params", "unique_tokens", "epochs", "val_loss")
    )
    return {
        (name, status): float(
            huber(np.log(observed) - np.log(form(constants(name, status), N, U, e)), DELTA)[
                0
            ].sum()
        )
        for name, form in FORMS.items()
        for status in ("printed", "recovered")
    }
