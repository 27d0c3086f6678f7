"""The `diffusion` section of a study file, and what may not be combined in it."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from quokka_ray.study.section import Section

KernelName = Literal["mask", "uniform", "hybrid", "log_snr_hybrid", "none"]
NoiseScheduleName = Literal["linear", "cosine", "poly2", "poly", "geometric", "sigma_linear"]
ObjectiveName = Literal["elbo", "maskgit", "megadlm", "quokka_uniform", "next_token"]


class DiffusionConfig(Section):
    """Noise and objective. What cannot be combined is refused here, with what to write instead."""

    kernel: KernelName = "mask"
    """What noise does to a token: masks it, replaces it by a random one, or either (GIDD's
    mixtures); `none` is the autoregressive baseline, with objective `next_token`."""
    noise_schedule: NoiseScheduleName = "linear"
    noise_power: float | None = Field(default=None, gt=0)
    """The power p of `poly`, where alpha = 1 - t ** p."""
    hybrid_p_uniform: float = Field(default=0.1, ge=0, lt=1)
    """Kernel `hybrid`: the share of uniform noise where it is largest."""
    hybrid_gamma: float = Field(default=1.0, gt=0, le=2)
    """Kernel `hybrid`: how the share of uniform noise falls towards both ends of time."""
    hybrid_shift: float = 0.0
    """Kernel `log_snr_hybrid`: -2 little, 0 balanced, 2 much uniform noise."""
    hybrid_scale: float = Field(default=1.0, ge=-1, le=1)
    """Kernel `log_snr_hybrid`: how the share of uniform noise follows the signal."""
    objective: ObjectiveName = "elbo"
    """What is trained on. `maskgit`: the masked tokens' loss without the ELBO's weight; `megadlm`:
    the estimator of the paper's released code; `quokka_uniform`: the paper's loss for uniform
    noise, which is no bound. Validation is the ELBO, or exact for `next_token`, always."""
    maskgit_normalisation: Literal["tokens", "masked", "rows"] = "tokens"
    """`maskgit` divides by all tokens, by the masked ones of the batch, or takes each row's mean
    over its masked tokens."""
    weight_power: float = Field(default=1.0, ge=0, le=1)
    """The ELBO's weight of a masked token, L/k with the linear schedule, is raised to this; 1 is
    the ELBO. Validation always uses 1."""
    mask_sampler: Literal[
        "antithetic", "stratified", "systematic", "independent", "importance"
    ] = "antithetic"
    """How noise levels are drawn. `antithetic`: pairs of opposite levels, with kernel `mask` as
    exact numbers of masked tokens; the others draw a time for each row and mask each token by
    itself."""
    time_min: float = Field(default=1e-3, gt=0, lt=0.5)
    """The smallest time that is drawn; exact numbers of masked tokens need none."""
    curriculum: Literal["none", "moving_gaussian"] = "none"
    """`moving_gaussian`: times come from a window that moves from clean to noisy."""
    curriculum_sigma: float = Field(default=0.2, ge=0.01)
    """Width of the window."""
    curriculum_reweight: bool = False
    """Correct the loss for the window's density, so that its mean stays the objective."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if why := self.misfit:
            raise ValueError(why)
        return self

    @property
    def misfit(self) -> str | None:
        """Why these may not be combined, and what to write instead; None where they may."""
        return next((why for refused, why in self._misfits() if refused), None)

    def varied(
        self, kernel: KernelName, objective: ObjectiveName, noise_schedule: NoiseScheduleName
    ) -> Self:
        """Return this section with another kernel, objective and schedule, unchecked.

        What belongs to the objective or the schedule that is left behind falls away:
        `weight_power`, `maskgit_normalisation` and `noise_power`.
        """
        changes: dict[str, object] = {
            "kernel": kernel,
            "objective": objective,
            "noise_schedule": noise_schedule,
        }
        if (kernel, objective) != ("mask", "elbo"):
            changes["weight_power"] = 1.0
        if objective != "maskgit":
            changes["maskgit_normalisation"] = "tokens"
        if noise_schedule != "poly":
            changes["noise_power"] = None
        return self.model_copy(update=changes)

    def _misfits(self) -> Iterator[tuple[bool, str]]:
        """Yield what may not be combined: whether it is, and what to write instead."""
        kernel, objective, schedule = self.kernel, self.objective, self.noise_schedule
        fits = _OBJECTIVES_OF[kernel]
        yield (
            objective not in fits,
            f"kernel {kernel!r} has no objective {objective!r}: "
            f"set diffusion.objective to {' or '.join(fits)}, or choose another kernel",
        )
        yield (
            (schedule == "poly") != (self.noise_power is not None),
            "noise_schedule 'poly' and noise_power go together: set both, such as "
            "noise_schedule: poly and noise_power: 3, or neither",
        )
        yield (
            kernel == "none" and schedule != "linear",
            "kernel 'none' draws no noise: leave noise_schedule out",
        )
        yield (
            self.weight_power != 1 and (objective != "elbo" or kernel != "mask"),
            "weight_power belongs to objective 'elbo' of kernel 'mask'; "
            f"with {objective!r} of {kernel!r} set diffusion.weight_power to 1",
        )
        yield (
            self.maskgit_normalisation != "tokens" and objective != "maskgit",
            f"maskgit_normalisation belongs to objective 'maskgit', not to {objective!r}: "
            "leave it out",
        )
        yield (
            kernel == "none" and self.mask_sampler != "antithetic",
            "kernel 'none' draws no noise: leave mask_sampler out",
        )
        yield (
            kernel == "none" and self.curriculum != "none",
            "kernel 'none' draws no noise: leave curriculum out",
        )
        yield (
            objective == "megadlm" and self.mask_sampler != "independent",
            "objective 'megadlm' is an estimator of independent times and masks: "
            "set diffusion.mask_sampler to independent",
        )
        yield (
            objective == "megadlm" and (schedule != "linear" or self.curriculum != "none"),
            "objective 'megadlm' draws times uniformly under the linear schedule: leave "
            "noise_schedule and curriculum out, or set diffusion.objective to elbo",
        )
        yield (
            self.counts_exactly and self.curriculum != "none",
            "a curriculum moves times, and mask_sampler 'antithetic' draws numbers of masked "
            "tokens: set diffusion.mask_sampler to stratified",
        )
        yield (
            self.mask_sampler == "importance" and self.curriculum != "none",
            "a curriculum and mask_sampler 'importance' both decide the density of times: "
            "set diffusion.mask_sampler to stratified, or diffusion.curriculum to none",
        )
        yield (
            self.mask_sampler == "importance" and schedule != "linear",
            "mask_sampler 'importance' takes the noise schedule's place: leave noise_schedule "
            "out, or set diffusion.mask_sampler to stratified",
        )

    @property
    def counts_exactly(self) -> bool:
        """Whether training draws exact numbers of masked tokens instead of times."""
        return self.kernel == "mask" and self.mask_sampler == "antithetic"

    @property
    def needs_time(self) -> bool:
        """Whether the model has to be told the noise level, which masks tell by themselves."""
        return self.kernel in ("uniform", "hybrid", "log_snr_hybrid")


_OBJECTIVES_OF = {
    "mask": ("elbo", "maskgit", "megadlm"),
    "uniform": ("elbo", "quokka_uniform"),
    "hybrid": ("elbo",),
    "log_snr_hybrid": ("elbo",),
    "none": ("next_token",),
}
