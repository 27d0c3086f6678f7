"""Autoregression against masked diffusion on the same few tokens, read again and again.

    python benchmarks/crossover.py --out runs/crossover                  the standard library
    python benchmarks/crossover.py --out runs/crossover --corpus books.parquet --params 34k 115k

Both families are trained on the same prefix of U tokens, at the same sizes and by the same recipe
at a constant rate, and observed after 1, 2, 4, ... epochs on the same validation windows. Each of
three arms takes the best of its recipes, by the lowest loss that seed 0 reaches, and repeats it
with the other seeds: `ar` and `mask` choose a learning rate, `ar-regularised` also a weight decay
and a dropout at the rate that `ar` chose. A run ends early once its loss has risen by --past above
its lowest. The autoregressive loss is exact and the diffusion loss a bound.

Stopped or killed, the same command goes on. Left in --out: a folder for each run, runs.csv (a run
table), crossover.png and README.md.
"""

import argparse
import math
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from crossover_page import write_page

from analysis.units import format_quantity, parse_quantity
from quokka_ray.campaign.ledger import read_rows
from quokka_ray.campaign.menu import plan_run, price
from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.model.shapes import shape_for
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.loader import load_study
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.run import train

STUDY = Path(__file__).parent.parent / "search_spaces" / "smoke.yaml"
FAMILY = {
    "mask": [],
    "ar": ["diffusion.kernel=none", "diffusion.objective=next_token", "diffusion.weight_power=1"],
}
REGULARISED = "ar-regularised"
ARMS = {"ar": "ar", REGULARISED: "ar", "mask": "mask"}


@dataclass(frozen=True)
class Recipe:
    """What one run of an arm may choose.

    Attributes:
        arm: One of `ARMS`.
        params: Parameters asked for.
        lr: Learning rate of AdamW; Muon's is 1.667 of it.
        weight_decay: Of the matrices.
        dropout: Share of elements.
        seed: Of initialisation, order, masks and dropout.
    """

    arm: str
    params: float
    lr: float
    weight_decay: float = 0.0
    dropout: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the run's folder; two arms share a run of the same recipe."""
        return f"{self.kind}-s{self.seed}"

    @property
    def kind(self) -> str:
        """What all its seeds are called."""
        return (
            f"{ARMS[self.arm]}-{format_quantity(self.params)}-lr{self.lr:g}"
            f"-wd{self.weight_decay:g}-drop{self.dropout:g}"
        )


def observed_epochs(last: float) -> list[float]:
    """Return 1, 2, 4, 8 and from there a point each half doubling, to `last`."""
    marks = [1.0, 2.0, 4.0, 8.0]
    while marks[-1] < last:
        marks.append(marks[-1] * (1.5 if math.log2(marks[-1]).is_integer() else 4 / 3))
    return [mark for mark in marks if mark < last] + [last]


def study_of(recipe: Recipe, options: argparse.Namespace) -> StudyConfig:
    """Return the quick start's recipe with this run's choices."""
    changes = [
        f"corpus={options.corpus}",
        *FAMILY[ARMS[recipe.arm]],
        f"training.weight_decay={recipe.weight_decay}",
        f"training.dropout={recipe.dropout}",
        f"training.batch_sequences={options.batch}",
        f"evaluation.sequences={options.sequences}",
        "training.report_seconds=30",
    ]
    return load_study([STUDY], changes, environ={})


def planned(recipe: Recipe, options: argparse.Namespace) -> TrajectoryConfig:
    """Return the whole configuration of one run."""
    study = study_of(recipe, options)
    corpus = TokenCorpus.open(prepare(study.corpus))
    unique = round(options.unique)
    if unique > corpus.train_tokens:
        raise SystemExit(
            f"--unique {format_quantity(unique)} is more than the {corpus.train_tokens:,} "
            "training tokens of the corpus: give a larger corpus, or lower it"
        )
    rung = price(
        shape_for(recipe.params, study.model, corpus.vocab_size), study, corpus.vocab_size
    )
    # Warmup is a share of the first observation: 5 % of an epoch, the same for all.
    steps = [
        max(1, round(epochs * unique / rung.step_tokens))
        for epochs in observed_epochs(options.epochs)
    ]
    points = [step * rung.step_tokens for step in steps]
    return plan_run(
        recipe.name,
        study,
        corpus,
        rung,
        tokens=points[-1],
        unique_tokens=unique,
        lr=recipe.lr,
        lr_schedule="constant",
        seed=recipe.seed,
        earlier_points=points[:-1],
    )


