"""The `training` and `evaluation` sections: the recipe that all trials of a study share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.section import Quantity, Section

LRScheduleName = Literal["wsd", "cosine", "constant"]


class TrainingConfig(Section):
    """The recipe that all trials of a study share, but for what `search` varies of it."""

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
    predicted to save more than compiling costs, which short runs on a CPU never do. Tiny models
    on a CPU have a step in C in its place, compiled once a machine if it has a compiler; `never`:
    nothing is compiled."""
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
