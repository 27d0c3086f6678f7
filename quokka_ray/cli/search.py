"""`plan`, `search`, `resume`, `status`: a study from its file to its law."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.units import format_quantity
from quokka_ray.campaign.menu import Rung
from quokka_ray.cli.output import note, say
from quokka_ray.cli.recipes import recipe_choices, recipe_lines
from quokka_ray.cli.status import run_status
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder, saved_study
from quokka_ray.study.loader import load_study

if TYPE_CHECKING:
    import pandas as pd


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    plan = verbs.add_parser("plan", help="show what a search would run and cost; starts nothing")
    add_study(plan)
    plan.add_argument("--json", action="store_true")
    plan.set_defaults(func=run_plan)

    search = verbs.add_parser("search", help="run a study's search to the end of its budget")
    add_study(search)
    search.add_argument("--resume", action="store_true", help="go on with the study in the folder")
    search.add_argument("--overwrite", action="store_true", help="delete the study in the folder")
    _add_execution(search)
    search.set_defaults(func=run_search)

    resume = verbs.add_parser("resume", help="go on with a study that was stopped or killed")
    resume.add_argument("folder", type=Path, help="the study's folder, such as runs/smoke")
    _add_set(resume)
    _add_execution(resume)
    resume.set_defaults(func=run_resume)

    status = verbs.add_parser("status", help="say where a study stands, and why each run was made")
    status.add_argument("folder", type=Path, help="the study's folder, such as runs/smoke")
    status.add_argument("--json", action="store_true")
    status.set_defaults(func=run_status)


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the study files and `--set`."""
    parser.add_argument(
        "study",
        nargs="+",
        help="study files, later ones override; a bare name is looked up in search_spaces/",
    )
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, such as --set budget.flops=1e13",
    )


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=["ray", "local"],
        default="ray",
        help="ray: trials side by side on a cluster; local: one at a time in this process",
    )
    parser.add_argument(
        "--strict", action="store_true", help="end with code 4 if a trial failed for good"
    )
    parser.add_argument("--json", action="store_true", help="print the recommendation as JSON")