def is_past(losses: Iterable[float], margin: float) -> bool:
    """Return whether the last loss lies `margin` above the lowest one before it."""
    seen = list(losses)
    return len(seen) > 1 and seen[-1] > min(seen) + margin


def observations(recipe: Recipe, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of what a run has observed, in the order of their tokens."""
    rows = read_rows(options.out / "runs" / recipe.name / "metrics.jsonl")
    kept = {row["tokens"]: row for row in rows if row["kind"] == "observation" and row["loss"]}
    return [kept[tokens] for tokens in sorted(kept)]


def go(recipe: Recipe, options: argparse.Namespace) -> str:
    """Train one run to its end, or to where its loss has risen enough; return its name."""

    def past(*_: Any) -> bool:
        return is_past((row["loss"] for row in observations(recipe, options)), options.past)

    rising = past()

    def watch(row: dict[str, Any]) -> None:
        nonlocal rising
        if row["kind"] == "observation":
            rising = past()

    if not rising:
        train(
            planned(recipe, options),
            options.out / "runs" / recipe.name,
            report=watch,
            should_stop=lambda: rising,
        )
    return recipe.name


def lowest(recipe: Recipe, options: argparse.Namespace) -> float:
    """Return the lowest loss of a run; infinite if it has none, such as one that diverged."""
    return min((row["loss"] for row in observations(recipe, options)), default=math.inf)


def best(recipes: list[Recipe], options: argparse.Namespace) -> Recipe:
    """Return the recipe whose run reached the lowest loss."""
    return min(recipes, key=lambda recipe: lowest(recipe, options))


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
    rows = []
    for recipe in dict.fromkeys(recipes):
        config = planned(recipe, options)
        spent = 0.0
        for seen in observations(recipe, options):
            tokens = seen["tokens"]
            rows.append(
                {
                    "study": "crossover",
                    "arm": recipe.arm,
                    "trajectory": config.id,
                    "observation": seen["observation"],
                    "params": config.params,
                    "params_non_embedding": config.params_non_embedding,
                    "tokens": tokens,
                    "unique_tokens": min(tokens, config.unique_tokens),
                    "epochs": tokens / min(tokens, config.unique_tokens),
                    "flops": 6.0 * config.params * tokens,
                    "loss": seen["loss"],
                    "loss_stderr": seen["loss_stderr"],
                    "train_loss": seen["train_loss"],
                    "lr": config.lr,
                    "lr_schedule": config.lr_schedule,
                    "batch_tokens": config.batch_tokens,
                    "seq_len": config.model.seq_len,
                    "kernel": config.diffusion.kernel,
                    "objective": config.diffusion.objective,
                    "weight_decay": config.training.weight_decay,
                    "dropout": config.training.dropout,
                    "seed": config.seed,
                    "corpus": config.corpus_hash,
                    "tokenizer": config.tokenizer,
                    "evaluator": seen["evaluator"],
                    "cooled": seen["cooled"],
                    "flops_spent": seen["flops_spent"] - spent,
                    "status": "finished",
                }
            )
            spent = seen["flops_spent"]
    return pd.DataFrame(rows)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--corpus", default="python-stdlib", help="as in a study file")
    made.add_argument("--unique", type=parse_quantity, default=200_000, help="U, tokens")
    made.add_argument("--params", type=parse_quantity, nargs="+", default=[115e3])
    made.add_argument("--epochs", type=float, default=64.0, help="of the longest runs")
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
