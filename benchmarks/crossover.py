"""Autoregression against masked diffusion on the same few tokens, read again and again.

    python benchmarks/crossover.py --out runs/crossover                  the standard library
    python benchmarks/crossover.py --out runs/crossover --corpus books.parquet --params 34k 115k

Both families are trained on the same prefix of U tokens, at the same sizes and by the same recipe
at a constant rate, and observed after 1, 2, 4, ... epochs on the same validation windows. Each of
three arms takes the best of its recipes, by the lowest loss that seed 0 reaches, and repeats it
with the other seeds: `ar` and `mask` choose a learning rate, `ar-regularised` also a weight decay
and a dropout at the rate that `ar` chose. A run ends early once its loss has risen by --past above
its lowest. The autoregressive loss is exact and the diffusion loss a bound.

Stopped or killed, the same command goes on, and with more --epochs runs that have ended go on too:
at a constant rate the steps of a run are the first steps of a longer one. Left in --out: a folder
for each run, runs.csv (a run table), crossover.png and README.md.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
from crossover_page import write_page
from crossover_runs import (
    ARMS,
    EPOCHS,
    REGULARISED,
    Recipe,
    best,
    folder_of,
    go,
    lowest,
    planned,
)
from observed import observations, run_table

from analysis.units import parse_quantity


def run_all(pool: ProcessPoolExecutor, recipes: list[Recipe], options: argparse.Namespace) -> None:
    """Train these runs, some at once, and say which have ended."""
    if options.report:
        return
    waiting = {pool.submit(go, recipe, options): recipe for recipe in dict.fromkeys(recipes)}
    for done in waiting:
        print(f"{done.result()}  lowest {lowest(waiting[done], options):.4f}", flush=True)


def chosen_recipes(
    pool: ProcessPoolExecutor, options: argparse.Namespace
) -> tuple[list[Recipe], list[Recipe]]:
    """Train seed 0 of every recipe; return all of them, and the best of each arm and size."""
    tried, chosen = [], []
    first = [
        [Recipe(arm, params, lr) for lr in options.lr]
        for params in options.params
        for arm in ("ar", "mask")
        if arm in options.arms or (arm == "ar" and REGULARISED in options.arms)
    ]
    tried += [recipe for recipes in first for recipe in recipes]
    run_all(pool, tried, options)
    plain = [best(recipes, options) for recipes in first]
    chosen += [recipe for recipe in plain if recipe.arm in options.arms]
    if REGULARISED in options.arms:
        second = [
            [
                replace(recipe, arm=REGULARISED, weight_decay=decay, dropout=rate)
                for decay, rate in options.regularised
            ]
            for recipe in plain
            if recipe.arm == "ar"
        ]
        also = [recipe for recipes in second for recipe in recipes]
        run_all(pool, also, options)
        tried += also
        chosen += [best(recipes, options) for recipes in second]
    return tried, chosen


def table_of(recipes: list[Recipe], options: argparse.Namespace) -> pd.DataFrame:
    """Return all observations of these runs as a run table, one a row."""
    tables = [
        run_table(
            [(planned(recipe, options), observations(folder_of(recipe, options)))], "crossover"
        ).assign(arm=recipe.arm)
        for recipe in dict.fromkeys(recipes)
    ]
    return pd.concat(tables, ignore_index=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--corpus", default="python-stdlib", help="as in a study file")
    made.add_argument("--unique", type=parse_quantity, default=200_000, help="U, tokens")
    made.add_argument("--params", type=parse_quantity, nargs="+", default=[115e3])
    made.add_argument(
        "--epochs", type=_arm_epochs, nargs="+", default=[], metavar="[ARM=]EPOCHS",
        help=f"of the longest runs (default {EPOCHS:g}), or of an arm's: --epochs 128 ar=64",
    )  # fmt: skip
    made.add_argument("--lr", type=float, nargs="+", default=[0.006, 0.012])
    made.add_argument(
        "--regularised", type=_pair, nargs="+", default=[(0.3, 0.0), (0.0, 0.1), (0.3, 0.1)],
        metavar="DECAY,DROPOUT", help="what `ar-regularised` tries",
    )  # fmt: skip
    made.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    made.add_argument("--seeds", type=int, default=3, help="of each arm's chosen recipe")
    made.add_argument("--sequences", type=int, default=512, help="of the validation loss")
    made.add_argument("--batch", type=int, default=32, help="sequences of a step")
    made.add_argument("--past", type=float, default=0.05, help="nats above the lowest loss")
    made.add_argument(
        "--report", action="store_true", help="train nothing: write of what there is"
    )
    made.add_argument("--processes", type=int, default=2)
    return made


def _pair(text: str) -> tuple[float, float]:
    decay, rate = (float(part) for part in text.split(","))
    return decay, rate


def _arm_epochs(text: str) -> tuple[str | None, float]:
    arm, _, epochs = text.rpartition("=")
    if arm not in ("", *ARMS):
        raise argparse.ArgumentTypeError(f"no arm {arm!r}: one of {', '.join(ARMS)}")
    return arm or None, float(epochs)


def main() -> None:
    """Train, choose, repeat, report."""
    options = parser().parse_args()
    context = multiprocessing.get_context("spawn")
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        tried, chosen = chosen_recipes(pool, options)
        repeated = [
            replace(recipe, seed=seed) for seed in range(1, options.seeds) for recipe in chosen
        ]
        run_all(pool, repeated, options)
    table = table_of([*tried, *repeated], options)
    if table.empty:
        raise SystemExit(f"no run has been observed: {options.out / 'runs'} says why")
    write_page(table, [(recipe.arm, recipe.kind) for recipe in chosen], options.out)


if __name__ == "__main__":
    main()
