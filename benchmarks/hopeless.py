r"""Recipes of all qualities, trained once, and what a search would have ended of them.

    python benchmarks/hopeless.py train --out runs/muon
    python benchmarks/hopeless.py train --out runs/adamw --seed 8 --largest 6.8e10 \
        --set training.optimizer=adamw
    python benchmarks/hopeless.py replay docs/results/hopeless/muon.csv

`train`: sizes, compute, learning rates (a tenth to ten times the stated one) and schedules are
drawn at random; every trajectory goes to its end and notes its training loss at the shares of its
tokens at which a search judges it. Stopped or killed, the same command goes on.

`replay`: the trajectories come in random orders, and each is judged by those before it that were
not ended, by the law of these, refitted with every fifth. An alarm is false where the run ended
within the margin of the law of all of them.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from observed import observations, run_table

from analysis.fitting.fit import Fit, fit_law
from analysis.hopeless import FEWEST, SHARES, Curves, ceilings
from analysis.laws.base import FloatArray, Points
from quokka_ray.campaign.ledger import read_rows
from quokka_ray.campaign.menu import plan_run, price
from quokka_ray.campaign.promises import noted
from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.model.shapes import depth_of, make_shape
from quokka_ray.study.config import HopelessConfig, StudyConfig
from quokka_ray.study.loader import load_study
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.run import train

STUDY = Path(__file__).parent.parent / "search_spaces" / "smoke.yaml"

WIDTHS = {
    1.5e10: (8, 16, 24, 32, 40),
    3.2e10: (8, 16, 24, 32, 48),
    6.8e10: (16, 24, 32, 48, 64),
    1.5e11: (24, 32, 48, 64, 80),
}
"""Widths at each level of compute, 6ND."""
FACTORS = ((0.4, 2.5), (0.1, 10.0))
"""Of the stated learning rate, in turn: as a search has them late, and early."""
DEAREST = 8
"""Every so manieth trajectory is of the largest level."""
SCHEDULES = ("wsd", "wsd", "cosine")
REFITTED = 5
PASSED = [f"passed_{share:g}" for share in SHARES]
"""Columns of the training loss at each share, nats."""


def planned(
    number: int, study: StudyConfig, corpus: TokenCorpus, options: argparse.Namespace
) -> TrajectoryConfig:
    """Return the trajectory of a number: the same however many there are."""
    cells = [(w, f) for f, widths in WIDTHS.items() if f <= options.largest for w in widths]
    rng = np.random.default_rng([options.seed, number])
    if number % DEAREST:
        width, flops = cells[int(rng.integers(len(cells)))]
    else:
        dear = [cell for cell in cells if cell[1] == cells[-1][1]]
        width, flops = dear[number // DEAREST % len(dear)]
    factor = math.exp(rng.uniform(*np.log(FACTORS[number % len(FACTORS)])))
    rung = price(make_shape(width, depth_of(width), study.model), study, corpus.vocab_size)
    config = plan_run(
        f"{number:03d}",
        study,
        corpus,
        rung,
        tokens=round(flops / (6 * rung.params * rung.step_tokens)) * rung.step_tokens,
        unique_tokens=corpus.train_tokens,
        lr=study.training.lr * factor,
        lr_schedule=SCHEDULES[number % len(SCHEDULES)],
        seed=1000 + number,
    )
    return config.model_copy(update={"promise": noted(HopelessConfig())})


def table_of(out: Path, configs: list[TrajectoryConfig]) -> pd.DataFrame:
    """Return the trajectories that finished as a run table with their losses on the way."""
    seen, passed = [], []
    for config in configs:
        rows = read_rows(out / config.id / "metrics.jsonl")
        ended = [row for row in rows if row["kind"] == "ended" and row["status"] == "finished"]
        if ended:
            seen.append((config, observations(out / config.id)))
            passed.append(ended[-1]["passed"])
    table = run_table(seen, "hopeless").reset_index(drop=True)
    return pd.concat([table, pd.DataFrame(passed, columns=PASSED)], axis=1)


@dataclass(frozen=True)
class Judged:
    """What became of one run in a replay.

    Attributes:
        excess: of ln loss over the law of all runs.
        flops: what it cost to its end.
        at: the share of its tokens at which it was ended; None: it went on.
    """

    excess: float
    flops: float
    at: float | None


def law_of(runs: pd.DataFrame) -> Fit:
    """Return the law that a search's steering would take for true."""
    return fit_law(runs, law="chinchilla", discrepancy="none", bootstrap=0, priors="weak")


