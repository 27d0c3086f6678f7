"""Designs replayed on the pool of `live_pool.py`: who predicts its dearest runs for the least?

    python benchmarks/live_replay.py docs/results/live_pool/runs.csv --out runs/live_replay

The dearest tenth of the trajectories is held out, with its branches. Every other observation can
be bought once, for the 6ND of a run that ends there, so that no design gains from branches. What
differs between repeats: the order of the table, which decides between the seeds of one place; the
start of a search; and the sizes and seeds that a grid takes.

A grid takes five sizes at each level of the pool's grid; its smaller budgets are its cheaper
levels. It is read by Approach 2 (a parabola in ln N for each level; N_opt a power of C, the minima
E + k C^-g, and the parabolas' mean bend between them) and by laws. An error is the root mean
square of ln(predicted / observed) over the held-out trajectories.

Left in --out: scores.csv, one row for each repeat, budget and way to read the purchases.

    python benchmarks/live_replay.py RUNS.csv --out runs/live_replay --searches runs/*/runs.csv

scores the run tables of true searches on the same held-out trajectories instead.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from live_pool import GRID

from analysis.designs import (
    d_optimal,
    knowledge_gradient,
    random,
    searching,
    space_filling,
    steered,
    thompson,
)
from analysis.errors import AnalysisError, FitError
from analysis.fitting.fit import fit_law
from analysis.fitting.isoflop import isoflop_parabolas
from analysis.laws.base import FloatArray
from analysis.replay import ESTIMATORS, Design, Purchases, TableWorld

HELD_OUT = 0.1
"""Share of the trajectories, the dearest ones."""
SIZES = 5
ON_LEVEL = 0.02
"""A run whose 6ND is nearer to a level than this was planned on it: steps are whole numbers."""
GRID_COST = SIZES * sum(GRID)
"""6ND of the grid of five levels and five sizes."""
SHARES = (1 / 6, 1 / 3, 2 / 3)
"""Budgets of all designs but the grid, over what the grid costs."""


@dataclass(frozen=True)
class ParabolaSurface:
    """Approach 2 as a surface: ln L = ln(E + k C^-g) + bend (ln N - ln N_opt(C))^2.

    Attributes:
        minima: ln(E + k C^-g) of ln C.
        sizes: ln N_opt = sizes[0] + sizes[1] ln C.
        bend: mean of the levels' parabolas.
    """

    minima: Callable[[FloatArray], FloatArray]
    sizes: tuple[float, float]
    bend: float

    @classmethod
    def of(cls, runs: pd.DataFrame) -> "ParabolaSurface":
        """Fit it to a grid.

        Raises:
            FitError: fewer than three levels show both arms.
        """
        logged = np.log(runs["loss"].to_numpy(dtype=np.float64))
        found = isoflop_parabolas(runs, loss=logged)
        seen = found.minima[found.minima["both_arms"].astype(bool)]
        if found.params_law is None or len(seen) < 3:
            raise FitError(f"{len(seen)} levels show both arms; three are needed")
        law = found.params_law
        return cls(
            _falling_power(np.log(seen["flops"].to_numpy(float)), seen["loss"].to_numpy(float)),
            (float(np.log(law.factor)), law.exponent),
            float(seen["c2"].mean()),
        )

    def log_loss(self, log_params: FloatArray, log_flops: FloatArray) -> FloatArray:
        """Return ln L."""
        off = log_params - self.sizes[0] - self.sizes[1] * log_flops
        return self.minima(log_flops) + self.bend * off**2


def _falling_power(log_flops: FloatArray, log_loss: FloatArray) -> Callable[..., FloatArray]:
    """Return ln(E + k C^-g) by least squares, k > 0 and E >= 0, the power by search."""
    loss, centre = np.exp(log_loss), float(log_flops.mean())
    best, answer = np.inf, (loss.mean(), 0.0, 0.1)
    for power in np.linspace(0.02, 0.8, 157):
        falling = np.exp(-power * (log_flops - centre))
        basis = np.stack([np.ones_like(falling), falling], axis=1)
        (floor, factor), *_ = np.linalg.lstsq(basis, loss, rcond=None)
        if floor < 0:
            floor, factor = 0.0, float(falling @ loss / (falling @ falling))
        misfit = float(((floor + factor * falling - loss) ** 2).sum())
        if factor > 0 and misfit < best:
            best, answer = misfit, (float(floor), float(factor), float(power))
    floor, factor, power = answer
    return lambda there: np.log(floor + factor * np.exp(-power * (there - centre)))


@dataclass(frozen=True)
class Pool:
    """The pool in two parts."""

    kept: pd.DataFrame
    held_out: pd.DataFrame

    @classmethod
    def of(cls, runs: pd.DataFrame) -> "Pool":
        """Hold out the dearest trajectories: their last observations judge."""
        last = runs.sort_values("tokens").groupby("trajectory", sort=False).tail(1)
        count = round(HELD_OUT * len(last))
        # Places of one level cost the same but for whole steps.
        dearest = last.nlargest(count, "flops")
        others = runs[~runs["trajectory"].isin(dearest["trajectory"])]
        return cls(others.reset_index(drop=True), dearest.reset_index(drop=True))

    def world(self, seed: int) -> TableWorld:
        """Return the pool in an order of its own."""
        shuffled = self.kept.sample(frac=1.0, random_state=seed).reset_index(drop=True)
        return TableWorld.of(shuffled, self.held_out)


DESIGNS: dict[str, Design] = {
    "searching": searching,
    "steered": steered,
    "random": random,
    "space filling": space_filling,
    "D-optimal": d_optimal,
    "Thompson": thompson,
    "knowledge gradient": knowledge_gradient,
}


def grid_of(world: TableWorld, levels: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of a grid: the cheapest levels, five sizes each, one seed a place.

    A level of six sizes goes without its smallest or its largest.
    """
    work = 6.0 * world.menu["params"] * world.menu["tokens"]
    chosen = []
    for level in sorted(GRID)[:levels]:
        rows = world.menu[np.abs(work / level - 1.0) < ON_LEVEL]
        sizes = sorted(rows["params"].unique())
        while len(sizes) > SIZES:
            sizes.pop(rng.choice([0, -1]))
        chosen += [int(rng.choice(rows.index[rows["params"] == size])) for size in sizes]
    return chosen


