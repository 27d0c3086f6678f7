"""Does the steering spend less than a grid? Every way at equal FLOPs, on surfaces and tables.

Pieces are measured one at a time and kept as CSV; the report is made of whatever there is.

    python benchmarks/steering.py surfaces --surface chinchilla --design steered --seeds 0:40
    python benchmarks/steering.py tables --seeds 0:10
    python benchmarks/steering.py step                     one step, 200 runs, 2000 candidates
    python benchmarks/steering.py report --write docs/results/steering.md
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.discrepancy import trajectory_noise
from analysis.steering.belief import Belief
from analysis.steering.choosing import Account, Market, choose
from analysis.steering.forms import trained
from analysis.steering.goals import Optimum
from analysis.steering.places import Trajectories, taken
from analysis.steering.posterior import Observed

OURS = (0.1, 0.14, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.7, 2.0)
SHORT = (0.1, 0.14, 0.2, 0.3, 0.4)
RIVALS = (*OURS, 2.8, 4.0, 5.6, 8.0, 11.0, 15.0, 20.0)
STOP = 2.0
"""Budget of the searches whose coverage is measured, in largest runs."""


def _surface(task: tuple[str, str, int, tuple[float, ...]]) -> list[dict[str, object]]:
    from steering_surfaces import TRUTHS
    from steering_ways import WAYS

    truth, way, seed, budgets = task
    began = time.process_time()
    rows = WAYS[way](TRUTHS[truth], seed, budgets)
    taken = time.process_time() - began
    return [
        {"surface": truth, "design": way, "seed": seed, "plan": budgets[-1], "seconds": taken} | r
        for r in rows
    ]


def _table(task: tuple[str, str, int]) -> list[dict[str, object]]:
    from steering_tables import measure

    return measure(*task)


def run(tasks: list[tuple], function, jobs: int, path: Path) -> None:  # type: ignore[type-arg]
    """Run all tasks in processes and keep their rows as a CSV."""
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(function, tasks):
            rows += found
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    print(f"{path}: {len(rows)} rows")


def step() -> None:
    """Print what one step takes: refit of all forms, scores of all candidates, choice."""
    for observations in (1, 3):
        market, account, runs, before = _halfway(observations)
        rng = np.random.default_rng(0)
        fit, choice = [], []
        for _ in range(25):
            began = time.process_time()
            belief = market.believe(runs, before)
            fit.append(time.process_time() - began)
            choose(market, belief, account, rng)
            choice.append(time.process_time() - began - fit[-1])
        both = 1e3 * (np.array(fit) + np.array(choice))
        print(
            f"200 runs and 2000 candidates of {observations} observations: refit of "
            f"{len(market.forms)} forms {1e3 * np.median(fit):.1f} ms, scores and choice "
            f"{1e3 * np.median(choice):.1f}, one step {np.median(both):.1f} ms of CPU (median), "
            f"{both.min():.1f} (shortest)"
        )


def _halfway(observations: int) -> tuple[Market, Account, Observed, Belief]:
    """Return a search after 200 trunks with cooldowns, and its belief before the last of them."""
    from steering_surfaces import LARGEST, NOISE, TARGET, chinchilla

    work, ratio = np.meshgrid(
        LARGEST * np.geomspace(1e-3, 1.0, 50), np.geomspace(1, 500, 40), indexing="ij"
    )
    params = np.sqrt(work / 6 / ratio).ravel()
    shares = 0.5 ** np.arange(observations)[::-1]
    table = pd.DataFrame(
        {
            "params": np.repeat(params, observations),
            "tokens": ((params * ratio.ravel())[:, None] * shares).ravel(),
            "trajectory": np.repeat(np.arange(params.size), observations),
            "cost": np.repeat(work.ravel() / LARGEST, observations),
        }
    )
    market = Market.of(Trajectories.of_table(table), Optimum(TARGET), trained())
    rng = np.random.default_rng(0)
    bought = rng.integers(params.size, size=200)
    runs = market.candidates.take(bought)
    shared = np.linalg.cholesky(trajectory_noise(np.log(shares)[None]))[0]
    noise = NOISE * (rng.standard_normal((200, observations)) @ shared.T).ravel()
    loss = chinchilla(runs.points.log_params, runs.points.log_tokens) + noise
    earlier = runs.owner < 199
    before = Observed(taken(runs.points, earlier), loss[earlier], runs.owner[earlier])
    account = Account(1e3, 1e2, tuple(bought))
    return market, account, Observed(runs.points, loss, runs.owner), market.believe(before)


def _range(text: str) -> list[int]:
    low, _, high = text.partition(":")
    return list(range(int(low), int(high))) if high else list(range(int(low)))


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("surfaces", "tables", "step", "report"))
    parser.add_argument("--surface", default="all", help="names with commas (default: all)")
    parser.add_argument("--design", default="all", help="names with commas (default: all)")
    parser.add_argument("--seeds", default="0:40", metavar="A:B", help="(default: 0:40)")
    parser.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="processes")
    parser.add_argument("--short", action="store_true", help="searches that plan for .4")
    parser.add_argument("--upto", type=float, default=20.0, help="largest budget of rivals")
    parser.add_argument("--parts", type=Path, default=Path("runs/steering"), metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="MD", help="write the report here")
    options = parser.parse_args()
    if options.part == "step":
        return step()
    if options.part == "report":
        from steering_report import report

        return report(options.parts, options.write)
    seeds = _range(options.seeds)
    label = f"{options.surface}-{options.design}-{options.seeds}".replace(" ", "_")
    label = label.replace(":", "_").replace("%", "").replace(",", "+")
    path = options.parts / f"{options.part}-{label}{'-short' if options.short else ''}.csv"
    if options.part == "tables":
        from steering_tables import DESIGNS, TASKS

        names = list(TASKS) if options.surface == "all" else options.surface.split(",")
        designs = list(DESIGNS) if options.design == "all" else options.design.split(",")
        return run([(n, d, s) for n in names for d in designs for s in seeds], _table,
                   options.jobs, path)  # fmt: skip
    from steering_surfaces import TRUTHS
    from steering_ways import WAYS

    truths = list(TRUTHS) if options.surface == "all" else options.surface.split(",")
    ways = list(WAYS) if options.design == "all" else options.design.split(",")
    for name, known in [(t, TRUTHS) for t in truths] + [(w, WAYS) for w in ways]:
        if name not in known:
            sys.exit(f"{name!r} is unknown; there are {', '.join(known)}")
    ours = SHORT if options.short else OURS
    rivals = tuple(b for b in RIVALS if b <= options.upto)
    tasks = [
        (
            truth,
            way,
            seed,
            ours if way == "steered" else rivals if truth == "chinchilla" else (STOP,),
        )
        for truth in truths
        for way in ways
        for seed in seeds
    ]
    return run(tasks, _surface, options.jobs, path)


if __name__ == "__main__":
    main()
