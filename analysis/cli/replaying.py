"""`replay`: what designs would have learnt from a recorded run table."""

import argparse
import json
from pathlib import Path

from analysis.cli.arguments import add_columns, add_json, quantity
from analysis.cli.output import write, write_json
from analysis.errors import ReplayError


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add replay."""
    verb = subparsers.add_parser("replay", help="what designs would have learnt from a run table")
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="CSV or Parquet")
    verb.add_argument(
        "--design",
        default="random,steered",
        help="names with commas, or all; docs/laws.md says which there are (default: %(default)s)",
    )
    verb.add_argument(
        "--budget",
        default="1%,5%,10%,100%",
        help="FLOPs, or shares of what all runs cost (default: %(default)s)",
    )
    verb.add_argument(
        "--estimator",
        default="calibrated",
        help="calibrated, five_parameters or mixture (default: calibrated)",
    )
    verb.add_argument(
        "--hold-out",
        type=quantity,
        default=3.0,
        metavar="H",
        help="runs above the largest compute over H judge (default: 3)",
    )
    verb.add_argument("--test", type=Path, metavar="RUNS", help="judge by this table instead")
    verb.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="repeats of each design (default: 10)"
    )
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    verb.add_argument("--out", type=Path, metavar="CSV", help="write every repeat")
    add_columns(verb)
    add_json(verb)
    verb.set_defaults(func=run_replay)


def run_replay(options: argparse.Namespace) -> int:
    """Replay the designs; print the median scores by budget."""
    from analysis.calibration import cut
    from analysis.designs import DESIGNS
    from analysis.replay import ESTIMATORS, TableWorld, replay_many
    from analysis.runs import read_runs, validate_runs

    names = list(DESIGNS) if options.design == "all" else options.design.split(",")
    for given, known, what in (
        (names, DESIGNS, "design"),
        ([options.estimator], ESTIMATORS, "estimator"),
    ):
        for name in given:
            if name not in known:
                raise ReplayError(f"no {what} is called {name!r}; known: {', '.join(known)}")
    if options.seeds < 1 or options.jobs < 1:
        raise ReplayError("--seeds and --jobs must be at least 1")
    columns = dict(options.column)
    runs = validate_runs(read_runs(options.runs, columns)).reset_index(drop=True)
    if options.test is not None:
        parts = runs, validate_runs(read_runs([options.test], columns))
    else:
        found = cut(runs, options.hold_out)
        if found is None:
            raise ReplayError(
                f"too few runs on either side of the largest compute over {options.hold_out:g}; "
                "choose another --hold-out, or judge by a table of its own with --test"
            )
        parts = found
    world = TableWorld.of(*parts)
    total = float(world.menu["cost"].sum())
    budgets = [_budget(text, total) for text in options.budget.split(",")]
    scores = replay_many(
        world,
        {name: DESIGNS[name] for name in names},
        ESTIMATORS[options.estimator],
        budgets,
        range(options.seeds),
        options.jobs,
    )
    if options.out is not None:
        scores.to_csv(options.out, index=False)
    medians = scores.groupby(["design", "budget"], sort=False).median().drop(columns="seed")
    if options.json:
        write_json(json.loads(medians.reset_index().to_json(orient="records")))
        return 0
    shares = medians.reset_index()
    shares["budget"] = [f"{100 * b / total:.3g} %" for b in shares["budget"]]
    write(f"{len(world.menu)} runs to buy, {len(world.wanted)} to predict; medians of ")
    write(f"{options.seeds} repeats\n\n")
    write(shares.to_string(index=False, float_format=lambda v: f"{v:.4g}") + "\n")
    return 0


def _budget(text: str, total: float) -> float:
    if text.strip().endswith("%"):
        try:
            return float(text.strip()[:-1]) / 100.0 * total * (1.0 + 1e-9)
        except ValueError as error:
            raise ReplayError(f"--budget: {text!r} is no share, such as 5%") from error
    try:
        return quantity(text)
    except argparse.ArgumentTypeError as error:
        raise ReplayError(f"--budget: {error}") from error