def errors(read: Callable[[pd.DataFrame], Any], bought: pd.DataFrame, world: TableWorld) -> Any:
    """Return the scores of one way to read purchases; NaN where it cannot."""
    try:
        law = read(bought)
    except AnalysisError:
        return {"rmse": np.nan}
    if isinstance(law, ParabolaSurface):
        x = np.log(world.wanted["params"].to_numpy(dtype=np.float64))
        z = np.log(world.wanted["tokens"].to_numpy(dtype=np.float64))
        off = law.log_loss(x, np.log(6.0) + x + z) - np.log(world.truth)
        return {"rmse": float(np.sqrt(np.mean(off**2))), "bias": float(off.mean())}
    found = law.predict(world.wanted["params"], world.wanted["tokens"], noise=True)
    bias = float(np.mean(np.log(found.value / world.truth)))
    return {**world.score(law), "bias": bias}


def _bought(world: TableWorld, design: str, budget: float, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    purchases = Purchases(world, budget, ESTIMATORS["five_parameters"])
    while purchases.affordable.size:
        run = int(DESIGNS[design](purchases, rng))
        purchases.bought.append(run)
        purchases.losses.append(world.buy(run, rng))
    return purchases.bought


@cache
def _pool(path: Path) -> Pool:
    return Pool.of(pd.read_csv(path))


LAWS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "mixture": ESTIMATORS["mixture"],
    "five parameters": ESTIMATORS["five_parameters"],
    "calibrated": ESTIMATORS["calibrated"],
    "bounded": partial(fit_law, law="bounded", bootstrap=20),
}
"""How any purchases are read; `calibrated` is the law that a search reports by default."""


def searched(path: Path, search: Path) -> list[dict[str, Any]]:
    """Return the scores of a true search's finished runs, a row for each way to read them."""
    world = _pool(path).world(0)
    runs = pd.read_csv(search)
    runs = runs[runs["status"] == "finished"]
    spent = float((6.0 * runs["params"] * runs["tokens"]).sum())
    place = {"search": str(search), "runs": len(runs), "share": round(spent / GRID_COST, 4)}
    return [{**place, "reader": name, **errors(read, runs, world)} for name, read in LAWS.items()]


def measure(task: tuple[Path, str, int, tuple[float, ...]]) -> list[dict[str, Any]]:
    """Return the scores of one design and seed, a row for each budget and way to read it."""
    path, design, seed, shares = task
    world = _pool(path).world(seed)
    readers = dict(LAWS)
    if design == "grid":
        readers["Approach 2"] = ParabolaSurface.of
        rng = np.random.default_rng(seed)
        sets = [grid_of(world, levels, rng) for levels in range(3, len(GRID) + 1)]
    else:
        sets = [_bought(world, design, share * GRID_COST * (1 + 1e-9), seed) for share in shares]
    rows = []
    for number, bought in enumerate(sets):
        table = world.menu.iloc[bought].assign(loss=world.recorded[bought])
        spent = float(table["cost"].sum())
        share = spent / GRID_COST if design == "grid" else shares[number]
        for name, read in readers.items():
            row = {"design": design, "seed": seed, "reader": name, "share": round(share, 4)}
            row |= {"runs": len(bought), "spent": spent}
            rows.append(row | errors(read, table, world))
    return rows


def main() -> None:
    """Replay, and keep every score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the pool's run table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--designs", nargs="+", default=["grid", *DESIGNS])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--searches", type=Path, nargs="+", default=[], help="run tables of true searches"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.searches:
        found = pd.DataFrame(
            [row for search in options.searches for row in searched(options.runs, search)]
        )
        found.to_csv(options.out / "searches.csv", index=False)
        print(found.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
        return
    tasks = [
        (options.runs, design, seed, SHARES)
        for design in options.designs
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        rows = [row for found in pool.map(measure, tasks) for row in found]
    scores = pd.DataFrame(rows)
    scores.to_csv(options.out / "scores.csv", index=False)
    medians = scores.groupby(["design", "reader", "share"], sort=False)[["rmse", "runs"]].median()
    print(medians.to_string(float_format=lambda v: f"{v:.4f}"))


if __name__ == "__main__":
    main()
