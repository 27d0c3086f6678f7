"""One trajectory by several workers: a Ray Train run, from a Tune trial or from the command line.

Rank 0 writes `metrics.jsonl`, as a run in one process does, and whoever started the workers reads
what is appended: a row counts once it is on the disk, whatever dies after. Stops are cooperative,
since a Train run that is killed from outside may leave its placement group behind: rank 0 polls
the flag and all ranks return at the same step. A worker that dies ends the others, and the next
attempt resumes from the last whole checkpoint on the disk; Train's own list of checkpoints, which
may lack one that is written, is not used.
"""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quokka_ray.cluster.machines import Room, connect, device_memory, room_for
from quokka_ray.cluster.trainable import ERROR_FILE, STOP_POLL_SECONDS, StopFlag
from quokka_ray.cluster.worlds import Worlds
from quokka_ray.study.config import ResourcesConfig
from quokka_ray.study.trajectory import TrajectoryConfig

if TYPE_CHECKING:
    from quokka_ray.training.attempt import Outcome

_RETRIES = 2
"""Times that lost workers of a run without a campaign are replaced."""

_ENVIRONMENT = {
    # Together these halve the time that a run of several workers takes to start and to end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
}


def train_on_workers(
    config: TrajectoryConfig,
    folder: Path,
    *,
    workers: int,
    room: Room,
    report: Callable[[dict[str, Any]], None],
    stop_file: Path,
    threads: int,
    state: Path,
    retries: int = 0,
) -> "Outcome":
    """Train one trajectory by several workers, or go on with what `folder` holds of it.

    Args:
        config: The trajectory.
        folder: Its folder, seen by all nodes.
        workers: How many.
        room: What each asks for.
        report: Called with every row that is appended to `metrics.jsonl` meanwhile.
        stop_file: The file whose existence asks the workers to return.
        threads: Torch threads of a worker.
        state: Where Ray Train keeps its own state.
        retries: Times that lost workers are replaced here; a campaign decides that itself.

    Raises:
        RuntimeError: A worker failed or died, more often than `retries`. The traceback is in the
            trajectory's folder.
    """
    os.environ.update(_ENVIRONMENT)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR_FILE).unlink(missing_ok=True)
    appended = _Appended(folder / "metrics.jsonl")
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "trajectory": config.model_dump_json(),
            "folder": str(folder.absolute()),
            "stop_file": str(stop_file.absolute()),
            "threads": threads,
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=room.gpus > 0,
            resources_per_worker={"CPU": room.cpus, "GPU": room.gpus},
        ),
        torch_config=TorchConfig(backend="nccl" if room.gpus else "gloo"),
        run_config=RunConfig(
            # A name that was there before would be taken for a run to be restored.
            name=f"{config.id}-{time.time_ns()}",
            storage_path=str(state.absolute()),
            failure_config=FailureConfig(max_failures=retries),
        ),
    )
    # Beside the main thread, where it would take Ctrl-C for itself.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(trainer.fit)
        while not wait([running], timeout=STOP_POLL_SECONDS).done:
            for row in appended.rows():
                report(row)
    for row in appended.rows():
        report(row)
    error = running.exception()
    if error is None:
        outcome: Outcome = running.result().return_value
        return outcome
    if not (folder / ERROR_FILE).exists():
        (folder / ERROR_FILE).write_text(f"a worker of {config.id} died:\n{error!r}\n")
    raise RuntimeError(f"a worker of trajectory {config.id} failed or died") from error


def train_by_itself(
    config: TrajectoryConfig,
    folder: Path,
    resources: ResourcesConfig,
    report: Callable[[dict[str, Any]], None],
    stop_file: Path,
) -> "Outcome":
    """Train one trajectory on a cluster without a search; workers that are lost are replaced.

    Raises:
        MachineError: There is no cluster, or no room for all of its workers.
    """
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        connect(resources)
    try:
        room = room_for(resources)
        workers = Worlds(resources, room, device_memory).of(config)
        room.trials(workers)
        return train_on_workers(
            config,
            folder,
            workers=workers,
            room=room,
            report=report,
            stop_file=stop_file,
            threads=resources.threads,
            state=folder / "ray",
            retries=_RETRIES,
        )
    finally:
        stop_file.unlink(missing_ok=True)
        if started_here:
            ray.shutdown()


def _work(settings: dict[str, Any]) -> "Outcome":
    """Train as one of the workers, on the device that Ray assigned."""
    from filelock import FileLock
    from ray.train.torch import get_device

    from quokka_ray.training.run import train
    from quokka_ray.training.world import joined

    folder = Path(settings["folder"])
    world = joined()
    # A worker that outlives its run by a moment must not write beside its successor.
    lock = FileLock(folder / ".lock", timeout=60)
    try:
        world.agree(lambda: bool(lock.acquire()))
        return train(
            TrajectoryConfig.model_validate_json(settings["trajectory"]),
            folder,
            report=lambda row: None,
            should_stop=StopFlag(Path(settings["stop_file"])),
            device=str(get_device()),
            threads=settings["threads"],
            world=world,
        )
    except Exception:
        # The first to fail says why; the others fail since it is gone.
        with suppress(FileExistsError), (folder / ERROR_FILE).open("x") as file:
            file.write(traceback.format_exc())
        raise
    finally:
        lock.release()


class _Appended:
    """The whole lines that a file of JSON lines has got since it was last looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is new."""
        if not self._path.exists():
            return
        size = self._path.stat().st_size
        if size < self._read:
            # A new attempt has cut off the line that a kill left unfinished.
            self._read = size
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield json.loads(line)
