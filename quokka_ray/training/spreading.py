"""Whether the workers of a trajectory each hold its model, or spread it among them."""

from quokka_ray.study.config import DiffusionConfig, ModelConfig, TrainingConfig
from quokka_ray.study.trajectory import Shape, TrajectoryConfig
from quokka_ray.training.memory import Recipe, step_memory

_USABLE = 0.9
"""Share of a device's memory that a step may be predicted to take."""


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
    """Return whether a device trains a size that is spread over `shards`, by the memory model.

    One sequence at a time must fit, without running blocks twice unless that is asked for: more
    shards cost less than a third more compute.

    Args:
        shape: The size.
        model: Its family.
        vocab_size: Real tokens K.
        training: Its recipe.
        diffusion: Where logits are computed.
        memory: Bytes of the device.
        shards: Devices that share parameters, gradients and optimiser state.
    """
    half = training.precision != "fp32"
    recipe = Recipe(shape, model, vocab_size, training, diffusion, half, shards)
    twice = training.activation_checkpointing == "always"
    step = step_memory(recipe, 1, accumulate=True, checkpointing=twice)
    return step.peak <= _USABLE * memory
