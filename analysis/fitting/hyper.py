"""Fit the laws of learning rate and batch size to grids of both on several (N, D).

In a cell, the runs of one (N, D), the loss near its best is a quadratic in ln lr and ln batch:

    ln L = m_cell + 1/2 d^T H d,    d = (ln lr - ln lr_opt, ln batch - ln batch_opt)

with both optima power laws of N and D and one H for all cells. Written out, it is linear in m, in
H and in the products of H with the laws' exponents, so one linear least-squares problem over all
runs gives every law at once. Where a law lacks a term (a batch that does not depend on N) the
exponents follow by Gauss-Newton on the same moments. Each run weighs exp(-excess / depth), its
excess of log loss over its cell's lowest: far from the best the response is no quadratic. All
cells weigh the same, however many runs their grids have.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import FitError
from analysis.fitting.bowl import cell_moments, solve_laws
from analysis.fitting.cells import RECIPE_COLUMNS, Cells, cell_basis, read_cells
from analysis.laws.base import FloatArray
from analysis.laws.hyper import NAMES, HyperLaw
from analysis.runs import validate_runs

DEPTH = 0.005
"""Half a per cent of the loss. On Step Law's 42 cells, each left out in turn, the predicted recipe
costs .14 % of the loss at depths of .003 and .005, .16 % at .01 and .20 % at .02, where the wings
of the response decide."""

_DEPTHS = (0.5, 1.0, 2.0)
"""Times the depth: every resample takes one of these, since the exponents move with the depth by
as much as with the cells."""


@dataclass(frozen=True)
class HyperFit:
    """Laws of a recipe, fitted jointly.

    Attributes:
        laws: by name: `learning_rate`, `batch_size`, those that the runs vary.
        curvature: H in the order of `laws`, [V, V], of log loss.
        sigma: scatter of log loss about the quadratic, near the best.
        cells: a row for each (N, D): `params, tokens, runs, loss`, and for each law its best
            value there (`lr`, `batch_tokens`) and whether it lies within the cell's grid.
        notes: what a reader should know.
    """

    laws: dict[str, HyperLaw]
    curvature: FloatArray
    sigma: float
    cells: pd.DataFrame
    notes: tuple[str, ...] = ()

    def penalty(self, params: float, tokens: float, **recipe: float) -> float:
        """Return by how much ln L lies above the best recipe's, at least 0.

        What is not named is taken at its own best given the rest.

        Args:
            params, tokens: N and D.
            recipe: `learning_rate` and `batch_size` (tokens).
        """
        unknown = set(recipe) - set(self.laws)
        if unknown:
            raise FitError(f"no law was fitted for {', '.join(sorted(unknown))}")
        names = list(self.laws)
        given = [i for i, name in enumerate(names) if name in recipe]
        free = [i for i in range(len(names)) if i not in given]
        H = self.curvature[np.ix_(given, given)]
        if free and given:
            cross = self.curvature[np.ix_(given, free)]
            H = H - cross @ np.linalg.solve(self.curvature[np.ix_(free, free)], cross.T)
        best = [self.laws[names[i]].predict(params, tokens).value[0] for i in given]
        off = np.log([recipe[names[i]] for i in given]) - np.log(best)
        return float(0.5 * off @ H @ off)

    def compare(self, published: HyperLaw) -> dict[str, dict[str, Any]]:
        """Return each exponent, the published one, and whether it lies in the 90 % interval.

        The factors are compared where the runs lie, at the reference N and D: `value`.
        """
        mine = self.laws[published.name]
        here = mine.predict(*mine.reference)
        theirs = float(published.predict(*mine.reference).value[0])
        low, high = float(here.low[0]), float(here.high[0])
        result: dict[str, dict[str, Any]] = {
            "value": {"ours": float(here.value[0]), "low": low, "high": high, "published": theirs}
        }
        for name in ("N", "D"):
            entry = mine.parameters[name]
            result[name] = {
                "ours": entry["value"],
                "low": entry["low"],
                "high": entry["high"],
                "published": published.parameters[name]["value"],
            }
        for entry in result.values():
            entry["inside"] = bool(entry["low"] <= entry["published"] <= entry["high"])
        return result


def fit_hyper_laws(
    runs: pd.DataFrame,
    *,
    depth: float = DEPTH,
    batch_of_params: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> HyperFit:
    """Fit the laws of learning rate and batch size that the runs' grids allow.

    Args:
        runs: a run table with `lr` or `batch_tokens` or both, several runs at each (N, D). N is
            what `params` counts: Step Law leaves embeddings out.
        depth: weight of a run is exp(-excess / depth), excess in log loss over its cell's best;
            resamples take half of it and twice as much, too.
        batch_of_params: let the batch depend on N too; Step Law's form has no such term.
        bootstrap: resamples of whole cells, each at one of three depths.
        seed: of the resamples.

    Raises:
        RunTableError: the table cannot be used.
        FitError: too few cells, nothing varied, or no best recipe inside the grids.
    """
    if not depth > 0:
        raise FitError(f"depth must be above 0, not {depth}")
    grid = read_cells(validate_runs(runs))
    basis, slopes = cell_basis(grid)
    form = np.ones((len(grid.names), 3), dtype=bool)
    form[:, 1:] = slopes
    if "batch_size" in grid.names and not batch_of_params:
        form[grid.names.index("batch_size"), 1] = False
    moments = [cell_moments(grid, basis, depth * times, form) for times in _DEPTHS]
    gram, moment, sigma = moments[_DEPTHS.index(1.0)]
    total = solve_laws(gram.sum(axis=0)[None], moment.sum(axis=0)[None], form)
    laws, curvature = total[0][0], total[1][0]
    if np.linalg.eigvalsh(curvature).min() <= 0:
        raise FitError(
            "the loss has no minimum in learning rate and batch within these grids; widen them "
            "on both sides of the best runs"
        )
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(gram), np.full(len(gram), 1.0 / len(gram)), size=bootstrap)
    which = rng.integers(len(moments), size=bootstrap)
    drawn_gram, drawn_moment = (
        np.einsum("bk,bk...->b...", counts, np.stack([m[part] for m in moments])[which])
        for part in (0, 1)
    )
    drawn, bends = solve_laws(drawn_gram, drawn_moment, form)
    sound = np.isfinite(drawn).all(axis=(1, 2)) & (np.linalg.eigvalsh(bends).min(axis=1) > 0)
    notes = _notes(grid, form, int((~sound).sum()), bootstrap)
    return HyperFit(
        laws={
            name: _law(name, laws[i], drawn[sound, i], form[i], slopes, grid)
            for i, name in enumerate(grid.names)
        },
        curvature=curvature,
        sigma=sigma,
        cells=_cells(grid, laws, basis),
        notes=notes,
    )


def _law(
    name: str,
    theta: FloatArray,
    drawn: FloatArray,
    form: np.ndarray,
    slopes: np.ndarray,
    grid: Cells,
) -> HyperLaw:
    middle = float(grid.middle[grid.names.index(name)])
    covariance: FloatArray = np.full((3, 3), np.inf)
    if len(drawn) > 3:
        covariance = np.asarray(np.cov(drawn.T), dtype=np.float64)
    # An exponent whose N or D the cells do not vary is unknown; one that the form lacks is 0.
    unknown = np.array([False, *~slopes]) & ~np.array([False, name == "batch_size", False])
    covariance[unknown, :] = covariance[:, unknown] = 0.0
    covariance[unknown, unknown] = np.inf
    fixed = ("N",) if name == "batch_size" and not form[1] else ()
    return HyperLaw(
        name=name,
        theta=theta + np.array([middle, 0.0, 0.0]),
        covariance=covariance,
        reference=grid.reference,
        fixed=fixed,
        validity={
            "params": (float(grid.params.min()), float(grid.params.max())),
            "tokens": (float(grid.tokens.min()), float(grid.tokens.max())),
        },
        source=f"{len(grid.log_loss)} runs on {len(grid.params)} pairs of N and D",
    )


def _cells(grid: Cells, laws: FloatArray, basis: FloatArray) -> pd.DataFrame:
    best = laws @ basis.T
    table = pd.DataFrame(
        {
            "params": grid.params,
            "tokens": grid.tokens,
            "runs": np.bincount(grid.cell),
            "loss": [
                float(np.exp(grid.log_loss[grid.cell == k].min())) for k in range(len(basis))
            ],
        }
    )
    for i, name in enumerate(grid.names):
        column = RECIPE_COLUMNS[NAMES.index(name)]
        table[column] = np.exp(best[i] + grid.middle[i])
        low, high = (
            np.array([f(grid.recipe[i, grid.cell == k]) for k in range(len(basis))])
            for f in (np.min, np.max)
        )
        table[f"{column}_inside"] = (best[i] >= low) & (best[i] <= high)
    return table


def _notes(grid: Cells, form: np.ndarray, failed: int, bootstrap: int) -> tuple[str, ...]:
    notes = []
    missing = [name for name in NAMES if name not in grid.names]
    if missing:
        notes.append(f"no law of {missing[0].replace('_', ' ')}: the runs hardly vary it")
    for what, fitted in zip(("N", "D"), np.any(form, axis=0).tolist()[1:], strict=True):
        if not fitted:
            notes.append(f"the cells span less than a factor of 2 in {what}: its exponent is open")
    if failed > 0.05 * max(bootstrap, 1):
        notes.append(f"{failed} of {bootstrap} resamples had no minimum and were left out")
    return tuple(notes)
