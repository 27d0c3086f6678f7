"""A pool of tiny trajectories, trained once, on which designs of a search can be replayed.

    python benchmarks/live_pool.py --out runs/live_pool                the standard library, bytes
    python benchmarks/live_pool.py --out runs/live_pool --report       train nothing more

The quick start's recipe at its own learning rate, over five levels of compute (6ND) of five or
six sizes with three seeds each, four levels between them with one seed, and one level three times
dearer than all others with two seeds: it is what laws have to predict. Every third trajectory is
observed at D/4 and D/2 too, by branches that cool down.

Trajectories are trained in rounds, a whole grid before its second seed, so that a pool that was
stopped early is one of fewer seeds. Stopped or killed, the same command goes on. Left in --out: a
folder for each trajectory, and runs.csv, the run table.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from observed import observations, run_table

from quokka_ray.campaign.ledger import read_rows
from quokka_ray.campaign.menu import MIN_STEPS, plan_run, price
from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.model.shapes import depth_of, make_shape
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.loader import load_study
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.run import train

STUDY = Path(__file__).parent.parent / "search_spaces" / "smoke.yaml"

GRID = {
    1.5e10: (8, 16, 24, 32, 40),
    3.2e10: (8, 16, 24, 32, 40, 48),
    6.8e10: (8, 16, 24, 32, 48, 64),
    1.5e11: (16, 24, 32, 48, 64, 80),
    3.2e11: (16, 24, 32, 48, 64, 96),
}
"""Widths at each level of compute, 6ND."""
BETWEEN = {
    2.2e10: (8, 16, 24, 32, 40),
    4.7e10: (8, 16, 24, 40, 56),
    1.0e11: (16, 24, 32, 48, 72),
    2.2e11: (16, 32, 40, 56, 80),
}
DEAREST = {1e12: (24, 32, 48, 64, 80, 104)}
BRANCH_RATIO = 2


@dataclass(frozen=True)
class Place:
    """One trajectory of the pool.

    Attributes:
        width: Its d_model.
        flops: Its level of compute, 6ND.
        seed: Of initialisation, order and masks.
        branches: Whether it is observed at D/4 and D/2 too.
    """

    width: int
    flops: float
    seed: int
    branches: bool

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"d{self.width}-{self.flops:.1e}-s{self.seed}"


def _cells(levels: dict[float, tuple[int, ...]]) -> list[tuple[int, float]]:
    return [(width, flops) for flops, widths in levels.items() for width in widths]


def places(seeds: int = 3) -> Iterator[Place]:
    """Yield the trajectories in the order in which they are trained."""
    grid, between, dearest = _cells(GRID), _cells(BETWEEN), _cells(DEAREST)
    rounds = [(grid + dearest, 0), (between, 0), (grid + dearest, 1)]
    rounds += [(grid, seed) for seed in range(2, seeds)]
    for cells, seed in rounds:
        for number, (width, flops) in enumerate(cells):
            yield Place(width, flops, seed, branches=(number + seed) % 3 == 0)


@cache
def _recipe(corpus: str, sequences: int) -> tuple[StudyConfig, TokenCorpus]:
    changes = [
        f"corpus={corpus}",
        f"evaluation.sequences={sequences}",
        "training.report_seconds=30",
    ]
    study = load_study([STUDY], changes, environ={})
    return study, TokenCorpus.open(prepare(study.corpus))


def planned(place: Place, options: argparse.Namespace) -> TrajectoryConfig:
    """Return the whole configuration of one trajectory."""
    study, corpus = _recipe(options.corpus, options.sequences)
    rung = price(
        make_shape(place.width, depth_of(place.width), study.model), study, corpus.vocab_size
    )
    steps = round(place.flops / (6 * rung.params * rung.step_tokens))
    earlier = [round(steps / BRANCH_RATIO**back) for back in (2, 1)] if place.branches else []
    return plan_run(
        place.name,
        study,
        corpus,
        rung,
        tokens=steps * rung.step_tokens,
        unique_tokens=corpus.train_tokens,
        lr=study.training.lr,
        lr_schedule="wsd",
        seed=place.seed,
        earlier_points=[step * rung.step_tokens for step in earlier if step >= MIN_STEPS],
    )


def folder_of(place: Place, options: argparse.Namespace) -> Path:
    """Return where one trajectory keeps everything."""
    return Path(options.out) / "runs" / place.name


def go(place: Place, options: argparse.Namespace) -> str:
    """Train one trajectory to its end, unless it is there; return its name."""
    config = planned(place, options)
    folder = folder_of(place, options)
    seen = observations(folder)
    if len(seen) < len(config.points):
        begun = time.process_time()
        train(config, folder, report=lambda row: None)
        with (folder / "cpu_seconds.jsonl").open("a") as file:
            file.write(json.dumps({"cpu_seconds": time.process_time() - begun}) + "\n")
    return place.name


def table_of(options: argparse.Namespace) -> pd.DataFrame:
    """Return all observations of trajectories that have ended, one a row, as a run table."""
    trained = [
        (planned(place, options), observations(folder_of(place, options)))
        for place in places(options.seeds)
    ]
    ended = [(config, seen) for config, seen in trained if len(seen) == len(config.points)]
    return run_table(ended, "live_pool")


def cpu_seconds(options: argparse.Namespace) -> float:
    """Return the CPU seconds of all training and evaluation that ended without a kill."""
    return sum(
        row["cpu_seconds"]
        for place in places(options.seeds)
        for row in read_rows(folder_of(place, options) / "cpu_seconds.jsonl")
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--corpus", default="python-stdlib", help="as in a study file")
    made.add_argument("--seeds", type=int, default=3, help="of the five levels' cells")
    made.add_argument("--sequences", type=int, default=512, help="of the validation loss")
    made.add_argument(
        "--report", action="store_true", help="train nothing: write of what there is"
    )
    made.add_argument("--processes", type=int, default=2)
    return made


def main() -> None:
    """Train what is missing, and write the run table."""
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.report:
        _recipe(options.corpus, options.sequences)  # Prepared once, before processes ask for it.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
            waiting = [pool.submit(go, place, options) for place in places(options.seeds)]
            for number, done in enumerate(waiting, start=1):
                print(f"{number} of {len(waiting)}: {done.result()}", flush=True)
    table = table_of(options)
    if table.empty:
        raise SystemExit(f"no trajectory has ended in {options.out}")
    table.to_csv(options.out / "runs.csv", index=False)
    print(
        f"{table['trajectory'].nunique()} trajectories, {len(table)} observations, "
        f"{table['flops_spent'].sum():.3g} exact FLOPs, {cpu_seconds(options):.0f} CPU seconds: "
        f"{options.out / 'runs.csv'}"
    )


if __name__ == "__main__":
    main()
