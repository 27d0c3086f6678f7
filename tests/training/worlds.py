"""What ranks do in the tests of worlds: functions that a fresh process imports by name."""

from typing import Any

from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train
from quokka_ray.training.world import ALONE, World


def wide_trainer(world: World, config: TrajectoryConfig) -> Trainer:
    """Return a trainer that computes in float64."""
    corpus = TokenCorpus.open(config.corpus)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    trainer = Trainer(config, windows, "cpu", world)
    trainer.model.double()
    trainer.smoothed_loss = trainer.smoothed_loss.double()
    return trainer


def smoothed_losses(world: World, config: TrajectoryConfig, steps: int) -> list[float]:
    """Return the smoothed loss after each of `steps` steps in float64."""
    trainer = wide_trainer(world, config)
    losses = []
    for _ in range(steps):
        trainer.advance()
        losses.append(trainer.smoothed_loss.item())
    return losses


def run(
    world: World, config: TrajectoryConfig, folder: Any, polls: int | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """Run a trajectory as the search does; return its outcome and what this rank reported.

    `polls`: the run is asked to stop after so many polls of rank 0.
    """
    count = iter(range(10**9 if polls is None else polls))
    rows: list[dict[str, Any]] = []
    outcome = train(
        config,
        folder,
        report=rows.append,
        should_stop=lambda: next(count, None) is None,
        world=world,
    )
    return outcome, rows


def alone(function: Any, *arguments: Any) -> Any:
    """Return what `function` gives in a world of one."""
    return function(ALONE, *arguments)
