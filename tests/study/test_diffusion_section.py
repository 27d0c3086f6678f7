"""What a study may combine under `diffusion`, and what it is told where it may not."""

from itertools import product

import pytest
from pydantic import ValidationError

from quokka_ray.study.config import StudyConfig
from quokka_ray.study.diffusion import DiffusionConfig

STUDY = {
    "name": "kernels",
    "search": {"params": {"low": 1e3, "high": 1e6}, "run_flops": {"low": 1e9, "high": 1e11}},
    "budget": {"flops": 1e12},
    "target": {"flops": 1e18},
}


@pytest.mark.parametrize(
    ("section", "remedy"),
    [
        ({"kernel": "uniform", "objective": "maskgit"}, "objective to elbo or quokka_uniform"),
        ({"kernel": "none"}, "objective to next_token"),
        ({"objective": "next_token"}, "objective to elbo or maskgit or megadlm"),
        ({"kernel": "hybrid", "objective": "quokka_uniform"}, "objective to elbo"),
        ({"noise_schedule": "poly"}, "noise_power: 3"),
        ({"noise_power": 3}, "or neither"),
        ({"kernel": "uniform", "weight_power": 0.5}, "weight_power to 1"),
        ({"objective": "maskgit", "weight_power": 0.5}, "weight_power to 1"),
        ({"maskgit_normalisation": "rows"}, "leave it out"),
        ({"objective": "megadlm"}, "mask_sampler to independent"),
        (
            {
                "objective": "megadlm",
                "mask_sampler": "independent",
                "noise_schedule": "cosine",
            },
            "leave noise_schedule and curriculum out",
        ),
        ({"curriculum": "moving_gaussian"}, "mask_sampler to stratified"),
        (
            {"curriculum": "moving_gaussian", "mask_sampler": "importance"},
            "mask_sampler to stratified",
        ),
        ({"mask_sampler": "importance", "noise_schedule": "cosine"}, "leave noise_schedule out"),
        (
            {"kernel": "none", "objective": "next_token", "mask_sampler": "independent"},
            "leave mask_sampler out",
        ),
        (
            {"kernel": "none", "objective": "next_token", "noise_schedule": "cosine"},
            "leave noise_schedule out",
        ),
        (
            {"kernel": "none", "objective": "next_token", "curriculum": "moving_gaussian"},
            "leave curriculum out",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_write_instead(section, remedy):
    with pytest.raises(ValidationError, match=remedy):
        DiffusionConfig(**section)


def test_all_that_is_not_refused_can_be_built():
    from quokka_ray.diffusion.build import build_objective

    kernels = ("mask", "uniform", "hybrid", "log_snr_hybrid", "none")
    schedules = ("linear", "cosine", "poly2", "poly", "geometric", "sigma_linear")
    objectives = ("elbo", "maskgit", "megadlm", "quokka_uniform", "next_token")
    samplers = ("antithetic", "stratified", "systematic", "independent", "importance")
    curricula = ("none", "moving_gaussian")
    built = 0
    for kernel, schedule, objective, sampler, curriculum in product(
        kernels, schedules, objectives, samplers, curricula
    ):
        power = {"noise_power": 3} if schedule == "poly" else {}
        try:
            section = DiffusionConfig(
                kernel=kernel,
                noise_schedule=schedule,
                objective=objective,
                mask_sampler=sampler,
                curriculum=curriculum,
                **power,
            )
        except ValidationError:
            continue
        objective = build_objective(section, 11, 16, 10)
        assert 0 < objective.blind < 100, section
        built += 1
    assert built == 284


@pytest.mark.parametrize(
    ("diffusion", "model", "remedy"),
    [
        ({}, {"causal": True}, "set diffusion.kernel to none"),
        ({"kernel": "none", "objective": "next_token"}, {"causal": False}, "kernel to mask"),
        ({}, {"time_conditioning": True}, "leave it out"),
    ],
)
def test_a_model_against_the_kernel_is_refused(diffusion, model, remedy):
    with pytest.raises(ValidationError, match=remedy):
        StudyConfig(**STUDY, diffusion=diffusion, model=model)


def test_uniform_noise_without_time_conditioning_is_a_choice():
    study = StudyConfig(
        **STUDY, diffusion={"kernel": "uniform"}, model={"time_conditioning": False}
    )
    assert study.model.time_conditioning is False


def test_a_study_that_was_written_out_reads_as_itself():
    study = StudyConfig(**STUDY, diffusion={"kernel": "none", "objective": "next_token"})
    assert StudyConfig.model_validate(study.model_dump()) == study
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
