"""The runs of `crossover.py`: what each arm may choose, how long, and one run after the other."""

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from observed import observations

from analysis.units import format_quantity
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
EPOCHS = 64.0
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


def epochs_of(arm: str, options: argparse.Namespace) -> float:
    """Return how long the runs of an arm are; arms of one family share runs of equal recipes."""
    named = {None: EPOCHS} | dict(options.epochs)
    return float(named.get(arm, named[None]))


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
        for epochs in observed_epochs(epochs_of(recipe.arm, options))
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


def folder_of(recipe: Recipe, options: argparse.Namespace) -> Path:
    """Return where a run keeps everything."""
    return Path(options.out) / "runs" / recipe.name


def go_on(config: TrajectoryConfig, folder: Path) -> bool:
    """Let a run of fewer epochs that `folder` holds become this one; return whether that is all.

    Under a constant rate a run of fewer epochs is the beginning of a longer one, to the bit: only
    its configuration and its end are in the way. A run of more epochs holds all of a shorter one.

    Raises:
        ConfigurationError: The folder holds another run (from `train`).
    """
    path = folder / "config.json"
    if not path.exists():
        return False
    held = TrajectoryConfig.model_validate_json(path.read_text("utf-8"))
    if config.points == held.points[: len(config.points)]:
        return len(held.points) > len(config.points)
    if held.points != config.points[: len(held.points)]:
        return False
    length = {"tokens", "earlier_points", "flops", "flops_exact"}
    longer = held.model_copy(update={name: getattr(config, name) for name in length})
    record = folder / "metrics.jsonl"
    rows = [line for line in record.read_text("utf-8").splitlines(True) if '"ended"' not in line]
    for file, text in ((record, "".join(rows)), (path, longer.model_dump_json(indent=2) + "\n")):
        draft = file.with_suffix(".draft")
        draft.write_text(text, "utf-8")
        draft.replace(file)
    return False


def go(recipe: Recipe, options: argparse.Namespace) -> str:
    """Train one run to its end, or to where its loss has risen enough; return its name."""
    config, folder = planned(recipe, options), folder_of(recipe, options)

    def past(*_: Any) -> bool:
        return is_past((row["loss"] for row in observations(folder)), options.past)

    rising = past()

    def watch(row: dict[str, Any]) -> None:
        nonlocal rising
        if row["kind"] == "observation":
            rising = past()

    if not rising and not go_on(config, folder):
        train(
            config,
            folder,
            report=watch,
            should_stop=lambda: rising,
        )
    return recipe.name


def lowest(recipe: Recipe, options: argparse.Namespace) -> float:
    """Return the lowest loss of a run; infinite if it has none, such as one that diverged."""
    return min((row["loss"] for row in observations(folder_of(recipe, options))), default=math.inf)


def best(recipes: list[Recipe], options: argparse.Namespace) -> Recipe:
    """Return the recipe whose run reached the lowest loss."""
    return min(recipes, key=lambda recipe: lowest(recipe, options))
