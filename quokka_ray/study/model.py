"""The `model` section: the family of models that all sizes of a study share."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.diffusion import DiffusionConfig
from quokka_ray.study.section import Section


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
