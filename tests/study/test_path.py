from itertools import pairwise

import pytest

from quokka_ray.study.config import TrainingConfig
from quokka_ray.study.path import Leg, legs, path_problem, path_steps, spaced_points, warmup_steps

RECIPE = TrainingConfig(warmup_fraction=0.05, cooldown_fraction=0.4)


def test_a_run_with_one_observation_is_one_leg():
    for schedule in ("wsd", "cosine", "constant"):
        assert legs((400,), schedule, RECIPE) == (Leg(0, 400),)
        assert path_steps((400,), schedule, RECIPE) == 400
    assert warmup_steps((400,), RECIPE) == 20


def test_branches_leave_the_trunk_their_cooldown_before_they_are_observed():
    assert legs((100, 200, 400), "wsd", RECIPE) == (
        Leg(0, 60, observed=False),
        Leg(60, 100, branch=True),
        Leg(60, 120, observed=False),
        Leg(120, 200, branch=True),
        Leg(120, 400),
    )
    assert warmup_steps((100, 200, 400), RECIPE) == 5


def test_three_cooldowns_cost_thirteen_tenths_of_a_run_and_not_seven_quarters():
    points = spaced_points(400, count=3, ratio=2)
    assert points == (100, 200, 400)
    assert path_steps(points, "wsd", RECIPE) == 1.3 * 400
    assert sum(path_steps((point,), "wsd", RECIPE) for point in points) == 1.75 * 400


def test_a_constant_rate_is_observed_as_it_passes():
    expected = (Leg(0, 100), Leg(100, 200), Leg(200, 400))
    assert legs((100, 200, 400), "constant", RECIPE) == expected
    no_cooldown = TrainingConfig(cooldown_fraction=0)
    assert legs((100, 200, 400), "wsd", no_cooldown) == expected
    assert path_steps((100, 200, 400), "constant", RECIPE) == 400


def test_branches_may_leave_the_trunk_at_the_same_step():
    recipe = TrainingConfig(warmup_fraction=0.0, cooldown_fraction=0.5)
    assert legs((10, 11, 40), "wsd", recipe) == (
        Leg(0, 5, observed=False),
        Leg(5, 10, branch=True),
        Leg(5, 11, branch=True),
        Leg(5, 40),
    )


@pytest.mark.parametrize("points", [(7, 11, 100), (100, 110, 121), (33, 34, 35, 36)])
def test_every_step_of_every_path_is_trained_once(points):
    trained = legs(points, "wsd", RECIPE)
    assert sum(leg.steps for leg in trained) == path_steps(points, "wsd", RECIPE)
    trunk = [leg for leg in trained if not leg.branch]
    assert trunk[0].first == 0
    assert trunk[-1].last == points[-1]
    assert all(a.last == b.first for a, b in pairwise(trunk))
    assert [leg.last for leg in trained if leg.observed] == list(points)


def test_what_cannot_be_observed_is_told_with_its_remedy():
    assert path_problem((100, 200), "wsd", RECIPE) is None
    assert path_problem((100, 200), "constant", RECIPE) is None
    assert path_problem((200,), "cosine", RECIPE) is None
    assert "take lr_schedule wsd" in path_problem((100, 200), "cosine", RECIPE)
    assert "must ascend" in path_problem((200, 100), "wsd", RECIPE)
    assert "must ascend" in path_problem((0, 100), "constant", RECIPE)
    steep = TrainingConfig(warmup_fraction=0.0, cooldown_fraction=1.0)
    assert "lower training.cooldown_fraction" in path_problem((100, 200), "wsd", steep)
