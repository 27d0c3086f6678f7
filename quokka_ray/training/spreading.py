"""Whether the workers of a trajectory each hold its model, or spread it among them."""

from quokka_ray.model.counts import count_params
from quokka_ray.study.config import DiffusionConfig, ModelConfig, TrainingConfig
from quokka_ray.study.trajectory import Shape, TrajectoryConfig


def is_spread(config: TrajectoryConfig, device: str, workers: int) -> bool:
    """Return whether parameters, gradients and optimiser state are spread over the workers."""
    if workers == 1 or config.training.sharding == "none":
        return False
    if config.training.sharding == "full":
        return True
    import torch

    if torch.device(device).type != "cuda":
        return False
    memory = torch.cuda.get_device_properties(device).total_memory
    return not fits(
        config.shape, config.model, config.vocab_size, config.training, config.diffusion, memory
    )


def fits(
    shape: Shape,
    model: ModelConfig,
    vocab_size: int,
    training: TrainingConfig,
    diffusion: DiffusionConfig,
    memory: float,
    shards: int = 1,
) -> bool:
    """Return whether a device of `memory` bytes trains a size that is spread over `shards`."""
    return 16.0 * count_params(shape, model, vocab_size) / shards <= 0.7 * memory
