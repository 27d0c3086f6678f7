"""What Ray runs for one trajectory: the training function, its reports and its stop flag.

Importing this module imports neither Ray nor torch; a worker imports them when it trains.
"""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quokka_ray.cluster.machines import Room
from quokka_ray.study.trajectory import TrajectoryConfig

Train = Callable[..., object]
"""What an executor runs for a trajectory: called as `quokka_ray.training.run.train` is."""

ROW = "row"
"""Key under which a row travels through Tune, as JSON: Tune adds its own keys beside it."""

ERROR_FILE = "error.txt"
"""Where a trial that failed leaves its traceback, in its trajectory's folder."""

STOP_POLL_SECONDS = 0.2


class StopFlag:
    """True once a file exists. Looking costs a clock reading, and a stat a few times a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_look = 0.0
        self._raised = False

    def __call__(self) -> bool:
        """Return whether the flag was raised."""
        now = time.monotonic()
        if not self._raised and now >= self._next_look:
            self._raised = self._path.exists()
            self._next_look = now + STOP_POLL_SECONDS
        return self._raised


def why_it_failed(folder: Path) -> str:
    """Return in one line why the process of the trajectory in `folder` is gone."""
    path = folder / ERROR_FILE
    if not path.exists():
        return "its process died"
    return f"{path.read_text().strip().splitlines()[-1]} (the traceback is in {path})"


def trial_config(
    trajectory: TrajectoryConfig, folder: Path, stop_file: Path, threads: int, workers: int = 1
) -> dict[str, Any]:
    """Return the Tune configuration of a trial: constants that say what it runs."""
    return {
        "id": trajectory.id,
        "trajectory": trajectory.model_dump_json(),
        "folder": str(folder),
        "stop_file": str(stop_file),
        "threads": threads,
        "workers": workers,
    }


def trial_of(
    train: Train | None = None, room: Room | None = None
) -> Callable[[dict[str, Any]], None]:
    """Return the Tune trainable of a study.

    Args:
        train: What it runs; None: `quokka_ray.training.run.train`.
        room: What each worker asks for, where a trial has several.
    """

    def run_trial(config: dict[str, Any]) -> None:
        if config["workers"] == 1 or train is not None:
            _run(config, train)
        else:
            assert room is not None
            _run_on_workers(config, room)

    return run_trial


def _run_on_workers(config: dict[str, Any], room: Room) -> None:
    """Train one trajectory from inside a Tune trial, by workers of its own."""
    from ray import tune

    from quokka_ray.cluster.workers import train_on_workers

    train_on_workers(
        TrajectoryConfig.model_validate_json(config["trajectory"]),
        Path(config["folder"]),
        workers=config["workers"],
        room=room,
        report=lambda row: tune.report({ROW: json.dumps(row)}),
        stop_file=Path(config["stop_file"]),
        threads=config["threads"],
        state=Path(tune.get_context().get_trial_dir()),
    )


def _run(config: dict[str, Any], train: Train | None) -> None:
    """Train one trajectory inside a Tune trial, on the device that Ray assigned.

    The stop is cooperative: the loop looks at the flag and returns by itself.
    """
    import torch
    from filelock import FileLock
    from ray import tune

    if train is None:
        from quokka_ray.training import run

        train = run.train
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        asked = tune.get_context().get_trial_resources().required_resources
        # What several trials on one GPU plan for, and may not exceed.
        torch.cuda.set_per_process_memory_fraction(min(1.0, asked.get("GPU", 1.0)))
    try:
        # A worker that outlives its killed driver by a moment must not write beside its successor.
        with FileLock(folder / ".lock", timeout=60):
            train(
                TrajectoryConfig.model_validate_json(config["trajectory"]),
                folder,
                report=lambda row: tune.report({ROW: json.dumps(row)}),
                should_stop=StopFlag(Path(config["stop_file"])),
                device="cuda" if torch.cuda.is_available() else "cpu",
                threads=config["threads"],
            )
    except Exception:
        (folder / ERROR_FILE).write_text(traceback.format_exc())
        raise