def _above(law: Fit, runs: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Return how far runs are above a law at their ends, [R], and on their way, [R, S]."""
    params, tokens = (runs[name].to_numpy(dtype=np.float64) for name in ("params", "tokens"))
    end = np.log(runs["loss"].to_numpy(dtype=np.float64))
    way = np.log(runs[PASSED].to_numpy(dtype=np.float64))
    shares = np.array(SHARES)
    there = Points.of(params[:, None], tokens[:, None] * shares)
    return (
        end - law.law.log_loss(law.theta, Points.of(params, tokens)),
        way - law.law.log_loss(law.theta, there).reshape(way.shape),
    )


def _unsure(law: Fit, run: pd.DataFrame) -> float:
    """Return the standard deviation of ln loss of a tuned run in the place of `run`."""
    gradient = law.law.gradient(law.theta, Points.of(run["params"], run["tokens"]))[0]
    return float(np.sqrt(gradient @ law.covariance @ gradient + law.sigma**2))


def _traits(runs: pd.DataFrame, schedule: str) -> FloatArray:
    logs = np.log(runs[["params", "tokens", "lr"]].to_numpy(dtype=np.float64))
    return np.column_stack([logs, (runs["lr_schedule"] != schedule).to_numpy(dtype=np.float64)])


def replay(runs: pd.DataFrame, rule: HopelessConfig, seed: int) -> Iterator[Judged]:
    """Yield what becomes of each run that is judged, in one random order."""
    truth, _ = _above(law_of(runs), runs)
    kept: list[int] = []
    law: Fit | None = None
    for number in np.random.default_rng(seed).permutation(len(runs)):
        run, past = runs.iloc[[number]], runs.iloc[kept]
        kept.append(number)
        if len(past) < FEWEST:
            continue
        if law is None or len(past) % REFITTED == 0:
            law = law_of(past)
        excess, passed = _above(law, past)
        schedule = run["lr_schedule"].iloc[0]
        curves = Curves(excess, passed, _traits(past, schedule))
        limit = ceilings(
            curves,
            _traits(run, schedule)[0],
            margin=rule.margin,
            deviations=rule.deviations,
            unsure=_unsure(law, run),
        )
        assert limit is not None, "there are enough runs"
        broken = np.flatnonzero(_above(law, run)[1][0] > limit)
        at = SHARES[broken[0]] if len(broken) else None
        if at is not None:
            kept.pop()
        yield Judged(float(truth[number]), float(run["flops_spent"].iloc[0]), at)


def _train(options: argparse.Namespace) -> None:
    study = load_study([STUDY], options.changes, environ={})
    corpus = TokenCorpus.open(prepare(study.corpus))
    configs = [planned(n, study, corpus, options) for n in range(options.trajectories)]
    for config in configs:
        outcome = train(config, options.out / config.id, report=lambda row: None)
        print(f"{config.id}: {config.params:,} parameters, rate {config.lr:.2g}, "
              f"{outcome.status}, loss {outcome.loss:.4f}", flush=True)  # fmt: skip
    path = options.out / "runs.csv"
    table_of(options.out, configs).to_csv(path, index=False)
    print(path)


def _replay(options: argparse.Namespace) -> None:
    runs = pd.read_csv(options.table)
    excess, _ = _above(law_of(runs), runs)
    print(f"{len(runs)} runs; excess over the law: median {np.median(excess):.3f}, "
          f"nine in ten {np.quantile(excess, 0.9):.3f}, worst {excess.max():.3f}")  # fmt: skip
    print("margin deviations  judged  ended  false  bad runs  their FLOPs  FLOPs saved")
    for margin in options.margins:
        for deviations in options.deviations:
            rule = HopelessConfig(margin=margin, deviations=deviations)
            seen = [one for seed in range(options.seeds) for one in replay(runs, rule, seed)]
            ended = [one for one in seen if one.at is not None]
            bad = [one for one in seen if one.excess > margin]
            flops = sum(one.flops for one in seen)
            saved = sum(one.flops * (1 - (one.at or 1.0)) for one in ended) / flops
            print(f"{margin:6.2f} {deviations:10g} {len(seen):7d} {len(ended):6d} "
                  f"{sum(one.excess <= margin for one in ended):6d} {len(bad):9d} "
                  f"{sum(one.flops for one in bad) / flops:12.1%} {saved:12.1%}",
                  flush=True)  # fmt: skip


def main() -> None:
    """Parse, train or replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    trains = verbs.add_parser("train")
    trains.add_argument("--out", type=Path, required=True)
    trains.add_argument("--trajectories", type=int, default=48)
    trains.add_argument("--seed", type=int, default=7)
    trains.add_argument("--largest", type=float, default=1.5e11, help="level of compute, 6ND")
    trains.add_argument("--set", dest="changes", action="append", default=[])
    trains.set_defaults(go=_train)
    replays = verbs.add_parser("replay")
    replays.add_argument("table", type=Path)
    replays.add_argument("--margins", type=float, nargs="+", default=[0.05, 0.1])
    replays.add_argument("--deviations", type=float, nargs="+", default=[2, 3])
    replays.add_argument("--seeds", type=int, default=10)
    replays.set_defaults(go=_replay)
    options = parser.parse_args()
    options.go(options)


if __name__ == "__main__":
    main()
