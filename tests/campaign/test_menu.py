import numpy as np
import pytest

from quokka_ray.campaign.menu import MIN_STEPS, Menu
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import StudyConfig

STUDY = {
    "name": "s",
    "model": {"seq_len": 64, "head_dim": 8, "ffn_multiple": 8},
    "training": {"batch_sequences": 8},
    "search": {
        "params": {"low": "4k", "high": "100k"},
        "run_flops": {"low": 1e10, "high": 1e12},
        "tokens_per_param": {"low": 2, "high": 600},
    },
    "budget": {"flops": 1e13},
    "target": {"flops": 1e14},
}


def study(**sections: dict) -> StudyConfig:
    return StudyConfig.model_validate(
        {**STUDY, **{k: {**STUDY.get(k, {}), **v} for k, v in sections.items()}}
    )


def menu(train_tokens: int = 30_000_000, **sections: dict) -> Menu:
    return Menu(study(**sections), vocab_size=257, train_tokens=train_tokens)


def test_every_run_on_the_menu_lies_in_the_ranges_of_the_study() -> None:
    offered = menu(train_tokens=5_000_000)
    table = offered.table
    assert len(table) > 100
    assert table["params"].between(4e3, 1e5).all()
    assert (6 * table["params"] * table["tokens"]).between(0.98e10, 1.02e12).all()
    assert (table["tokens"] / table["params"]).between(2, 600).all()
    assert (table["tokens"] <= 5_000_000).all(), "no token is read twice"
    assert (table["tokens"] >= MIN_STEPS * 512).all()
    assert (table["tokens"] % 512 == 0).all(), "whole optimiser steps"


def test_a_price_is_what_its_steps_and_its_evaluation_cost() -> None:
    offered = menu()
    for row in offered.at_level(1e11).itertuples():
        rung = offered.rungs[row.params]
        steps = row.tokens // rung.step_tokens
        assert row.cost == pytest.approx(steps * rung.step_flops + rung.evaluation_flops)


def test_a_run_with_branches_is_priced_with_them_and_its_first_observation_is_long_enough() -> (
    None
):
    branched = {"observations": 3, "lr_schedule": ["wsd"]}
    offered = menu(search=branched, training={"cooldown_fraction": 0.4})
    first = offered.table["tokens"].map(lambda tokens: offered.points(int(tokens))[0])
    assert (first >= MIN_STEPS * 512).all()
    assert (first % 512 == 0).all()
    for row in offered.at_level(1e11).itertuples():
        rung = offered.rungs[row.params]
        quarter, half, whole = offered.points(row.tokens)
        assert (quarter / whole, half / whole) == pytest.approx((0.25, 0.5), abs=0.01)
        bare = row.cost - 3 * rung.evaluation_flops
        steps = row.tokens // rung.step_tokens
        assert bare == pytest.approx(1.3 * steps * rung.step_flops, rel=0.01)
    left = 2.345e11
    affordable = offered.affordable(left)
    largest_step = max(rung.step_flops for rung in offered.rungs.values())
    assert 0 <= left - affordable["cost"].max() < 3 * largest_step
    constant = menu(search={**branched, "lr_schedule": ["constant"]})
    row = constant.at_level(1e11).iloc[0]
    rung = constant.rungs[int(row["params"])]
    assert row["cost"] == pytest.approx(
        row["tokens"] // rung.step_tokens * rung.step_flops + 3 * rung.evaluation_flops
    )


def test_tokens_are_read_again_only_where_the_study_says_so() -> None:
    once = menu(train_tokens=5_000_000).table["tokens"].max()
    assert once <= 5_000_000
    often = menu(train_tokens=5_000_000, search={"max_epochs": 4}).table["tokens"].max()
    assert 8_000_000 < often <= 20_000_000


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"search": {"lr_schedule": ["wsd", "cosine"]}}, "leave cosine out"),
        (
            {"diffusion": {"curriculum": "moving_gaussian", "mask_sampler": "stratified"}},
            "leave diffusion.curriculum out",
        ),
    ],
)
def test_a_study_that_cannot_be_observed_several_times_is_refused(
    sections: dict, sentence: str
) -> None:
    study(**sections)
    search = {"observations": 2, **sections.get("search", {})}
    with pytest.raises(ValueError, match=sentence):
        study(**{**sections, "search": search})


def test_runs_of_one_level_draw_an_isoflop_curve() -> None:
    offered = menu()
    level = offered.at_level(offered.levels[12])
    assert len(level) >= 6
    flops = 6 * level["params"] * level["tokens"]
    np.testing.assert_allclose(flops, offered.levels[12], rtol=0.01)


def test_what_is_left_of_a_budget_can_be_used_up() -> None:
    offered = menu()
    left = 2.345e11
    affordable = offered.affordable(left)
    assert affordable["cost"].max() <= left
    largest_step = max(rung.step_flops for rung in offered.rungs.values())
    assert left - affordable["cost"].max() < largest_step
    assert offered.affordable(offered.smallest_cost * 0.99).empty


def test_levels_are_spread_evenly_over_the_logarithm() -> None:
    levels = menu().levels
    assert len(levels) == 25
    np.testing.assert_allclose(np.diff(np.log(levels)), np.log(10) / 12)
    assert levels[0] == 1e10
    assert levels[-1] == pytest.approx(1e12)


@pytest.mark.parametrize(
    ("sections", "train_tokens", "names"),
    [
        ({"search": {"params": {"low": 1, "high": 10}}}, 30_000_000, "search.params"),
        ({"budget": {"flops": 1e9}}, 30_000_000, "budget.flops"),
        ({}, 10_000, "unique tokens"),
        ({"search": {"tokens_per_param": {"low": 1e6, "high": 2e6}}}, 30_000_000, "widen"),
    ],
)
def test_a_study_that_holds_no_run_is_refused_by_the_name_of_what_is_wrong(
    sections: dict, train_tokens: int, names: str
) -> None:
    with pytest.raises(ConfigurationError, match=names):
        menu(train_tokens, **sections)
