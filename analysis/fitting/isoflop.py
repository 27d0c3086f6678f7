"""IsoFLOP parabolas (Chinchilla's approach 2, Quokka's approach 1): a check on the parametric law.

On each compute budget the loss is a parabola in ln N; its minimum is that budget's best size,
and the minima over budgets follow power laws of C.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.laws.base import FloatArray

SAME_BUDGET = 0.10
"""Runs whose FLOPs differ by no more than this share count as one budget."""


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * C^exponent."""

    factor: float
    exponent: float

    def __call__(self, flops: float) -> float:
        """Return y at C."""
        return float(self.factor * flops**self.exponent)


@dataclass(frozen=True)
class IsoFlop:
    """The parabolas of all budgets.

    Attributes:
        minima: a row for each budget: `flops, runs, params, tokens, loss, both_arms, centre,
            c0, c1, c2`. The parabola is c0 + c1 x + c2 x^2 with x = ln N - centre; `params`,
            `tokens` and `loss` are those of its minimum, NaN where it opens downwards.
        group: number of each run's budget (the minima's index), [R]; -1 for runs on none.
        params_law: N_opt against C over the budgets that show both arms; None under two.
        tokens_law: D_opt against C.
    """

    minima: pd.DataFrame
    group: np.ndarray
    params_law: PowerLaw | None
    tokens_law: PowerLaw | None


def group_budgets(flops: FloatArray, width: float = SAME_BUDGET) -> np.ndarray:
    """Return the number of each run's budget, ascending in C, [R].

    A budget begins at its cheapest run and takes all runs within `width` of it.
    """
    order = np.argsort(flops, kind="stable")
    group = np.zeros(len(flops), dtype=np.intp)
    number, floor = -1, -np.inf
    for index in order:
        if flops[index] > floor * (1.0 + width):
            number, floor = number + 1, flops[index]
        group[index] = number
    return group


def isoflop_parabolas(
    runs: pd.DataFrame, *, loss: FloatArray | None = None, width: float = SAME_BUDGET
) -> IsoFlop:
    """Fit a parabola in ln N to each budget of at least three sizes.

    Args:
        runs: columns `params`, `tokens` and `loss`; the budget is 6 N D.
        loss: takes the place of the column, such as losses with the price of an untuned
            learning rate taken off, [R].
        width: share by which FLOPs on one budget may differ.
    """
    params = runs["params"].to_numpy(dtype=np.float64)
    flops = 6.0 * params * runs["tokens"].to_numpy(dtype=np.float64)
    values = runs["loss"].to_numpy(dtype=np.float64) if loss is None else loss
    raw = group_budgets(flops, width)
    rows: list[dict[str, float | int | bool]] = []
    group = np.full(len(runs), -1, dtype=np.intp)
    for number in range(int(raw.max()) + 1):
        members = raw == number
        x = np.log(params[members])
        if len(np.unique(x.round(3))) < 3:
            continue
        group[members] = len(rows)
        rows.append(_parabola(x, values[members], float(np.exp(np.log(flops[members]).mean()))))
    columns = "flops runs params tokens loss both_arms centre c0 c1 c2".split()  # noqa: SIM905
    minima = pd.DataFrame(rows, columns=columns)
    seen = minima[minima["both_arms"].astype(bool)]
    laws: list[PowerLaw | None] = [None, None]
    if len(seen) >= 2:
        for i, column in enumerate(("params", "tokens")):
            slope, offset = np.polyfit(np.log(seen["flops"]), np.log(seen[column]), 1)
            laws[i] = PowerLaw(float(np.exp(offset)), float(slope))
    return IsoFlop(minima, group, laws[0], laws[1])


def _parabola(x: FloatArray, loss: FloatArray, flops: float) -> dict[str, float | int | bool]:
    """Return one budget's row. `both_arms` asks for runs that lie higher on either side."""
    centre = float(x.mean())
    c2, c1, c0 = np.polyfit(x - centre, loss, 2)
    row: dict[str, float | int | bool] = {
        "flops": flops,
        "runs": len(x),
        "params": np.nan,
        "tokens": np.nan,
        "loss": np.nan,
        "both_arms": False,
        "centre": centre,
        "c0": float(c0),
        "c1": float(c1),
        "c2": float(c2),
    }
    if c2 <= 0:
        return row
    best = centre - c1 / (2.0 * c2)
    params = float(np.exp(best))
    row |= {
        "params": params,
        "tokens": flops / 6.0 / params,
        "loss": float(c0 - c1 * c1 / (4.0 * c2)),
    }
    lowest = float(loss.min())
    left, right = x < best, x > best
    row["both_arms"] = bool(
        left.any() and right.any() and loss[left].max() > lowest and loss[right].max() > lowest
    )
    return row
