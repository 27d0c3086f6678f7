"""`search`, `resume` and, beside them, `plan` and `status`: a study from its file to its law."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from quokka_ray.cli.arguments import add_set, add_study
from quokka_ray.cli.output import note, say
from quokka_ray.cli.plan import add_plan
from quokka_ray.cli.status import run_status
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder, saved_study
from quokka_ray.study.loader import load_study


def add_verbs(verbs: Any) -> None:
    """Add the verbs to the parser."""
    add_plan(verbs)
    search = verbs.add_parser("search", help="run a study's search to the end of its budget")
    add_study(search)
    search.add_argument("--resume", action="store_true", help="go on with the study in the folder")
    search.add_argument("--overwrite", action="store_true", help="delete the study in the folder")
    _add_execution(search)
    search.set_defaults(func=run_search)

    resume = verbs.add_parser("resume", help="go on with a study that was stopped or killed")
    resume.add_argument("folder", type=Path, help="the study's folder, such as runs/smoke")
    add_set(resume)
    _add_execution(resume)
    resume.set_defaults(func=run_resume)

    status = verbs.add_parser("status", help="say where a study stands, and why each run was made")
    status.add_argument("folder", type=Path, help="the study's folder, such as runs/smoke")
    status.add_argument("--json", action="store_true", help="print budget and trials as JSON")
    status.set_defaults(func=run_status)


def _add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--executor",
        choices=["ray", "local"],
        default="ray",
        help="ray: trials side by side, on this machine or a cluster; local: one at a time in "
        "this process (default: ray)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="end with code 4 if a trial failed for good"
    )
    parser.add_argument("--json", action="store_true", help="print the recommendation as JSON")


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
