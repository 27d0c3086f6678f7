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

FEWEST_CELLS = 4
_FEWEST_RUNS = 6
_COLUMNS = ("lr", "batch_tokens")
_SMALLEST_REACH = 0.5
"""Standard deviation of ln lr or ln batch within cells under which it counts as not varied."""

_STEPS = 25
_HUBER = 1.345


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
    grid = _grid(validate_runs(runs))
    basis, slopes = _basis(grid)
    form = np.ones((len(grid.names), 3), dtype=bool)
    form[:, 1:] = slopes
    if "batch_size" in grid.names and not batch_of_params:
        form[grid.names.index("batch_size"), 1] = False
    moments = [_moments(grid, basis, depth * times, form) for times in _DEPTHS]
    gram, moment, sigma = moments[_DEPTHS.index(1.0)]
    total = _solve(gram.sum(axis=0)[None], moment.sum(axis=0)[None], form)
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
    drawn, bends = _solve(drawn_gram, drawn_moment, form)
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


@dataclass(frozen=True)
class _Grid:
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


def _grid(table: pd.DataFrame) -> _Grid:
    known = [c for c in _COLUMNS if c in table and table[c].notna().any()]
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
    return _Grid(
        names=tuple(NAMES[_COLUMNS.index(c)] for c in varied),
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


def _basis(grid: _Grid) -> tuple[FloatArray, np.ndarray]:
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


def _moments(
    grid: _Grid, basis: FloatArray, depth: float, form: np.ndarray
) -> tuple[FloatArray, FloatArray, float]:
    """Return each cell's weighted moments [K, F, F] and [K, F], and the scatter.

    Features are each recipe coordinate times (1, x, z), then the quadratic ones. Cells' own
    levels are taken out by centring; outliers are cut by Huber's weights.
    """
    size = len(grid.names)
    pairs = [(i, j) for i in range(size) for j in range(i, size)]
    linear = (grid.recipe[:, None, :] * basis[grid.cell].T[None]).reshape(3 * size, -1)
    square = np.stack(
        [grid.recipe[i] * grid.recipe[j] * (0.5 if i == j else 1.0) for i, j in pairs]
    )
    features = np.concatenate([linear, square]).T
    count = len(basis)
    weights = np.exp(-grid.excess / depth)
    near = weights > 0.1
    weights = weights / np.bincount(grid.cell, weights, count)[grid.cell]
    robust = np.ones_like(weights)
    sigma = 0.0
    for _ in range(20):
        w = weights * robust
        mass = np.bincount(grid.cell, w, count)
        mean = np.zeros((count, features.shape[1]))
        np.add.at(mean, grid.cell, w[:, None] * features)
        off = features - (mean / mass[:, None])[grid.cell]
        target = (
            grid.log_loss - (np.bincount(grid.cell, w * grid.log_loss, count) / mass)[grid.cell]
        )
        gram, moment = np.zeros((count, off.shape[1], off.shape[1])), np.zeros(mean.shape)
        for k in range(count):
            rows = grid.cell == k
            weighted = off[rows] * w[rows, None]
            gram[k], moment[k] = weighted.T @ off[rows], weighted.T @ target[rows]
        laws, curvature = _solve(gram.sum(axis=0)[None], moment.sum(axis=0)[None], form)
        residual = target - off @ _linear(laws, curvature)[0]
        previous, sigma = sigma, 1.4826 * float(np.median(np.abs(residual[near])))
        robust = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(residual), 1e-12))
        if abs(sigma - previous) <= 1e-4 * sigma:
            break
    return gram, moment, sigma


def _linear(laws: FloatArray, curvature: FloatArray) -> FloatArray:
    """Return the coefficients of the features, [B, F], of laws [B, V, 3] and H [B, V, V]."""
    size = laws.shape[1]
    slopes = -np.matmul(curvature, laws).reshape(len(laws), -1)
    upper = np.triu_indices(size)
    return np.concatenate([slopes, curvature[:, upper[0], upper[1]]], axis=1)


def _solve(
    gram: FloatArray, moment: FloatArray, form: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Return laws [B, V, 3] and H [B, V, V] at the lowest weighted square error."""
    size = form.shape[0]
    upper = np.triu_indices(size)
    quadratic = np.arange(3 * size, gram.shape[1])
    used = np.concatenate([np.flatnonzero(np.tile(form.any(axis=0), size)), quadratic])
    free = np.zeros(moment.shape)
    free[:, used] = _stable(gram[:, used[:, None], used], moment[:, used])
    curvature: FloatArray = np.empty((len(gram), size, size))
    curvature[:, upper[0], upper[1]] = free[:, quadratic]
    curvature[:, upper[1], upper[0]] = free[:, quadratic]
    slopes = free[:, : 3 * size].reshape(-1, size, 3)
    laws = _solved(curvature + 1e-12 * np.eye(size), -slopes)
    if bool((form | ~form.any(axis=0)).all()):
        return laws, curvature
    laws = np.where(form, laws, 0.0)
    entries = np.argwhere(form)
    for _ in range(_STEPS):
        # d(coefficients) / d(each exponent in the form, each entry of H).
        jacobian = np.zeros((len(gram), gram.shape[1], len(entries) + len(quadratic)))
        for column, (which, term) in enumerate(entries):
            jacobian[:, term : 3 * size : 3, column] = -curvature[:, :, which]
        for column, (i, j) in enumerate(zip(*upper, strict=True), start=len(entries)):
            jacobian[:, 3 * i : 3 * i + 3, column] -= laws[:, j]
            if i != j:
                jacobian[:, 3 * j : 3 * j + 3, column] -= laws[:, i]
            jacobian[:, 3 * size + column - len(entries), column] = 1.0
        left = moment - np.einsum("bij,bj->bi", gram, _linear(laws, curvature))
        turned = jacobian.swapaxes(1, 2)
        step = _stable(turned @ gram @ jacobian, np.einsum("bpf,bf->bp", turned, left))
        laws[:, entries[:, 0], entries[:, 1]] += step[:, : len(entries)]
        curvature[:, upper[0], upper[1]] += step[:, len(entries) :]
        curvature[:, upper[1], upper[0]] = curvature[:, upper[0], upper[1]]
        if np.nanmax(np.abs(step)) < 1e-10:
            break
    return laws, curvature


def _stable(matrix: FloatArray, vector: FloatArray) -> FloatArray:
    """Solve a stack of positive semidefinite systems, columns scaled to the same size."""
    scale = 1.0 / np.sqrt(np.maximum(np.diagonal(matrix, axis1=1, axis2=2), 1e-300))
    unit = matrix * scale[:, :, None] * scale[:, None, :] + 1e-12 * np.eye(matrix.shape[1])
    return _solved(unit, (vector * scale)[..., None])[..., 0] * scale


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    solution: Any = np.linalg.solve(matrix, right)
    return np.asarray(solution, dtype=np.float64)


def _law(
    name: str,
    theta: FloatArray,
    drawn: FloatArray,
    form: np.ndarray,
    slopes: np.ndarray,
    grid: _Grid,
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


def _cells(grid: _Grid, laws: FloatArray, basis: FloatArray) -> pd.DataFrame:
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
        column = _COLUMNS[NAMES.index(name)]
        table[column] = np.exp(best[i] + grid.middle[i])
        low, high = (
            np.array([f(grid.recipe[i, grid.cell == k]) for k in range(len(basis))])
            for f in (np.min, np.max)
        )
        table[f"{column}_inside"] = (best[i] >= low) & (best[i] <= high)
    return table


def _notes(grid: _Grid, form: np.ndarray, failed: int, bootstrap: int) -> tuple[str, ...]:
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
