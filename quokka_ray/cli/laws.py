"""The laws' verbs, which `python -m analysis` has too, for studies: a study's folder stands for
its latest law, and a recommendation names the shape of the study's model family."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import analysis.cli
from quokka_ray.errors import ConfigurationError

Run = Callable[[argparse.Namespace], int]


def add_verbs(verbs: Any) -> None:
    """Mount the verbs of `analysis` on the parser."""
    analysis.cli.add_verbs(verbs)
    recommend = verbs.choices["recommend"]
    recommend.set_defaults(func=run_recommend)
    for name in ("predict", "recommend", "export", "compare"):
        parser = verbs.choices[name]
        parser.set_defaults(func=partial(_on_latest_law, parser.get_default("func")))


def _on_latest_law(run: Run, options: argparse.Namespace) -> int:
    if "laws" in options:
        options.laws = [latest_law(path) for path in options.laws]
    else:
        options.law = latest_law(options.law)
    return run(options)


def latest_law(path: Path) -> Path:
    """Return the newest law of a study's folder; any other path as it is.

    Raises:
        ConfigurationError: The study has no law yet.
    """
    if not (path / "study.yaml").is_file():
        return path
    numbered = sorted(
        (path / "laws").glob("[0-9]*/law.json"), key=lambda law: int(law.parent.name)
    )
    if not numbered:
        raise ConfigurationError(
            f"{path} has no law yet: one is written when its search ends or is stopped"
        )
    return numbered[-1].parent


def run_recommend(options: argparse.Namespace) -> int:
    """Print what to train for a budget, with a shape where the law lies in a study."""
    return analysis.cli.run_recommend(options, complete=partial(add_shape, options.law))


def add_shape(law: Path, answer: dict[str, Any]) -> None:
    """Set `answer["shape"]` to the rung nearest to the recommended size, in place.

    Without a study around the law the family is not known, and nothing is set.
    """
    from quokka_ray.campaign.ledger import Ledger
    from quokka_ray.model.counts import count_params
    from quokka_ray.model.shapes import shape_for
    from quokka_ray.study.folder import saved_study

    law_folder = law.absolute() if law.is_dir() else law.absolute().parent
    folder = law_folder.parent.parent
    if not (folder / "study.yaml").is_file():
        return
    trajectories = Ledger(folder / "ledger.jsonl", read_only=True).trajectories
    model = saved_study(folder).model
    vocab_size = next(iter(trajectories.values())).config.vocab_size
    try:
        shape = shape_for(answer["params"]["value"], model, vocab_size)
    except ConfigurationError as error:
        answer["warnings"].append(f"no shape: {error}")
        return
    params = count_params(shape, model, vocab_size)
    answer["shape"] = {"params": params, **shape.model_dump(exclude_none=True)}
