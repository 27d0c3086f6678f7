"""What ranks do in the tests of worlds: functions that a fresh process imports by name."""

from pathlib import Path
from typing import Any

from quokka_ray.corpus.store import TokenCorpus
from quokka_ray.study.trajectory import TrajectoryConfig
from quokka_ray.training.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from quokka_ray.training.loop import _SMOOTHING, Trainer
from quokka_ray.training.run import train
from quokka_ray.training.world import ALONE, World


def wide_trainer(world: World, config: TrajectoryConfig, sharded: bool = False) -> Trainer:
    """Return a trainer that computes in float64."""
    corpus = TokenCorpus.open(config.corpus)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    trainer = Trainer(config, windows, "cpu", world, sharded)
    trainer.model.double()
    trainer.smoothed_loss = trainer.smoothed_loss.double()
    return trainer


def take_steps(trainer: Trainer, steps: int) -> list[float]:
    """Return the loss of each step up to `steps`: the smoothed loss hides 49 parts of 50."""
    losses = []
    while trainer.step < steps:
        before = trainer.smoothed_loss.item()
        trainer.advance()
        losses.append(before + (trainer.smoothed_loss.item() - before) / _SMOOTHING)
    return losses


def losses(
    world: World, config: TrajectoryConfig, steps: int, sharded: bool = False
) -> list[float]:
    """Return the loss of each of `steps` steps in float64."""
    return take_steps(wide_trainer(world, config, sharded), steps)


def saved_at(
    world: World, config: TrajectoryConfig, folder: Path, steps: int, sharded: bool = False
) -> None:
    """Train in float64 for `steps` steps and write a checkpoint."""
    trainer = wide_trainer(world, config, sharded)
    take_steps(trainer, steps)
    save_checkpoint(folder, steps, trainer.model.state_dict(), trainer.state_dict(), world)


def losses_from(
    world: World, config: TrajectoryConfig, folder: Path, steps: int, sharded: bool = False
) -> list[float]:
    """Return the losses of the steps from a checkpoint's to step `steps`, in float64."""
    trainer = wide_trainer(world, config, sharded)
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    mesh = world.mesh("cpu") if sharded else None
    trainer.load_state_dict(*load_checkpoint(checkpoint, "cpu", mesh))
    return take_steps(trainer, steps)


def run(
    world: World, config: TrajectoryConfig, folder: Path, polls: int | None = None
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
