"""What a study is: the typed sections of a study file.

Every section refuses keys that it does not know. Nothing here reads a file, imports torch or
knows Ray: `loader.py` reads YAML into these types, and the rooms that do the work take their
section as an argument.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.corpus import CorpusConfig as CorpusConfig
from quokka_ray.study.diffusion import DiffusionConfig as DiffusionConfig
from quokka_ray.study.section import Count as Count
from quokka_ray.study.section import Quantity as Quantity
from quokka_ray.study.section import Section as Section

LRScheduleName = Literal["wsd", "cosine", "constant"]

REPEATED_DATA_LAWS = (
    "data_constrained",
    "data_constrained_log",
    "data_constrained_softplus",
    "data_constrained_ceiling",
    "muennighoff",
)
"""Laws of N, U and epochs."""


class Range(Section):
    """A closed interval of positive numbers, searched on a logarithmic scale."""

    low: Annotated[Quantity, Field(gt=0)]
    high: Annotated[Quantity, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g})")
        return self


class ModelConfig(Section):
    """The family of models: what all sizes of a study share. `model/shapes.py` makes sizes."""

    family: Literal["ladder", "quokka"] = "ladder"
    """The sizes: a smooth ladder of widths and depths, or the 55 of the paper's table, which have
    head widths of their own and take no notice of `head_dim` and `ffn_multiple`."""
    seq_len: int = Field(default=2048, ge=2)
    head_dim: int = Field(default=64, ge=2, multiple_of=2)
    """Width of one attention head; every width of the ladder is a multiple of it."""
    ffn_multiple: int = Field(default=64, ge=1)
    """The gated width is 8/3 of the model width, rounded to a multiple of this."""
    rope_base: float = Field(default=10_000.0, gt=1)
    qk_norm: bool = True
    embedding_norm: bool = False
    """RMSNorm on the embeddings on their way in."""
    conv_width: Annotated[int, Field(ge=0)] = 0
    """Width of a depthwise convolution before attention (odd); 0: none."""
    zero_init_residual: bool = False
    """Output projections of attention and feed-forward start at zero; else at 0.02 as the rest."""
    init_std: float = Field(default=0.02, gt=0)
    norm_eps: float = Field(default=1e-6, gt=0)
    causal: bool | None = None
    """Attention to earlier positions only, the autoregressive baseline; unset: what the kernel
    needs, and not causal where nobody decides."""
    time_conditioning: bool | None = None
    """The noise level t as an input; unset: what the kernel needs, and no input where nobody
    decides."""
    document_attention: Literal["across", "within"] = "across"
    """Whether a position attends to other documents of its window: `within` keeps attention and
    convolution between visible ends of documents. A document's end that noise hides joins it to
    the next, so that the model is told nothing of hidden tokens."""

    @model_validator(mode="after")
    def _convolution_is_centred(self) -> Self:
        if self.conv_width and self.conv_width % 2 == 0:
            raise ValueError(f"conv_width must be odd or 0, not {self.conv_width}")
        return self


class TrainingConfig(Section):
    """The recipe that all trials of a study share; the search varies lr and lr_schedule."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on the blocks' matrices, AdamW on everything else."""
    lr: Annotated[Quantity, Field(gt=0)] = 2e-4
    """Peak learning rate at the centre of the search; the prior of the learning-rate law."""
    muon_lr_ratio: float = Field(default=1.0, gt=0)
    """Muon's learning rate over AdamW's."""
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of elements that are dropped, in training alone, from the embeddings and from what
    attention and feed-forward add to the stream. What is dropped depends on the seed, the step
    and the row of the batch, and on nothing else."""
    transfer: Literal["none", "mup", "completep"] = "none"
    """What changes with width and depth, so that lr, weight_decay and eps found at one size hold
    at others (`model/transfer.py`): nothing; muP, width alone; CompleteP, width and depth."""
    transfer_base_width: int | None = Field(default=None, ge=1)
    """Width at which `transfer` changes nothing: where lr, weight_decay and eps are stated."""
    transfer_base_layers: int | None = Field(default=None, ge=1)
    """Depth at which `completep` changes nothing."""
    grad_clip: float = Field(default=1.0, gt=0)
    batch_sequences: int = Field(default=256, ge=2, multiple_of=2)
    """Sequences of one optimiser step; even, because masks come in antithetic pairs."""
    micro_batch_sequences: int | None = Field(default=None, ge=1)
    """Sequences that are in memory at once; unset: as many as the memory model says fit, the
    whole batch if it does. The step is the same up to rounding."""
    activation_checkpointing: Literal["auto", "never", "always"] = "auto"
    """Whether blocks keep their input alone and run a second time in the backward pass, a third
    more compute; `auto`: only where a single sequence would not fit otherwise."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    cooldown_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of the tokens over which warmup-stable-decay cools down, linearly to zero."""
    min_lr_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Where cosine ends, as a share of the peak."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Of the matrix products. Parameters, gradients, norms, losses and the optimiser's state are
    float32 always; `auto`: bf16 on GPUs that have it, else fp32."""
    compile: Literal["auto", "never", "always"] = "auto"
    """Whether `torch.compile` runs on the blocks; `auto`: where the steps that are left are
    predicted to save more than compiling costs, which short runs on a CPU never do."""
    cuda_graphs: Literal["auto", "never"] = "auto"
    """`auto`: passes of models so small that a GPU would wait for their launches are replayed
    from one graph."""
    sharding: Literal["auto", "none", "full"] = "auto"
    """Whether the workers of a trajectory spread its parameters, gradients and optimiser state
    among them (FSDP2, `full`), or each holds them whole (`none`); `auto`: only where a whole copy
    would not fit. The result is the same up to rounding."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    report_seconds: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError("warmup_fraction and cooldown_fraction together exceed 1")
        return self

    @model_validator(mode="after")
    def _transfer_has_its_base(self) -> Self:
        rule = self.transfer
        for name, value, needed in (
            ("transfer_base_width", self.transfer_base_width, rule != "none"),
            ("transfer_base_layers", self.transfer_base_layers, rule == "completep"),
        ):
            if needed and value is None:
                raise ValueError(
                    f"transfer {rule!r} needs {name}: that of the size at which lr, weight_decay "
                    "and eps were found"
                )
            if value is not None and not needed:
                raise ValueError(f"{name} has no meaning with transfer {rule!r}: leave it out")
        return self


