"""`plan`: what a search would run, cost and reach, before anything starts."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.units import format_flops, format_quantity
from quokka_ray.campaign.menu import Menu, Rung
from quokka_ray.cli.arguments import add_study
from quokka_ray.cli.outlook import say_outlook
from quokka_ray.cli.output import note, passing, say
from quokka_ray.cli.recipes import recipe_choices, recipe_lines
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import holds_another, saved_study
from quokka_ray.study.loader import load_study

if TYPE_CHECKING:
    import pandas as pd

    from quokka_ray.campaign.outlook import Outlook
    from quokka_ray.cluster.driver import Prepared


def add_plan(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser(
        "plan",
        help="show what a search would run, cost and reach; starts nothing",
        description="Show what a search would run, cost and reach. Nothing is trained: the search "
        "plays itself a few times on simulated losses, and of a study that is under way it plays "
        "what is left.",
    )
    add_study(parser)
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--searches", type=_count, metavar="N",
        help="simulated searches behind what is to be expected, however long they take; unset: 8, "
        "or as many as 20 seconds hold",
    )  # fmt: skip
    much.add_argument("--no-outlook", action="store_true", help="leave out what is to be expected")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(func=run_plan)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of searches from 1 on")
    return int(text)


def _outlook(
    study: StudyConfig, prepared: "Prepared", options: argparse.Namespace, *, anew: bool
) -> "tuple[Outlook | None, str]":
    """Return what is to be expected, or why nothing is said of it."""
    from quokka_ray.campaign.outlook import PATIENCE, outlook

    if options.no_outlook:
        return None, "it was not asked for"
    if not isinstance(prepared.menu, Menu):
        return None, (
            "the law of repeated data is searched for anew whenever a curve ends, so a handful of "
            "simulated searches would take minutes; the start is priced by a guess of when its "
            "curves turn"
        )
    found = outlook(
        study,
        prepared.corpus,
        prepared.menu,
        options.searches,
        anew=anew,
        progress=lambda done, asked: passing(f"simulated searches: {done} of {asked}"),
    )
    passing("")
    slow = f"one simulated search takes more than {PATIENCE:.0f} s here; --searches 1 waits for it"
    return found, "" if found else slow


def run_plan(options: argparse.Namespace) -> int:
    """Print the start, its price, and what the search is expected to reach."""
    from quokka_ray.campaign.campaign import steering_of
    from quokka_ray.campaign.data_steering import DataSteering
    from quokka_ray.cluster.driver import prepare_study
    from quokka_ray.training.memory import gib

    study = _study(options)
    other = holds_another(study)
    if other:
        note(f"{other}. The plan is that of a study that begins anew")
    prepared = prepare_study(study, note, resume=other is None)
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
    found, nothing_because = _outlook(study, prepared, options, anew=other is not None)
    answer |= {
        "outlook": found.as_dict() if found else None,
        "no_outlook_because": nothing_because or None,
    }
    if options.json:
        say(json.dumps(answer))
        return 0
    say(f"study    {study.name}: {format_flops(study.budget.flops)} exact FLOPs in all, toward a "
        f"law at {_target(study)}")  # fmt: skip
    say(f"corpus   {format_quantity(prepared.train_tokens)} training tokens, "
        f"vocabulary {prepared.corpus.vocab_size}\n         {prepared.corpus.path}")  # fmt: skip
    say(f"sizes    {len(sizes)}: from {_size(sizes[0])} to {_size(sizes[-1])}")
    batch = study.heaviest[0].training.batch_sequences
    say(f"memory   {gib(whole)} for a step of the largest with its {batch} sequences at once, "
        f"{gib(alone)} one by one")  # fmt: skip
    for line in recipe_lines(study, menu):
        say(line)
    say(f"runs     from {format_flops(menu.smallest_cost)} to {format_flops(largest)} FLOPs each")
    if found is not None and found.begins_with:
        say(f"so far   {found.begins_with} trajectories, {found.rows[0].share:.0%} of the budget "
            "spent; the start is what they began with")  # fmt: skip
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
                f"{row.tokens / row.params:>8.1f} {format_flops(row.cost):>10}")  # fmt: skip
    if found is None or not found.begins_with:
        fewest, most = (answer[f"trials_at_{end}"] - len(start) for end in ("least", "most"))
        guessed = " if the guess holds" if study.search.repeats else ", as it turns out"
        say(f"\nthen the law steers: {fewest} to {most} more runs{guessed}")
    if found is not None:
        say_outlook(found)
    elif not options.no_outlook:
        say(f"\nno outlook: {nothing_because}")
    return 0


def _study(options: argparse.Namespace) -> StudyConfig:
    """Return the study to plan: from files, or the one in a study's folder."""
    if len(options.study) == 1 and (Path(options.study[0]) / "study.yaml").is_file():
        return saved_study(Path(options.study[0]), options.overrides)
    return load_study(options.study, options.overrides)


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
            f"{row.done:>5.0f} epochs {format_flops(row.usual):>10} {row.epochs:>5.0f} epochs "
            f"{format_flops(row.cost):>10}")  # fmt: skip


def _target(study: StudyConfig) -> str:
    if study.target.unique_tokens is not None:
        return f"{format_quantity(study.target.unique_tokens)} unique tokens"
    return f"{format_flops(study.target_flops)} FLOPs (6ND)"


def _memory(study: StudyConfig, rung: Rung, vocab_size: int) -> tuple[float, float]:
    """Return the bytes of a step with its whole batch in memory, and with one sequence."""
    from quokka_ray.training.memory import Recipe, step_memory

    trials = [(Recipe.of_study(t, rung.shape, vocab_size), t.training) for t in study.heaviest]
    whole = max(step_memory(recipe, own.batch_sequences).peak for recipe, own in trials)
    return whole, max(step_memory(recipe, 1, accumulate=True).peak for recipe, _ in trials)


def _size(rung: Rung) -> str:
    shape = rung.shape
    return f"{format_quantity(rung.params)} (width {shape.d_model}, {shape.layers} layers)"
