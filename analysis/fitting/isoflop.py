"""IsoFLOP parabolas (Chinchilla's approach 2, Quokka's approach 1): a check on the parametric law.

On each compute budget the loss is a parabola in ln N; its minimum is that budget's best size,
and the minima over budgets follow power laws of C.

The parabola is a Taylor series: the loss of a law is no parabola in ln N, and where the sizes of
a budget spread widely, or off its best one, the fitted minimum is displaced, by an amount that
changes with C (arXiv 2603.22339). `isoflop_bias` measures it for the table at hand.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.laws.base import FloatArray, Law, Points

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
    runs: pd.DataFrame,
    *,
    loss: FloatArray | None = None,
    budget: FloatArray | None = None,
    width: float = SAME_BUDGET,
) -> IsoFlop:
    """Fit a parabola in ln N to each budget of at least three sizes.

    Args:
        runs: columns `params`, `tokens` and `loss`.
        loss: takes the place of the column, such as losses with the price of an untuned
            learning rate taken off, [R].
        budget: the FLOPs that the runs were planned with, [R], where that is not 6 N D: it groups
            the runs. D at a minimum then follows the runs' own line, and C is 6 N D there.
        width: share by which FLOPs on one budget may differ.
    """
    params = runs["params"].to_numpy(dtype=np.float64)
    flops = 6.0 * params * runs["tokens"].to_numpy(dtype=np.float64)
    values = runs["loss"].to_numpy(dtype=np.float64) if loss is None else loss
    raw = group_budgets(flops if budget is None else budget, width)
    rows: list[dict[str, float | int | bool]] = []
    group = np.full(len(runs), -1, dtype=np.intp)
    for number in range(int(raw.max()) + 1):
        members = raw == number
        x = np.log(params[members])
        if len(np.unique(x.round(3))) < 3:
            continue
        group[members] = len(rows)
        level = float(np.exp(np.log(flops[members]).mean()))
        rows.append(_parabola(x, values[members], level))
        if budget is not None and np.isfinite(rows[-1]["params"]):
            centre, at = rows[-1]["centre"], np.log(rows[-1]["params"])
            line = np.polyfit(x - centre, np.log(flops[members]), 2)
            there = float(np.exp(np.polyval(line, np.clip(at, x.min(), x.max()) - centre)))
            rows[-1] |= {"flops": there, "tokens": there / 6.0 / rows[-1]["params"]}
    columns = "flops runs params tokens loss both_arms centre c0 c1 c2".split()  # noqa: SIM905
    minima = pd.DataFrame(rows, columns=columns)
    seen = minima[minima["both_arms"].astype(bool)]
    if len(seen) < 2:
        return IsoFlop(minima, group, None, None)
    return IsoFlop(minima, group, _power_law(seen, "params"), _power_law(seen, "tokens"))


def isoflop_samples(
    runs: pd.DataFrame,
    *,
    loss: FloatArray | None = None,
    budget: FloatArray | None = None,
    count: int = 1000,
    seed: int = 0,
    width: float = SAME_BUDGET,
) -> FloatArray:
    """Return (ln k_N, a) of N_opt = k_N C^a refitted to resampled runs, [B, 2].

    Runs are drawn with replacement within each budget, for the budgets that show both arms. A
    resample of fewer than three sizes, or whose parabola opens downwards, leaves its budget out;
    rows are NaN where fewer than two budgets are left. The interval is that of noise alone, and
    wide rather than narrow: about right for two dozen sizes a budget, twice too wide for seven.
    """
    found = isoflop_parabolas(runs, loss=loss, budget=budget, width=width)
    values = runs["loss"].to_numpy(dtype=np.float64) if loss is None else loss
    log_params = np.log(runs["params"].to_numpy(dtype=np.float64))
    rng = np.random.default_rng(seed)
    seen = found.minima[found.minima["both_arms"].astype(bool)]
    best = np.full((count, len(seen)), np.nan)
    for column, (number, row) in enumerate(seen.iterrows()):
        members = found.group == number
        x = log_params[members] - row["centre"]
        size = int(members.sum())
        weights = rng.multinomial(size, np.full(size, 1.0 / size), size=count).astype(np.float64)
        best[:, column] = row["centre"] + _weighted_minima(x, values[members], weights)
    work = np.log(seen["flops"].to_numpy(dtype=np.float64))
    known = np.isfinite(best)
    kept = np.maximum(known.sum(axis=1), 1)
    x = np.where(known, work, 0.0)
    y = np.where(known, best, 0.0)
    mean_x, mean_y = x.sum(axis=1) / kept, y.sum(axis=1) / kept
    centred = np.where(known, work - mean_x[:, None], 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (centred * y).sum(axis=1) / (centred * centred).sum(axis=1)
    slope[known.sum(axis=1) < 2] = np.nan
    return np.stack([mean_y - slope * mean_x, slope], axis=1)


@dataclass(frozen=True)
class IsoFlopBias:
    """What the parabolas get wrong of a law that is known, at the runs' own N and D, no noise.

    Attributes:
        flops: the target budget.
        exponent: the parabolas' a less the law's own over the same budgets.
        log_params: the parabolas' ln N_opt at the target less the law's own.
    """

    flops: float
    exponent: float
    log_params: float


def isoflop_bias(
    runs: pd.DataFrame,
    law: Law,
    theta: FloatArray,
    flops: float,
    *,
    loss: FloatArray | None = None,
    budget: FloatArray | None = None,
    width: float = SAME_BUDGET,
) -> IsoFlopBias | None:
    """Return the parabolas' bias if `law` at `theta` [P] were the truth; None without two minima.

    The law's losses at the runs' N and D are put through the same parabolas and the same
    budgets as the observed ones, and the answers are compared with the law's own.

    Args:
        runs: as for `isoflop_parabolas`.
        law: a fitted law of N and D.
        theta: its coordinates.
        flops: the budget to compare N_opt at.
        loss: the losses that decide which budgets count, as for `isoflop_parabolas`.
        budget: as for `isoflop_parabolas`.
        width: share by which FLOPs on one budget may differ.
    """
    observed = isoflop_parabolas(runs, loss=loss, budget=budget, width=width)
    counted = observed.minima["both_arms"].astype(bool)
    clean = np.exp(law.log_loss(theta, Points.of(runs["params"], runs["tokens"])))
    minima = isoflop_parabolas(runs, loss=clean, budget=budget, width=width).minima
    used = minima[counted & minima["params"].notna()]
    if len(used) < 2:
        return None
    fitted = _power_law(used, "params")
    own = np.polyfit(np.log(used["flops"]), law.optimum(theta, used["flops"].to_numpy())[0], 1)
    there = float(law.optimum(theta, flops)[0])
    return IsoFlopBias(
        flops, fitted.exponent - float(own[0]), float(np.log(fitted(flops))) - there
    )


def _power_law(minima: pd.DataFrame, column: str) -> PowerLaw:
    slope, offset = np.polyfit(np.log(minima["flops"]), np.log(minima[column]), 1)
    return PowerLaw(float(np.exp(offset)), float(slope))


def _weighted_minima(x: FloatArray, loss: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the minima of parabolas fitted with weights [B, R]; NaN where there is none."""
    scale = max(float(np.abs(x).max()), 1e-12)
    basis = (x / scale)[:, None] ** np.arange(3)
    gram = np.einsum("br,ri,rj->bij", weights, basis, basis)
    moment = np.einsum("br,ri,r->bi", weights, basis, loss)
    solved = np.full((len(weights), 3), np.nan)
    sound = np.linalg.cond(gram) < 1e10
    solved[sound] = np.linalg.solve(gram[sound], moment[sound][..., None])[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(solved[:, 2] > 0, -0.5 * solved[:, 1] / solved[:, 2], np.nan)
    return found * scale


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