def run_plan(options: argparse.Namespace) -> int:
    """Print the start, its price, and how many runs the budget holds."""
    from quokka_ray.campaign.campaign import steering_of
    from quokka_ray.campaign.data_steering import DataSteering
    from quokka_ray.cluster.driver import prepare_study
    from quokka_ray.training.memory import gib

    study = load_study(options.study, options.overrides)
    prepared = prepare_study(study, note)
    menu, steering = prepared.menu, steering_of(study, prepared.menu)
    start = steering.start
    sizes = list(menu.rungs.values())
    left = study.budget.flops - float(start["cost"].sum())
    largest = float(menu.table["cost"].max())
    whole, alone = _memory(study, sizes[-1], prepared.corpus.vocab_size)
    answer = {
        "study": study.name,
        "budget_flops": study.budget.flops,
        "target_flops": study.target.flops,
        "target_unique_tokens": study.target.unique_tokens,
        "corpus": str(prepared.corpus.path),
        "train_tokens": prepared.train_tokens,
        "sizes": [{"params": rung.params, **rung.shape.model_dump()} for rung in sizes],
        "cheapest_run_flops": menu.smallest_cost,
        "largest_run_flops": largest,
        "largest_step_bytes": whole,
        "largest_step_bytes_one_sequence": alone,
        "recipe": recipe_choices(study),
        "start": start.to_dict("records"),
        "observations": study.search.observations,
        "observation_ratio": study.search.observation_ratio,
        "start_flops": float(start["cost"].sum()),
        "trials_at_least": len(start) + int(left // largest),
        "trials_at_most": len(start) + int(left // menu.smallest_cost),
    }
    if isinstance(steering, DataSteering):
        fewest, most = steering.outlook()
        answer |= {
            # What is reserved comes back where a curve ends early: it is not what a start costs.
            "start_flops": float(start["usual"].sum()),
            "trials_at_least": len(start) + fewest,
            "trials_at_most": len(start) + most,
        }
    if options.json:
        say(json.dumps(answer))
        return 0
    say(f"study    {study.name}: {study.budget.flops:.3g} exact FLOPs in all, toward a law at "
        f"{_target(study)}")  # fmt: skip
    say(f"corpus   {format_quantity(prepared.train_tokens)} training tokens, "
        f"vocabulary {prepared.corpus.vocab_size}, in {prepared.corpus.path}")  # fmt: skip
    say(f"sizes    {len(sizes)}: from {_size(sizes[0])} to {_size(sizes[-1])}")
    batch = study.heaviest[0].training.batch_sequences
    say(f"memory   a step of the largest holds {gib(whole)} with its {batch} sequences at once, "
        f"{gib(alone)} one by one")  # fmt: skip
    for line in recipe_lines(study, menu):
        say(line)
    say(f"runs     from {menu.smallest_cost:.3g} to {largest:.3g} FLOPs each")
    about = "about " if study.search.repeats else ""
    say(f"\nthe start: {len(start)} runs, {about}{answer['start_flops'] / study.budget.flops:.0%} "
        "of the budget")  # fmt: skip
    if study.search.observations > 1:
        say(f"each is observed {study.search.observations} times: at D, and before that at "
            f"1/{study.search.observation_ratio:g} of the next")  # fmt: skip
    if study.search.repeats:
        _say_repeated_start(start)
    else:
        say(f"{'params':>10} {'tokens':>10} {'D/N':>8} {'FLOPs':>10}")
        for row in start.itertuples():
            say(f"{format_quantity(row.params):>10} {format_quantity(row.tokens):>10} "
                f"{row.tokens / row.params:>8.1f} {row.cost:>10.3g}")  # fmt: skip
    fewest, most = (answer[f"trials_at_{end}"] - len(start) for end in ("least", "most"))
    guessed = " if the guess holds" if study.search.repeats else ", as it turns out"
    say(f"\nthen the law steers: {fewest} to {most} more runs{guessed}")
    return 0


def _say_repeated_start(start: "pd.DataFrame") -> None:
    """Print the start of a search of repeated data: what is planned, and what it should take."""
    say("each is observed along its epochs, and ends once its loss has turned for good; what it "
        "does not spend buys more.\nBy a first guess, which each curve that ends corrects:"
        )  # fmt: skip
    head = ("params", "unique", "done by", "FLOPs", "at most", "FLOPs")
    say(
        " ".join(
            f"{name:>{width}}" for name, width in zip(head, (10, 10, 12, 10, 12, 10), strict=True)
        )
    )
    for row in start.itertuples():
        say(f"{format_quantity(row.params):>10} {format_quantity(row.unique_tokens):>10} "
            f"{row.done:>5.0f} epochs {row.usual:>10.3g} {row.epochs:>5.0f} epochs "
            f"{row.cost:>10.3g}")  # fmt: skip


def _target(study: StudyConfig) -> str:
    if study.target.unique_tokens is not None:
        return f"{format_quantity(study.target.unique_tokens)} unique tokens"
    return f"{study.target_flops:.3g} FLOPs (6ND)"


def _memory(study: StudyConfig, rung: Rung, vocab_size: int) -> tuple[float, float]:
    """Return the bytes of a step with its whole batch in memory, and with one sequence."""
    from quokka_ray.training.memory import Recipe, step_memory

    trials = [(Recipe.of_study(t, rung.shape, vocab_size), t.training) for t in study.heaviest]
    whole = max(step_memory(recipe, own.batch_sequences).peak for recipe, own in trials)
    return whole, max(step_memory(recipe, 1, accumulate=True).peak for recipe, _ in trials)


def _size(rung: Rung) -> str:
    shape = rung.shape
    return f"{format_quantity(rung.params)} (width {shape.d_model}, {shape.layers} layers)"


def run_search(options: argparse.Namespace) -> int:
    """Run the search of a study file."""
    study = load_study(options.study, options.overrides)
    return _search(study, options, resume=options.resume, overwrite=options.overwrite)


def run_resume(options: argparse.Namespace) -> int:
    """Go on with the study of a folder."""
    study = saved_study(options.folder, options.overrides)
    return _search(study, options, resume=True, overwrite=False)


def _search(
    study: StudyConfig, options: argparse.Namespace, *, resume: bool, overwrite: bool
) -> int:
    from rich.console import Console

    from analysis.allocation import recommend
    from analysis.errors import FitError
    from analysis.lawfile import load_law
    from quokka_ray.cli.laws import add_shape
    from quokka_ray.cluster.driver import run_search as drive
    from quokka_ray.reporting.live import LiveView, final_report
    from quokka_ray.reporting.watch import Watch

    watches: list[Watch] = []

    def observe(study: StudyConfig, folder: StudyFolder) -> list[Watch]:
        watches.append(Watch(study, folder, view))
        return watches

    with LiveView() as view:
        outcome = drive(
            study,
            resume=resume,
            overwrite=overwrite,
            executor=options.executor,
            observers=observe,
            progress=note,
        )
        state = watches[0].finish(outcome.campaign)
    if outcome.interrupted:
        command = shlex.join(["quokka-ray", "resume", str(study.folder)])
        note(f"stopped; everything is kept. Go on with:\n    {command}")
        return outcome.interrupted
    if outcome.law_folder is None:
        raise FitError(
            f"the search is done, but there is no law: {outcome.campaign.no_fit_because}"
        )
    if options.json:
        answer = recommend(
            load_law(outcome.law_folder), study.target.flops, study.target.unique_tokens
        )
        add_shape(outcome.law_folder, answer)
        say(json.dumps(answer))
    else:
        other = ["--unique-tokens", "1M"] if study.search.repeats else ["--flops", "1e15"]
        command = shlex.join(["quokka-ray", "recommend", str(study.folder), *other])
        report = final_report(state, law_folder=str(outcome.law_folder), command=command)
        Console().print(report)
    failed = outcome.campaign.counts().get("failed", 0)
    if options.strict and failed:
        note(f"{failed} trials failed")
        return 4
    return 0
