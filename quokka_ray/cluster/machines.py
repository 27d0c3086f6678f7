"""The machines of a cluster: joining it, and how many workers it has room for."""

import logging
import math
from dataclasses import dataclass

from quokka_ray.errors import MachineError
from quokka_ray.study.config import ResourcesConfig


def connect(resources: ResourcesConfig) -> None:
    """Start a cluster on this machine, or join the one that the study names.

    Raises:
        MachineError: There is none.
    """
    import ray

    try:
        ray.init(
            address=resources.address,
            include_dashboard=False if resources.address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError) as error:
        raise MachineError(
            f"no Ray cluster at resources.address = {resources.address!r}: {error}"
        ) from error


@dataclass(frozen=True)
class Room:
    """What the cluster has room for.

    Attributes:
        cpus: CPUs of one worker; a trial that fits one device is one worker.
        gpus: GPUs of one worker.
        workers: Workers that fit at once, each on one node.
        has: What the cluster has, in words.
    """

    cpus: float
    gpus: float
    workers: int
    has: str

    def trials(self, workers: int) -> int:
        """Return how many trials of so many workers fit at once.

        Raises:
            MachineError: Not one: it would wait for ever.
        """
        trials = self.workers // workers
        if trials < 1:
            what = "one trial" if workers == 1 else f"one trial of {workers} workers"
            each = "it asks" if workers == 1 else "each asks"
            raise MachineError(
                f"no room for {what}: {each} for {self.cpus:g} CPUs and {self.gpus:g} GPUs, "
                f"the cluster has {self.has}; lower resources.workers_per_trial, "
                "resources.cpus_per_trial or resources.gpus_per_trial"
            )
        return trials


def room_for(resources: ResourcesConfig) -> Room:
    """Return what the cluster that this process is connected to has room for."""
    import ray

    # A cluster that is still starting has no resources yet; its first node brings them.
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = resources.gpus_per_trial
    if gpus == "auto":
        gpus = 1.0 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0.0
    workers = 0
    for node in nodes:
        fits = [node.get("CPU", 0) / resources.cpus_per_trial]
        if gpus:
            fits.append(node.get("GPU", 0) / gpus)
        workers += math.floor(min(fits) + 1e-9)
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    has = f"{total['CPU']:g} CPUs and {total['GPU']:g} GPUs on {len(nodes)} node(s)"
    return Room(resources.cpus_per_trial, gpus, workers, has)


def device_memory() -> float:
    """Return the bytes of one of the cluster's GPUs: a task looks."""
    import ray

    @ray.remote(num_gpus=0.01, num_cpus=0)
    def look() -> float:
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)

    memory: float = ray.get(look.remote())
    return memory
