"""What a study is: the typed sections of a study file, and what they must agree on.

Every section refuses keys that it does not know. Nothing here reads a file, imports torch or
knows Ray: `loader.py` reads YAML into these types, and the rooms that do the work take their
section as an argument.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.corpus import CorpusConfig as CorpusConfig
from quokka_ray.study.diffusion import DiffusionConfig as DiffusionConfig
from quokka_ray.study.model import ModelConfig as ModelConfig
from quokka_ray.study.model import fit_to_kernel as fit_to_kernel
from quokka_ray.study.recipe import Recipe, batch_levels, noise_problem, noises
from quokka_ray.study.search import REPEATED_DATA_LAWS as REPEATED_DATA_LAWS
from quokka_ray.study.search import BudgetConfig as BudgetConfig
from quokka_ray.study.search import EarlyEnd as EarlyEnd
from quokka_ray.study.search import HopelessConfig as HopelessConfig
from quokka_ray.study.search import LawConfig as LawConfig
from quokka_ray.study.search import SearchConfig as SearchConfig
from quokka_ray.study.search import TargetConfig as TargetConfig
from quokka_ray.study.section import Count as Count
from quokka_ray.study.section import Quantity as Quantity
from quokka_ray.study.section import Range as Range
from quokka_ray.study.section import Section as Section
from quokka_ray.study.training import EvaluationConfig as EvaluationConfig
from quokka_ray.study.training import LRScheduleName as LRScheduleName
from quokka_ray.study.training import TrainingConfig as TrainingConfig


class ResourcesConfig(Section):
    """What one trial occupies, and how many run at once."""

    workers_per_trial: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """Workers that train one trajectory together, each on a device of its own; `auto`: one, and
    as many more as a model needs that does not fit the memory of one GPU."""
    slots: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Trials at once; `auto`: as many as the machine or cluster has room for."""
    cpus_per_trial: float = Field(default=1, gt=0)
    """Of a trial of one worker; of each worker where there are several."""
    gpus_per_trial: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """The same of GPUs; `auto`: none where there is no GPU; else one, or the fraction at which the
    memory model and the time that small models leave a GPU idle let several trials share it. With
    NVIDIA's `nvidia-cuda-mps-control -d` started beforehand more of them share one."""
    threads: int = Field(default=1, ge=1)
    """Torch threads of one worker; more than one stalls where cores are shared."""
    address: str = "local"
    """Ray cluster to run on: `local` starts one on this machine, `auto` joins the running one."""


