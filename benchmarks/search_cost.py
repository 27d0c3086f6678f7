"""What a search costs beside its trials: trials that train nothing, through all the rest.

    python benchmarks/search_cost.py [--trials 500] [--executor ray]

Each trial reports at once the loss of a known law, into its own record and to the driver, as a
trained one does. All else is a search's own: Ray's actors, steering, both laws' refits, ledger,
TensorBoard and terminal. Printed are milliseconds a trial by part, over stretches of the search,
and the driver's memory at their ends. Parts are measured in the driver's thread of execution,
without what they call of one another; the rest of the elapsed time is the executor's. The last
line is the ratio of the seconds a trial to the 0.1 s that are aimed at.
"""

import argparse
import functools
import itertools
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import psutil
from rich.console import Console

from quokka_ray.campaign import proposals
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.refits import Refits
from quokka_ray.campaign.steering import Steering
from quokka_ray.cluster.local import run_locally
from quokka_ray.cluster.searcher import CampaignSearch
from quokka_ray.cluster.tune import run_on_ray
from quokka_ray.corpus import TokenCorpus
from quokka_ray.reporting.live import LiveView
from quokka_ray.reporting.watch import Watch
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.metrics import Metrics, Row

AIM = 0.1
STRETCHES = (50, 100, 200, 500)
STUDY: dict[str, Any] = {
    "name": "search-cost",
    "model": {"seq_len": 64, "head_dim": 8, "ffn_multiple": 8},
    "training": {"batch_sequences": 8, "lr": 1e-2},
    "search": {
        "params": {"low": "4k", "high": "200k"},
        "run_flops": {"low": 1e10, "high": 1e12},
        "tokens_per_param": {"low": 2, "high": 600},
        "lr_factor": {"low": 0.5, "high": 2},
        "lr_schedule": ["wsd", "cosine"],
    },
    "target": {"flops": 1e14},
    "resources": {"gpus_per_trial": 0},
}


def report_a_law(
    config: TrajectoryConfig, folder: Path, *, report: Callable[[Row], None], **others: object
) -> None:
    """Run a trial that trains nothing: its loss is a known law's, with noise and an lr's price."""
    del others
    rng = np.random.default_rng(config.seed)
    loss = 1.2 + 200.0 / config.params**0.45 + 400.0 / config.tokens**0.42
    loss *= math.exp(0.03 * math.log(config.lr / 1.3e-2) ** 2 + 0.005 * rng.normal())
    common = {"trajectory": config.id, "flops_spent": config.flops_exact, "attempt": 1}
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder / "metrics.jsonl", report)
    metrics.append(
        {
            "kind": "observation",
            "observation": f"{config.id}@{config.tokens}+cooldown",
            "tokens": config.tokens,
            "loss": loss,
            "loss_stderr": 0.03,
            "evaluator": "data/bound",
            "cooled": True,
            "flops": config.flops,
            **common,
        },
        durable=True,
    )
    metrics.append({"kind": "ended", "status": "finished", "reason": "", **common}, durable=True)
    metrics.close()


class Parts:
    """Seconds by part, each without the parts that it calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: Counter[str] = Counter()
        self._inner: list[float] = []

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count calls of `owner.name` as `part`."""
        inside = getattr(owner, name)

        @functools.wraps(inside)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = self.clock()
            try:
                return inside(*args, **kwargs)
            finally:
                whole = self.clock() - start
                self.seconds[part] += whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        setattr(owner, name, counted)


@dataclass(frozen=True)
class Mark:
    """Where a search stood: trials, seconds, CPU seconds, memory, seconds by part."""

    trials: int
    clock: float
    elapsed: float
    megabytes: float
    parts: Counter[str]


class Marks:
    """An observer of a campaign that notes where it stands at the end of each stretch."""

    def __init__(self, parts: Parts, ends: set[int]) -> None:
        self._parts, self._ends = parts, ends
        self._trials = 0
        self.marks: list[Mark] = []

    def planned(self, campaign: Campaign, trajectory: TrajectoryConfig) -> None:
        """The first trial starts the clock: Ray's own start is over by then."""
        if not self.marks:
            self._note()

    def told(self, campaign: Campaign, row: Row) -> None:
        """A trial that ended may end a stretch."""
        if row["kind"] == "ended":
            self._trials += 1
            if self._trials in self._ends:
                self._note()

    def refitted(self, campaign: Campaign, fit: object) -> None:
        """Nothing to note."""

    def _note(self) -> None:
        used = psutil.Process().memory_info().rss / 2**20
        parts = Counter(self._parts.seconds)
        self.marks.append(
            Mark(self._trials, self._parts.clock(), time.perf_counter(), used, parts)
        )


