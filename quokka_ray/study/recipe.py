"""The recipe of one trial: the study's own, with what its search varies put in its place.

A search may vary the batch, warmup and weight decay, and the kind of noise and what is trained
on. The last three cannot be combined at will (`DiffusionConfig.misfit`): what a search chooses
from are the combinations that can.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from quokka_ray.study.diffusion import (
    DiffusionConfig,
    KernelName,
    NoiseScheduleName,
    ObjectiveName,
)
from quokka_ray.study.search import SearchConfig
from quokka_ray.study.training import TrainingConfig


@dataclass(frozen=True)
class Noise:
    """A kernel, an objective and a noise schedule."""

    kernel: KernelName
    objective: ObjectiveName
    noise_schedule: NoiseScheduleName

    @staticmethod
    def of(diffusion: DiffusionConfig) -> "Noise":
        """Return those of a section."""
        return Noise(diffusion.kernel, diffusion.objective, diffusion.noise_schedule)

    def put(self, diffusion: DiffusionConfig) -> DiffusionConfig:
        """Return a section with these in it; the same one where they are its own."""
        if Noise.of(diffusion) == self:
            return diffusion
        return diffusion.varied(self.kernel, self.objective, self.noise_schedule)


@dataclass(frozen=True)
class Recipe:
    """What a trial differs in from its study; None: in nothing of the kind."""

    batch_sequences: int | None = None
    warmup_fraction: float | None = None
    weight_decay: float | None = None
    noise: Noise | None = None

    def training(self, own: TrainingConfig) -> TrainingConfig:
        """Return the study's section with what differs."""
        changes = {
            name: value
            for name in ("batch_sequences", "warmup_fraction", "weight_decay")
            if (value := getattr(self, name)) is not None
        }
        return own.model_copy(update=changes) if changes else own

    def diffusion(self, own: DiffusionConfig) -> DiffusionConfig:
        """Return the study's section with what differs."""
        return own if self.noise is None else self.noise.put(own)


STUDYS_OWN = Recipe()
"""Of a trial that differs in nothing."""


def noises(search: SearchConfig, diffusion: DiffusionConfig) -> tuple[Noise, ...]:
    """Return the combinations that a search chooses from; one where it varies none of them."""
    return tuple(noise for noise, why in _combinations(search, diffusion) if why is None)


def noise_problem(search: SearchConfig, diffusion: DiffusionConfig) -> str | None:
    """Return what is wrong with the combinations that a search asks for, or None.

    Each name that it lists has to be in one that can be trained, and the study's own combination
    has to be among them: that is what a trial falls back to.
    """
    own = Noise.of(diffusion)
    found = list(_combinations(search, diffusion))
    for name in ("kernel", "objective", "noise_schedule"):
        listed = getattr(search, name)
        if listed and getattr(own, name) not in listed:
            return (
                f"search.{name} ({', '.join(listed)}) leaves out the study's own, "
                f"{getattr(own, name)}: add it, or set diffusion.{name} to one of them"
            )
        for value in listed:
            reasons = [why for noise, why in found if getattr(noise, name) == value]
            if None not in reasons:
                return f"search.{name} {value!r} cannot be trained here: {reasons[0]}"
    return None


def batch_levels(search: SearchConfig, own: int) -> tuple[int, ...]:
    """Return the batches that a search chooses from, in sequences, smallest first.

    They lie a factor of two apart; `own` alone where it varies none.
    """
    if search.batch_sequences is None:
        return (own,)
    levels = [int(search.batch_sequences.low)]
    while 2 * levels[-1] <= search.batch_sequences.high:
        levels.append(2 * levels[-1])
    return tuple(levels)


def _combinations(
    search: SearchConfig, diffusion: DiffusionConfig
) -> Iterator[tuple[Noise, str | None]]:
    """Yield each combination that a search asks for, and why it cannot be trained, or None."""
    for kernel, objective, schedule in product(
        search.kernel or (diffusion.kernel,),
        search.objective or (diffusion.objective,),
        search.noise_schedule or (diffusion.noise_schedule,),
    ):
        noise = Noise(kernel, objective, schedule)
        yield noise, noise.put(diffusion).misfit