class StudyConfig(Section):
    """A study: one search with its ledger."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: Path = Path("runs")
    seed: int = 0
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig
    budget: BudgetConfig
    target: TargetConfig
    law: LawConfig = LawConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _model_fits_the_kernel(self) -> Self:
        # Filled in before anyone sees the section: prices and shapes depend on it.
        self.__dict__["model"] = fit_to_kernel(self.model, self.diffusion)
        return self

    @model_validator(mode="after")
    def _corpus_can_be_read_again(self) -> Self:
        if self.corpus.reads_stdin:
            raise ValueError(
                "corpus: a study is resumed, and stdin cannot be read again: run `quokka-ray "
                "prepare --corpus -` first, and name what it prints as corpus: prepared:PATH"
            )
        return self

    @model_validator(mode="after")
    def _workers_share_the_batch(self) -> Self:
        workers, batch = self.resources.workers_per_trial, self.training.batch_sequences
        if workers != "auto" and batch % workers:
            raise ValueError(
                f"training.batch_sequences ({batch}) cannot be shared by "
                f"resources.workers_per_trial ({workers}): make it a multiple"
            )
        return self

    @model_validator(mode="after")
    def _searched_recipes_can_be_trained(self) -> Self:
        search, training = self.search, self.training
        own, workers = training.batch_sequences, self.resources.workers_per_trial
        if (batch := search.batch_sequences) is not None:
            if not batch.low <= own <= batch.high:
                raise ValueError(
                    f"search.batch_sequences goes from {batch.low:g} to {batch.high:g} and leaves "
                    f"out training.batch_sequences ({own}), which a trial falls back to: widen "
                    "the one or change the other"
                )
            odd = [n for n in batch_levels(search, own) if workers != "auto" and n % workers]
            if odd:
                raise ValueError(
                    f"search.batch_sequences: {odd[0]} cannot be shared by "
                    f"resources.workers_per_trial ({workers}); start from a multiple of it"
                )
        if (warmup := search.warmup_fraction) is not None:
            most = 1 - training.cooldown_fraction
            if warmup.high >= 1 or warmup.high > most:
                raise ValueError(
                    f"search.warmup_fraction goes up to {warmup.high:g}, but "
                    f"training.cooldown_fraction leaves {most:g}: lower its high end"
                )
        if why := noise_problem(search, self.diffusion):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _runs_compare(self) -> Self:
        uncooled = {"constant"} if self.training.cooldown_fraction else {"constant", "wsd"}
        names = set(self.search.lr_schedule)
        if names & uncooled and names - uncooled:
            raise ValueError(
                f"search.lr_schedule mixes runs that cool down ({', '.join(names - uncooled)}) "
                f"with runs that do not ({', '.join(names & uncooled)}): no law holds for both"
            )
        return self

    @model_validator(mode="after")
    def _trials_can_be_observed_several_times(self) -> Self:
        if self.search.observations == 1:
            return self
        if "cosine" in self.search.lr_schedule:
            raise ValueError(
                f"search.observations is {self.search.observations}, but a cosine schedule comes "
                "down once, at its end: leave cosine out of search.lr_schedule, or observe once"
            )
        if self.diffusion.curriculum != "none":
            raise ValueError(
                f"search.observations is {self.search.observations}, but a curriculum follows the "
                "length of a run: leave diffusion.curriculum out, or observe once"
            )
        return self

    @model_validator(mode="after")
    def _law_and_target_are_of_one_kind(self) -> Self:
        repeats = self.search.repeats
        of_data = self.law.name in REPEATED_DATA_LAWS
        if self.law.name != "auto" and of_data != repeats:
            needed = "a range of search.unique_tokens" if of_data else "no range"
            raise ValueError(
                f"law.name {self.law.name!r} needs {needed}: laws of repeated data are fitted to "
                "trials over (N, U), all others to trials whose tokens are new"
            )
        if repeats and self.target.unique_tokens is None:
            raise ValueError(
                "target.unique_tokens is missing: a search of repeated data plans for so many"
            )
        if not repeats and self.target.unique_tokens is not None:
            raise ValueError(
                "target.unique_tokens needs a range of search.unique_tokens: a law of N and D "
                "takes repeated tokens for new ones"
            )
        if not repeats and self.target.flops is None:
            raise ValueError("target.flops is missing: the compute to plan for, in 6ND")
        if repeats and "cosine" in self.search.lr_schedule:
            raise ValueError(
                "search.lr_schedule: a cosine comes down once, at the end of a run, so it cannot "
                "be observed along epochs; take constant, or wsd for a cooldown at each point"
            )
        if repeats and self.diffusion.curriculum != "none":
            raise ValueError(
                "diffusion.curriculum follows the length of a run, which may end early here: "
                "leave it out"
            )
        return self

    def with_recipe(self, recipe: Recipe) -> Self:
        """Return the study as one of its trials has it: with what differs put in place."""
        training, diffusion = recipe.training(self.training), recipe.diffusion(self.diffusion)
        if training is self.training and diffusion is self.diffusion:
            return self
        model = self.model
        if diffusion.kernel != self.diffusion.kernel:
            # Whether the model is told the time is the kernel's to decide, once more.
            undecided = model.model_copy(update={"time_conditioning": None})
            model = fit_to_kernel(undecided if model.time_conditioning else model, diffusion)
        changes = {"training": training, "diffusion": diffusion, "model": model}
        return self.model_copy(update=changes)

    @property
    def heaviest(self) -> "tuple[StudyConfig, ...]":
        """The study as its trials of the largest batch have it, one for each kind of noise."""
        batch = batch_levels(self.search, self.training.batch_sequences)[-1]
        kinds = noises(self.search, self.diffusion)
        return tuple(self.with_recipe(Recipe(batch, noise=noise)) for noise in kinds)

    @property
    def law_name(self) -> str:
        """The law that the search fits, `auto` resolved for repeated data."""
        if self.law.name == "auto" and self.search.repeats:
            return "data_constrained"
        return self.law.name

    @property
    def target_flops(self) -> float:
        """The target's compute, of a search that plans for one."""
        assert self.target.flops is not None
        return self.target.flops

    @property
    def folder(self) -> Path:
        """Where the study keeps everything it writes."""
        return (self.storage / self.name).expanduser()
