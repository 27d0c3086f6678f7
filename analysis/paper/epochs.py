"""Equation 15 of the paper, the law of repeated data, and its tables 3 and 4.

L(N, U, e) = E + A / N^alpha + B / D'^beta with D' = U e^p_e exp(-((e - 1) / e_p)^gamma) and
e_p = c_p U^m_p / N^k_p. At given N and U the loss falls where ln D' rises with e.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq, minimize_scalar

from analysis.paper.compare import Cell
from analysis.reference import constants, printed_table
from analysis.units import parse_quantity

TABLE3_TOLERANCE = 5e-5
"""Beyond rounding to whole epochs: what five digits of the recovered exponents leave open."""

TABLE4_TOLERANCE = {"params": 0.15, "epochs": 0.13, "flops": 0.115}
"""Along its valley the loss is flat: it moves by less than .05 % where N and e move by 15 %."""


def log_tokens(law: dict[str, float], params: float, unique: float, epochs: float) -> float:
    """Return ln D'."""
    scale = law["c_p"] * unique ** law["m_p"] / params ** law["k_p"]
    forgotten = (max(epochs - 1.0, 0.0) / scale) ** law["gamma"]
    return float(np.log(unique) + law["p_e"] * np.log(epochs) - forgotten)


def loss(law: dict[str, float], params: float, unique: float, epochs: float) -> float:
    """Return the loss."""
    repeated = np.exp(-law["beta"] * log_tokens(law, params, unique, epochs))
    return float(law["E"] + law["A"] / params ** law["alpha"] + law["B"] * repeated)


def interior_epochs(law: dict[str, float], params: float, unique: float) -> float:
    """Return the e above 1 at which ln D' is highest in its neighbourhood; 1 where none is.

    The slope of ln D' vanishes where ln e + (gamma - 1) ln(e - 1) equals a constant. The left
    side falls from infinity at e = 1 to its lowest at e = 1 / gamma and rises from there, so
    there are two stationary points or none, and the outer one is the maximum.
    """
    gamma = law["gamma"]
    scale = law["c_p"] * unique ** law["m_p"] / params ** law["k_p"]
    level = gamma * np.log(scale) + np.log(law["p_e"] / gamma)

    def slope(epochs: float) -> float:
        return float(np.log(epochs) + (gamma - 1.0) * np.log(epochs - 1.0) - level)

    if slope(1.0 / gamma) >= 0.0:
        return 1.0
    high = 2.0 / gamma
    while slope(high) < 0.0:
        high *= 2.0
    return float(brentq(slope, 1.0 / gamma, high, xtol=1e-9))


def best_epochs(law: dict[str, float], params: float, unique: float) -> float:
    """Return the e of the lowest loss: the interior one, or 1 where that is lower."""
    inside = interior_epochs(law, params, unique)
    gain = log_tokens(law, params, unique, inside) - log_tokens(law, params, unique, 1.0)
    return inside if gain > 0.0 else 1.0


def best_params(law: dict[str, float], unique: float) -> float:
    """Return the N of the lowest loss, every N at its own best e (the paper's equation 3)."""

    def reached(log_params: float) -> float:
        params = float(np.exp(log_params))
        return loss(law, params, unique, best_epochs(law, params, unique))

    grid = np.linspace(np.log(1e6), np.log(1e13), 400)
    centre = int(np.argmin([reached(x) for x in grid]))
    around = (grid[max(centre - 1, 0)], grid[min(centre + 1, len(grid) - 1)])
    found = minimize_scalar(reached, bounds=around, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def table3(status: str = "recovered") -> pd.DataFrame:
    """Return table 3 beside equation 15: `params, unique_tokens, cell, worse`.

    `cell` compares the interior stationary point; `worse` says that one epoch has a lower loss.
    """
    law = constants("eq15", status)
    rows = []
    for _, printed in printed_table(3).iterrows():
        params = parse_quantity(printed["params"])
        for unique in printed.index[1:]:
            at = (params, parse_quantity(unique))
            cell = Cell(printed[unique], interior_epochs(law, *at), TABLE3_TOLERANCE)
            rows.append(
                {
                    "params": printed["params"],
                    "unique_tokens": unique,
                    "cell": cell,
                    "worse": best_epochs(law, *at) < cell.recomputed,
                }
            )
    return pd.DataFrame(rows)


def table4(status: str = "recovered") -> pd.DataFrame:
    """Return table 4 beside equation 15: `unique_tokens, params, epochs, flops, excess`.

    `params`, `epochs` and `flops` are cells; `excess` is ln of the law's loss at the printed N
    and e over its lowest.
    """
    law = constants("eq15", status)
    rows = []
    for _, printed in printed_table(4).iterrows():
        unique = parse_quantity(printed["unique_tokens"])
        params = best_params(law, unique)
        epochs = best_epochs(law, params, unique)
        found = {"params": params, "epochs": epochs, "flops": 6.0 * params * unique * epochs}
        there = (parse_quantity(printed["params"]), unique, parse_quantity(printed["epochs"]))
        row: dict[str, object] = {"unique_tokens": printed["unique_tokens"]}
        for name, value in found.items():
            row[name] = Cell(printed[name], value, TABLE4_TOLERANCE[name])
        row["excess"] = float(np.log(loss(law, *there) / loss(law, params, unique, epochs)))
        rows.append(row)
    return pd.DataFrame(rows)
