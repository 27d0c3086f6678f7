"""The `search`, `budget`, `target` and `law` sections: what is searched, how far, toward what."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.diffusion import NoiseScheduleName, ObjectiveName
from quokka_ray.study.section import Count, Quantity, Range, Section
from quokka_ray.study.training import LRScheduleName

REPEATED_DATA_LAWS = (
    "data_constrained",
    "data_constrained_log",
    "data_constrained_softplus",
    "data_constrained_ceiling",
    "muennighoff",
)
"""Laws of N, U and epochs."""


RECIPE_NUMBERS = ("batch_sequences", "warmup_fraction", "weight_decay")
RECIPE_NAMES = ("noise_schedule", "objective", "kernel")
"""What a search may vary of the recipe besides the learning rate and its schedule: ranges of
numbers, and lists of names."""


class EarlyEnd(Section):
    """When a trajectory over repeated data is past its minimum: `analysis/ushape.py`."""

    margin: float = Field(default=0.02, ge=0)
    """Share of the lowest loss by which later ones must exceed it."""
    deviations: float = Field(default=3, ge=0)
    """Standard errors of the difference, same sequences and masks, that it must exceed too."""
    points: int = Field(default=2, ge=1)
    """Successive observations that must do so."""


class HopelessConfig(Section):
    """When a trajectory ends because its recipe leaves no hope: `analysis/hopeless.py`."""

    margin: float = Field(default=0.05, gt=0)
    """Excess of ln loss over the law's at its end, up to which a run may go on."""
    deviations: float = Field(default=3, ge=0)
    """Standard deviations of the training loss, among runs that end so, that it may lie higher."""