class EvaluationConfig(Section):
    """The validation NELBO that every trial of a study shares."""

    sequences: int = Field(default=512, ge=2)
    draws: int = Field(default=4, ge=1)
    """Masks drawn for each sequence, their counts k stratified over 1..seq_len."""
    seed: int = 0


class EarlyEnd(Section):
    """When a trajectory over repeated data is past its minimum: `analysis/ushape.py`."""

    margin: float = Field(default=0.02, ge=0)
    """Share of the lowest loss by which later ones must exceed it."""
    deviations: float = Field(default=3, ge=0)
    """Standard errors of the difference, same sequences and masks, that it must exceed too."""
    points: int = Field(default=2, ge=1)
    """Successive observations that must do so."""


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
    initial_fraction: float = Field(default=0.3, gt=0, le=1)
    """Share of the budget for the space-filling start, before the law steers."""

    @model_validator(mode="before")
    @classmethod
    def _single_values(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("lr_schedule"), str):
            value = {**value, "lr_schedule": (value["lr_schedule"],)}
        return value

    @model_validator(mode="after")
    def _some_schedule(self) -> Self:
        if not self.lr_schedule:
            raise ValueError("lr_schedule needs at least one name")
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
        "coupled",
        "super",
        "data_constrained",
        "data_constrained_log",
        "data_constrained_softplus",
        "data_constrained_ceiling",
        "muennighoff",
    ] = "auto"
    """`auto`: the five-parameter law; of repeated data, `data_constrained`."""
    huber_delta: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    bootstrap: int = Field(default=400, ge=20)


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


def fit_to_kernel(model: ModelConfig, diffusion: DiffusionConfig) -> ModelConfig:
    """Return `model` with what it leaves to the kernel decided: causal and time_conditioning.

    Raises:
        ValueError: `model` decides against what the kernel needs.
    """
    autoregressive = diffusion.kernel == "none"
    if model.causal is not None and model.causal != autoregressive:
        kind, needed = ("causal", "none") if model.causal else ("bidirectional", "mask")
        raise ValueError(
            f"model.causal is {str(model.causal).lower()} and diffusion.kernel is "
            f"{diffusion.kernel!r}: leave model.causal out, or, for a {kind} model, set "
            f"diffusion.kernel to {needed}"
        )
    if model.time_conditioning and not diffusion.needs_time:
        raise ValueError(
            f"diffusion.kernel {diffusion.kernel!r} has no use for model.time_conditioning: "
            "leave it out"
        )
    changes = {}
    if autoregressive and model.causal is None:
        changes["causal"] = True
    if diffusion.needs_time and model.time_conditioning is None:
        changes["time_conditioning"] = True
    return model.model_copy(update=changes) if changes else model


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
