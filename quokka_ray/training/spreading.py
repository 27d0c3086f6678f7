"""Whether the workers of a trajectory each hold its model, or spread it among them."""

import torch

from quokka_ray.study.trajectory import TrajectoryConfig


def is_spread(config: TrajectoryConfig, device: str, workers: int) -> bool:
    """Return whether parameters, gradients and optimiser state are spread over the workers."""
    if workers == 1 or config.training.sharding == "none":
        return False
    if config.training.sharding == "full":
        return True
    return torch.device(device).type == "cuda" and not replica_fits(
        config, torch.cuda.get_device_properties(device).total_memory
    )


def replica_fits(config: TrajectoryConfig, memory: float) -> bool:
    """Return whether `memory` bytes hold one whole copy and what its optimiser step needs."""
    return 16.0 * config.params <= 0.7 * memory
