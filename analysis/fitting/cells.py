"""Runs on grids of learning rate and batch size, by cells: the runs of one (N, D)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.errors import FitError
from analysis.laws.base import FloatArray
from analysis.laws.hyper import NAMES

FEWEST_CELLS = 4
RECIPE_COLUMNS = ("lr", "batch_tokens")
"""The run table's columns of what `NAMES` are laws of, in the same order."""

_FEWEST_RUNS = 6
_SMALLEST_REACH = 0.5
"""Standard deviation of ln lr or ln batch within cells under which it counts as not varied."""


@dataclass(frozen=True)
class Cells:
    """Runs with centred coordinates: `recipe` [V, R] is ln lr and ln batch less `middle` [V]."""

    names: tuple[str, ...]
    recipe: FloatArray
    middle: FloatArray
    log_loss: FloatArray
    excess: FloatArray
    cell: np.ndarray
    params: FloatArray
    tokens: FloatArray

    @property
    def reference(self) -> tuple[float, float]:
        """Geometric means of the cells' N and D."""
        return float(np.exp(np.log(self.params).mean())), float(np.exp(np.log(self.tokens).mean()))


def read_cells(table: pd.DataFrame) -> Cells:
    """Return the cells of a validated table that have enough runs.

    Raises:
        FitError: nothing is varied, or too few cells.
    """
    known = [c for c in RECIPE_COLUMNS if c in table and table[c].notna().any()]
    if not known:
        raise FitError("the runs name neither lr nor batch_tokens; a recipe cannot be fitted")
    usable = (table[known] > 0).all(axis=1).to_numpy()
    table = table[usable]
    cell = table.groupby(["params", "tokens"], sort=True).ngroup().to_numpy()
    log = {c: np.log(table[c].to_numpy(dtype=np.float64)) for c in known}
    varied = [c for c in known if _within(log[c], cell) >= _SMALLEST_REACH]
    if not varied:
        raise FitError(
            f"{' and '.join(known)} hardly vary at one (N, D); a recipe needs several values "
            "there, a factor of 2 or more apart"
        )
    counts = np.bincount(cell)
    full = counts >= _FEWEST_RUNS
    if full.sum() < FEWEST_CELLS:
        raise FitError(
            f"{int(full.sum())} pairs of N and D have {_FEWEST_RUNS} runs or more; the laws need "
            f"{FEWEST_CELLS} such pairs"
        )
    keep = full[cell]
    cell = np.cumsum(full)[cell[keep]] - 1
    kept = table[keep]
    log_loss = np.log(kept["loss"].to_numpy(dtype=np.float64))
    best = np.full(int(full.sum()), np.inf)
    np.minimum.at(best, cell, log_loss)
    first = np.unique(cell, return_index=True)[1]
    recipe = np.stack([log[c][keep] for c in varied])
    middle = recipe.mean(axis=1)
    return Cells(
        names=tuple(NAMES[RECIPE_COLUMNS.index(c)] for c in varied),
        recipe=recipe - middle[:, None],
        middle=middle,
        log_loss=log_loss,
        excess=log_loss - best[cell],
        cell=cell,
        params=kept["params"].to_numpy(dtype=np.float64)[first],
        tokens=kept["tokens"].to_numpy(dtype=np.float64)[first],
    )


def _within(values: FloatArray, cell: np.ndarray) -> float:
    """Return the standard deviation of values about their cells' means."""
    counts = np.bincount(cell)
    return float(np.std(values - (np.bincount(cell, values) / counts)[cell]))


def cell_basis(grid: Cells) -> tuple[FloatArray, np.ndarray]:
    """Return (1, ln N/N0, ln D/D0) of each cell, [K, 3], and which exponents can be fitted."""
    n0, d0 = grid.reference
    x, z = np.log(grid.params / n0), np.log(grid.tokens / d0)
    slopes = np.array([np.ptp(x) > np.log(2.0), np.ptp(z) > np.log(2.0)])
    if slopes.all() and abs(np.corrcoef(x, z)[0, 1]) > 0.98:
        raise FitError(
            "N and D rise together in these cells, so that their effects on the recipe cannot be "
            "told apart; add cells with another number of tokens per parameter"
        )
    return np.stack([np.ones_like(x), x, z], axis=1), slopes
