"""What a study may search of the recipe, and what a mistake is told."""

import pytest
from pydantic import ValidationError

from quokka_ray.study.config import StudyConfig
from quokka_ray.study.recipe import Noise, Recipe, batch_levels, noises

STUDY = {
    "name": "recipes",
    "model": {"seq_len": 64},
    "training": {"batch_sequences": 16, "cooldown_fraction": 0.4},
    "search": {"params": {"low": "4k", "high": "200k"}, "run_flops": {"low": 1e10, "high": 1e12}},
    "budget": {"flops": 1e13},
    "target": {"flops": 1e14},
}


def study(**sections):
    merged = {name: {**STUDY.get(name, {}), **values} for name, values in sections.items()}
    return StudyConfig.model_validate({**STUDY, **merged})


def chosen(config: StudyConfig) -> set[tuple[str, str, str]]:
    found = noises(config.search, config.diffusion)
    return {(one.kernel, one.objective, one.noise_schedule) for one in found}


def test_a_study_that_says_nothing_of_it_has_one_recipe_its_own():
    config = study()
    assert not config.search.varied
    assert chosen(config) == {("mask", "elbo", "linear")}
    assert batch_levels(config.search, 16) == (16,)
    assert config.with_recipe(Recipe()) is config


def test_batches_lie_a_factor_of_two_apart():
    config = study(search={"batch_sequences": {"low": 6, "high": 50}})
    assert batch_levels(config.search, 16) == (6, 12, 24, 48)
    assert config.heaviest[0].training.batch_sequences == 48


def test_only_combinations_that_can_be_trained_are_chosen_from():
    config = study(
        search={"kernel": ["mask", "uniform"], "objective": ["elbo", "maskgit"]},
    )
    assert chosen(config) == {
        ("mask", "elbo", "linear"),
        ("mask", "maskgit", "linear"),
        ("uniform", "elbo", "linear"),
    }
    assert study(search={"noise_schedule": "linear"}).search.noise_schedule == ("linear",)


def test_settings_of_one_objective_hold_where_it_is_used():
    config = study(
        diffusion={"weight_power": 0.5},
        search={"objective": ["elbo", "maskgit"], "kernel": ["mask", "uniform"]},
    )
    own = config.with_recipe(Recipe(noise=Noise("mask", "elbo", "linear")))
    assert own is config
    other = config.with_recipe(
        Recipe(8, weight_decay=0.3, noise=Noise("mask", "maskgit", "linear"))
    )
    assert other.diffusion.weight_power == 1
    assert (other.training.batch_sequences, other.training.weight_decay) == (8, 0.3)
    uniform = config.with_recipe(Recipe(noise=Noise("uniform", "elbo", "linear")))
    assert uniform.diffusion.weight_power == 1
    assert uniform.model.time_conditioning
    assert not config.model.time_conditioning
    # And back, from a study that is told the time to noise that has no use for it.
    back = study(diffusion={"kernel": "uniform"}, search={"kernel": ["uniform", "mask"]})
    mask = back.with_recipe(Recipe(noise=Noise("mask", "elbo", "linear")))
    assert back.model.time_conditioning
    assert not mask.model.time_conditioning
    # Whatever is put in place is a study that would be read.
    for trial in (other, uniform, mask):
        StudyConfig.model_validate(trial.model_dump() | {"search": STUDY["search"]})


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"search": {"batch_sequences": {"low": 32, "high": 64}}}, r"leaves out .*\(16\)"),
        ({"search": {"batch_sequences": {"low": 5, "high": 64}}}, "even number"),
        (
            {"search": {"batch_sequences": {"low": 2, "high": 64}},
             "resources": {"workers_per_trial": 4}},
            "2 cannot be shared",
        ),
        ({"search": {"warmup_fraction": {"low": 0.01, "high": 0.7}}}, r"leaves 0\.6"),
        ({"search": {"weight_decay": {"low": 0, "high": 0.1}}}, "greater than 0"),
        ({"search": {"noise_schedule": ["cosine"]}}, "leaves out the study's own, linear"),
        ({"search": {"noise_schedule": ["linear", "poly"]}}, "noise_power"),
        ({"search": {"objective": ["elbo", "megadlm"]}}, "mask_sampler to independent"),
        ({"search": {"objective": ["elbo", "next_token"]}}, "has no objective 'next_token'"),
        ({"search": {"kernel": ["mask", "none"]}}, "uniform"),
        (
            {"search": {"weight_decay": {"low": 0.01, "high": 1},
                        "unique_tokens": {"low": "4k", "high": "16k"}}},
            "weight_decay is not searched with a range of unique_tokens",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_the_remedy(sections, said):
    with pytest.raises(ValidationError, match=said):
        study(**sections)
