"""How many workers train each trajectory of a study."""

from collections.abc import Callable

from quokka_ray.cluster.machines import Room
from quokka_ray.errors import MachineError
from quokka_ray.study.config import DiffusionConfig, ModelConfig, ResourcesConfig, TrainingConfig
from quokka_ray.study.trajectory import Shape, TrajectoryConfig


class Worlds:
    """The number of workers of each size.

    Args:
        resources: The study's.
        room: What the cluster has room for.
        memory: Returns the bytes of one of the cluster's GPUs; asked only where it matters.
    """

    def __init__(
        self, resources: ResourcesConfig, room: Room, memory: Callable[[], float]
    ) -> None:
        self._fixed = 1 if resources.workers_per_trial == "auto" else resources.workers_per_trial
        self._room = room
        looks = resources.workers_per_trial == "auto" and room.gpus >= 1
        self._memory = memory() if looks else None

    def of(self, trajectory: TrajectoryConfig) -> int:
        """Return the workers of a trajectory."""
        return self.of_size(
            trajectory.shape,
            trajectory.model,
            trajectory.vocab_size,
            trajectory.training,
            trajectory.diffusion,
        )

    def of_size(
        self,
        shape: Shape,
        model: ModelConfig,
        vocab_size: int,
        training: TrainingConfig,
        diffusion: DiffusionConfig,
    ) -> int:
        """Return the workers of a size: those that were asked for, or the fewest that hold it.

        Raises:
            MachineError: Not even all workers that the cluster has room for hold it.
        """
        if self._memory is None:
            return self._fixed
        from quokka_ray.training.spreading import fits

        spread = training.sharding != "none"
        most = max(1, self._room.workers) if spread else 1
        for workers in range(1, most + 1):
            if training.batch_sequences % workers:
                continue
            sizes = (shape, model, vocab_size, training, diffusion)
            if fits(*sizes, self._memory, workers):
                return workers
        raise MachineError(
            f"a model of width {shape.d_model} and {shape.layers} layers does not fit {most} "
            f"GPU(s) of {self._memory / 2**30:.0f} GiB each; lower search.params.high, or use "
            "a cluster with more of them"
        )
