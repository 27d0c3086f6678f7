"""From the `diffusion` section of a study to its noise and its objective."""

from typing import Any

from quokka_ray.diffusion.masked import MaskedElbo, MaskGit, MaskSampler, MegaDlm
from quokka_ray.diffusion.noised import NextToken, ProcessElbo, QuokkaUniform
from quokka_ray.diffusion.objective import Objective
from quokka_ray.diffusion.processes import NoiseProcess, noise_process
from quokka_ray.diffusion.schedules import NoiseSchedule, noise_schedule
from quokka_ray.diffusion.times import MovingGaussian, TimeSampler
from quokka_ray.study.diffusion import DiffusionConfig


def build_schedule(diffusion: DiffusionConfig) -> NoiseSchedule:
    """Return the noise schedule of a study."""
    settings = {} if diffusion.noise_power is None else {"power": diffusion.noise_power}
    return noise_schedule(diffusion.noise_schedule, **settings)


def build_process(
    diffusion: DiffusionConfig, vocab_size: int, schedule: NoiseSchedule | None = None
) -> NoiseProcess:
    """Return the noise of a study, under its own schedule or another one.

    Raises:
        ValueError: Kernel `none` has no noise.
    """
    settings: dict[str, Any] = {}
    if diffusion.kernel == "hybrid":
        settings = {"p_uniform": diffusion.hybrid_p_uniform, "gamma": diffusion.hybrid_gamma}
    elif diffusion.kernel == "log_snr_hybrid":
        settings = {"shift": diffusion.hybrid_shift, "scale": diffusion.hybrid_scale}
    return noise_process(
        diffusion.kernel, schedule or build_schedule(diffusion), vocab_size, **settings
    )


def build_times(diffusion: DiffusionConfig) -> TimeSampler:
    """Return the sampler of noise levels of a study."""
    curriculum = None
    if diffusion.curriculum == "moving_gaussian":
        curriculum = MovingGaussian(diffusion.curriculum_sigma, diffusion.curriculum_reweight)
    return TimeSampler(diffusion.mask_sampler, diffusion.time_min, curriculum=curriculum)


def build_objective(
    diffusion: DiffusionConfig, vocab_size: int, seq_len: int, steps: int
) -> Objective:
    """Return what a run trains on.

    Args:
        diffusion: The study's section, whose parts fit each other.
        vocab_size: Real tokens K.
        seq_len: Tokens L of a row.
        steps: Optimiser steps of the run, which a curriculum follows.
    """
    if diffusion.objective == "next_token":
        return NextToken(vocab_size)
    if diffusion.objective == "megadlm":
        return MegaDlm(vocab_size, seq_len)
    times = build_times(diffusion)
    if diffusion.kernel != "mask":
        process = build_process(diffusion, vocab_size)
        kind = QuokkaUniform if diffusion.objective == "quokka_uniform" else ProcessElbo
        return kind(process, times, steps)
    schedule = build_schedule(diffusion)
    sampler = MaskSampler(schedule, seq_len, None if diffusion.counts_exactly else times, steps)
    if diffusion.objective == "maskgit":
        return MaskGit(sampler, vocab_size, diffusion.maskgit_normalisation)
    return MaskedElbo(sampler, vocab_size, seq_len, diffusion.weight_power)