class SearchConfig(Section):
    """What is searched, and where.

    With a range of `unique_tokens` a search is one of repeated data: its runs are trajectories
    over (N, U), observed along their epochs, and its law is one of N, U and epochs.
    """

    params: Range
    """Model sizes N, total parameters with tied embeddings counted once."""
    run_flops: Range
    """Compute of one trajectory in 6ND, the law's own unit; the budget counts exact FLOPs."""
    tokens_per_param: Range = Range(low=1, high=1000)
    unique_tokens: Count | Range | None = None
    """Tokens U that trials may read; unset: the whole training split. A range is searched, in
    steps of a factor of two, toward a law of repeated data."""
    max_epochs: float = Field(default=1, gt=0)
    """How often a trial may go through them: D is at most so many times U. The laws of N and D
    that a search fits take a repeated token for a new one; those of a range of U do not."""
    early_end: EarlyEnd | None = EarlyEnd()
    """With a range of U: when a trial's loss has turned for good, which ends it and gives the
    rest of its price back; null: never."""
    hopeless: HopelessConfig | None = None
    """When a trial of N and D ends on its way, since its training loss says that its learning
    rate, or what else is searched beside size and data, will leave it far above the law; it gives
    no observation, and the rest of its price back. Trials are judged by eight or more that
    finished; those larger than all before them, which test the law, never; null: none is."""
    observations: int = Field(default=1, ge=1)
    """Observations of one trial: at D, and at D over powers of `observation_ratio`. With wsd each
    but the last is a branch that leaves a trunk at a constant rate and cools down (`1.3 D` of
    training for three at cooldown_fraction .4, where separate trials take `1.75 D`); with constant
    the trial is observed as it passes."""
    observation_ratio: float = Field(default=2, gt=1)
    """Token count of an observation over that of the one before it. With a range of U a trial is
    observed at 1, r, r^2 ... epochs, from its hundredth step on."""
    lr_factor: Range = Range(low=0.25, high=4)
    """Learning rate as a factor of the current learning-rate law."""
    lr_schedule: tuple[LRScheduleName, ...] = ("wsd",)
    batch_sequences: Range | None = None
    """Sequences of one optimiser step, in steps of a factor of two from `low`, an even number;
    `training.batch_sequences` lies among them. Tokens are rounded down to whole steps. Unset, as
    all that follow: fixed, as `training` and `diffusion` say."""
    warmup_fraction: Range | None = None
    weight_decay: Range | None = None
    """On a logarithmic scale, as all ranges; so 0 is not in it, and a low end that is small
    beside what does best stands for none."""
    noise_schedule: tuple[NoiseScheduleName, ...] = ()
    objective: tuple[ObjectiveName, ...] = ()
    kernel: tuple[Literal["mask", "uniform", "hybrid", "log_snr_hybrid"], ...] = ()
    """Kernels, objectives and noise schedules are tried in all combinations that `diffusion`
    allows; the study's own is among them. What `diffusion` says of one objective or schedule
    alone (`weight_power`, `maskgit_normalisation`, `noise_power`) holds where it is used."""
    price: Literal["flops", "seconds"] = "flops"
    """What a run's worth is divided by when the next one is chosen. `seconds`: device time, as the
    trials so far have measured it by size, the start of a trial included: what a bill counts, and
    what favours larger models, whose FLOPs are faster. The budget is of FLOPs all the same."""
    initial_fraction: float = Field(default=0.3, gt=0, le=1)
    """Share of the budget for the space-filling start, before the law steers."""

    @model_validator(mode="before")
    @classmethod
    def _single_values(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        lists = ("lr_schedule", *RECIPE_NAMES)
        single = {name: (value[name],) for name in lists if isinstance(value.get(name), str)}
        return {**value, **single}

    @model_validator(mode="after")
    def _some_schedule(self) -> Self:
        if not self.lr_schedule:
            raise ValueError("lr_schedule needs at least one name")
        return self

    @model_validator(mode="after")
    def _batches_are_even(self) -> Self:
        batch = self.batch_sequences
        if batch is not None and (batch.low % 2 or batch.high % 1):
            raise ValueError(
                f"batch_sequences goes from {batch.low:g} to {batch.high:g}: masks come in "
                "antithetic pairs, so low has to be an even number, and high a whole one"
            )
        return self

    @model_validator(mode="after")
    def _repeated_data_has_one_recipe(self) -> Self:
        if self.repeats and self.varied:
            raise ValueError(
                f"{self.varied[0]} is not searched with a range of unique_tokens, whose trials "
                "share one recipe: search it in a study of N and D, and set here what did best"
            )
        return self

    @model_validator(mode="after")
    def _epochs_place_the_points(self) -> Self:
        if isinstance(self.unique_tokens, Range) and self.observations != 1:
            raise ValueError(
                "observations has no meaning with a range of unique_tokens, whose trials are "
                "observed at epochs spaced by observation_ratio: leave it out"
            )
        return self

    @property
    def repeats(self) -> bool:
        """Whether the search is one of repeated data."""
        return isinstance(self.unique_tokens, Range)

    @property
    def varied(self) -> tuple[str, ...]:
        """What is searched of the recipe besides the learning rate and its schedule."""
        return tuple(name for name in (*RECIPE_NUMBERS, *RECIPE_NAMES) if getattr(self, name))

    @property
    def most_unique(self) -> int | None:
        """The most unique tokens that a trial may read; None: the whole training split."""
        wanted = self.unique_tokens
        return int(wanted.high) if isinstance(wanted, Range) else wanted


class BudgetConfig(Section):
    """What the whole search may cost. A cap: training, evaluation and failed work count."""

    flops: Annotated[Quantity, Field(gt=0)]
    trials: int | None = Field(default=None, ge=1)


class TargetConfig(Section):
    """What the law is wanted for."""

    flops: Annotated[Quantity, Field(gt=0)] | None = None
    """The compute budget to plan for, in 6ND. A search of repeated data may leave it out."""
    unique_tokens: Annotated[Count, Field(ge=1)] | None = None
    """Tokens U to plan for, of a search of repeated data: how large a model, how many epochs."""
    tolerance_params: float | None = Field(default=0.1, gt=0)
    """How well ln N_opt must be known there (half width of its 90 % interval); null: it is not
    asked for."""
    tolerance_loss: float | None = Field(default=0.01, gt=0)
    """How well ln loss must be known there (half width of its 90 % interval); null: it is not
    asked for."""
    stop: Literal["tolerance", "budget"] = "tolerance"
    """What ends a search: `tolerance`, as soon as the law's intervals meet the tolerances, or
    larger runs have come out unlike their predictions so often that no law is claimed; the budget
    is the most that it may cost. `budget`: the budget alone, as always for repeated data."""

    @model_validator(mode="after")
    def _wants_something(self) -> Self:
        if self.tolerance_params is None and self.tolerance_loss is None:
            raise ValueError(
                "tolerance_params and tolerance_loss are both null, so there is nothing to "
                "search for: give one of them"
            )
        return self


class LawConfig(Section):
    """How the law is fitted online."""

    name: Literal[
        "auto",
        "chinchilla",
        "bounded",
        "coupled",
        "super",
        "data_constrained",
        "data_constrained_log",
        "data_constrained_softplus",
        "data_constrained_ceiling",
        "muennighoff",
    ] = "auto"
    """`auto`: the five-parameter law; of repeated data, `data_constrained`. `bounded` predicts
    larger runs better (docs/laws.md)."""
    huber_delta: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    bootstrap: int = Field(default=400, ge=20)