def watched_parts(executor: str, clock: Callable[[], float]) -> Parts:
    """Return the parts of a search, from now on counted."""
    parts = Parts(clock)
    for method in ("ask", "tell", "returned"):
        parts.watch(Campaign, method, "campaign")
    parts.watch(Steering, "propose", "steering")
    parts.watch(proposals, "suggest_factors", "TPE")
    parts.watch(Ledger, "append", "ledger")
    parts.watch(Ledger, "runs", "run table")
    parts.watch(Refits, "refit_guide", "guide")
    parts.watch(Refits, "refit_reported", "reported law")
    for method in ("planned", "told", "refitted"):
        parts.watch(Watch, method, "observers")
    parts.watch(Watch, "_draw", "pictures")
    if executor == "ray":
        for method in ("suggest", "on_trial_result", "on_trial_complete"):
            parts.watch(CampaignSearch, method, "Optuna's journal")
    return parts


@dataclass(frozen=True)
class Corpus:
    """The facts of a corpus that a plan needs; nothing reads its tokens."""

    path: Path = Path("corpus")
    hash: str = "none"
    tokenizer_id: str = "bytes"
    vocab_size: int = 257
    train_tokens: int = 30_000_000


def search(trials: int, executor: str, clock: Callable[[], float], storage: Path) -> list[Mark]:
    """Run a search of `trials` trials; return where it stood at the end of each stretch."""
    study = StudyConfig.model_validate(
        {**STUDY, "storage": storage, "budget": {"flops": 1e16, "trials": trials}}
    )
    marks = Marks(watched_parts(executor, clock), {*STRETCHES, trials})
    corpus = cast(TokenCorpus, Corpus())
    # Where a terminal would be, so that the live table is drawn as for somebody who watches.
    with (
        open_folder(study, resume=False, overwrite=False) as folder,
        Path(os.devnull).open("w") as nowhere,
        LiveView(Console(file=nowhere, force_terminal=True), plain=False) as view,
    ):
        watch = Watch(study, folder, view)
        menu = Menu(study, corpus.vocab_size, corpus.train_tokens)
        campaign = Campaign(study, corpus, menu, folder, [watch, marks])
        run = run_on_ray if executor == "ray" else run_locally
        run(campaign, folder.root / "stop", report_a_law)
        campaign.close()
        watch.finish(campaign)
    return marks.marks


def main() -> None:
    """Print the table of one search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--executor", choices=["ray", "local"], default="ray")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: of the driver's main thread alone, for machines that others use too",
    )
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.thread_time
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as storage:
        marks = search(options.trials, options.executor, clock, Path(storage))
    first, last = marks[0], marks[-1]
    stretches = [*itertools.pairwise(marks), (first, last)]
    titles = [f"{a.trials}-{b.trials}" for a, b in stretches]
    print(f"{f'{options.clock} ms a trial':<20}" + "".join(f"{title:>10}" for title in titles))

    def line(name: str, of: Callable[[Mark, Mark], float]) -> float:
        values = [1e3 * of(a, b) / (b.trials - a.trials) for a, b in stretches]
        print(f"{name:<20}" + "".join(f"{value:10.1f}" for value in values))
        return values[-1]

    def own(a: Mark, b: Mark) -> float:
        return sum((b.parts - a.parts).values())

    for part, _ in last.parts.most_common():
        line(part, lambda a, b, part=part: b.parts[part] - a.parts[part])
    line("all of these", own)
    line(f"the rest: {options.executor}", lambda a, b: b.clock - a.clock - own(a, b))
    line("elapsed", lambda a, b: b.elapsed - a.elapsed)
    print(f"{'memory at end, MB':<20}" + "".join(f"{b.megabytes:10.0f}" for _, b in stretches))
    seconds = (last.elapsed - first.elapsed) / (last.trials - first.trials)
    print(f"ratio: {seconds / AIM:.2f} of {AIM:g} s a trial ({seconds:.4f} s)")


if __name__ == "__main__":
    main()
