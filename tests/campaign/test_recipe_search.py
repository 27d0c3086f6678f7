"""A search over batch, noise schedule and objective whose best moves with the size of a run."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.simulated import corpus, ended, observe, open_campaign, study

from analysis.laws.bowls import BowlResponse
from analysis.laws.choices import ChoiceResponse
from analysis.laws.response import Response
from quokka_ray.campaign import playing
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.dimensions import Dimensions, Place
from quokka_ray.campaign.menu import MIN_STEPS, Menu
from quokka_ray.campaign.menu import price as price_rung
from quokka_ray.campaign.playing import Player
from quokka_ray.campaign.sampler import search_space
from quokka_ray.campaign.steering import Steering
from quokka_ray.model.counts import count_params
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import open_folder
from quokka_ray.study.recipe import Noise, Recipe
from quokka_ray.study.trajectory import TrajectoryConfig

SEARCH = {
    "lr_factor": {"low": 1, "high": 1},
    "lr_schedule": ["wsd"],
    "batch_sequences": {"low": 4, "high": 64},
    "noise_schedule": ["linear", "cosine"],
    "objective": ["elbo", "maskgit"],
}
D0, B0 = 4e5, 8 * 64


def recipes(**sections: dict) -> StudyConfig:
    search = {**SEARCH, **sections.pop("search", {})}
    return study(search=search, **sections)


def price(tokens: float, batch_tokens: float, noise_schedule: str, objective: str) -> float:
    """What a recipe costs in ln L: the best batch goes as D^.5, and the masked tokens' own loss is
    the better objective up to D0 tokens."""
    size = math.log(tokens / D0)
    return (
        0.03 * (math.log(batch_tokens / B0) - 0.5 * size) ** 2
        + 0.03 * (noise_schedule == "cosine")
        + (0.03 * size if objective == "maskgit" else 0.0)
    )


def price_of(config: TrajectoryConfig) -> float:
    own = config.diffusion
    return price(config.tokens, config.batch_tokens, own.noise_schedule, own.objective)


def excess(config: TrajectoryConfig) -> float:
    """What its recipe costs over the best that it could have had."""
    return price_of(config) - min(_all_prices(config))


def _all_prices(config: TrajectoryConfig) -> list[float]:
    return [
        price(config.tokens, 64 * batch, schedule, objective)
        for batch in (4, 8, 16, 32, 64)
        for schedule in ("linear", "cosine")
        for objective in ("elbo", "maskgit")
    ]


def ticking() -> Callable[[], float]:
    """Return a clock on which refits of the reported law take long, so that they are rare."""
    return map(float, itertools.count()).__next__


def finish(campaign: Campaign, config: TrajectoryConfig) -> None:
    row = observe(config)
    row["loss"] *= math.exp(price_of(config))
    campaign.tell(row)
    campaign.tell(ended(config))
    campaign.returned(config.id)


def searched(config: StudyConfig, folder: Path) -> Campaign:
    at = config.model_copy(update={"storage": folder})
    with open_folder(at, resume=False, overwrite=False) as opened:
        campaign = open_campaign(at, opened, clock=ticking())
        while isinstance(answer := campaign.ask(), TrajectoryConfig):
            finish(campaign, answer)
        campaign.close()
        return campaign


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    config = recipes(budget={"flops": 4e12}, target={"stop": "budget"})
    return searched(config, tmp_path_factory.mktemp("searched"))


def test_later_trials_have_better_recipes_than_random_ones_at_their_own_sizes(
    campaign: Campaign,
) -> None:
    configs = [state.config for state in campaign.ledger.trajectories.values()]
    assert len(configs) > 20
    later = configs[len(configs) // 2 :]
    random = [np.mean(_all_prices(config)) - min(_all_prices(config)) for config in later]
    assert np.mean([excess(config) for config in later]) < 0.5 * np.mean(random)


def test_what_is_recommended_moves_with_the_size_of_a_run(campaign: Campaign) -> None:
    assert campaign.fit is not None
    response = campaign.fit.response
    small, large = response.recommended(1e4, D0 / 8), response.recommended(1e5, D0 * 20)
    assert small["objective"]["value"] == "maskgit"
    assert large["objective"]["value"] == "elbo"
    assert large["noise_schedule"]["value"] == "linear"
    batch = large["batch_tokens"]
    assert batch["low"] < batch["value"] < batch["high"]
    assert batch["value"] == pytest.approx(B0 * 20**0.5, rel=0.4)
    assert small["batch_tokens"]["value"] < 0.3 * batch["value"]


def test_each_trial_is_a_whole_recipe_at_its_own_price_within_the_budget(
    campaign: Campaign,
) -> None:
    runs = campaign.runs()
    for column in ("batch_tokens", "noise_schedule", "objective"):
        assert runs[column].nunique() > 1
    assert set(runs["batch_tokens"] / 64) <= {4, 8, 16, 32, 64}
    assert (runs["tokens"] % runs["batch_tokens"] == 0).all()
    assert (runs["tokens"] // runs["batch_tokens"] >= MIN_STEPS).all()
    for state in campaign.ledger.trajectories.values():
        config, rung = state.config, campaign.menu.rungs[state.config.params]
        own = price_rung(rung.shape, campaign.study.with_recipe(recipe_of(config)), 257)
        assert config.flops_exact == pytest.approx(own.cost(config.steps))
        assert state.planned["reserved_flops"] == config.flops_exact
        assert config.warmup_steps == round(0.05 * config.steps)
    assert campaign.account.spent <= campaign.account.cap


def recipe_of(config: TrajectoryConfig) -> Recipe:
    return Recipe(config.training.batch_sequences, noise=Noise.of(config.diffusion))


def kernels(folder: Path, budget: float) -> StudyConfig:
    search = {"kernel": ["mask", "uniform"], "batch_sequences": None, "objective": []}
    config = recipes(search={**search, "noise_schedule": []}, budget={"flops": budget})
    return config.model_copy(update={"storage": folder})


def finish_kernel(campaign: Campaign, config: TrajectoryConfig) -> None:
    """Report what a trial saw; each kernel has a bound of its own on the same data."""
    row = observe(config)
    row["evaluator"] = f"data/{config.diffusion.kernel}"
    row["loss"] *= math.exp(0.08 * (config.diffusion.kernel == "uniform"))
    campaign.tell(row)
    campaign.tell(ended(config))
    campaign.returned(config.id)


def test_a_dearer_kernel_falls_back_where_the_budget_does_not_hold_it(tmp_path: Path) -> None:
    config = kernels(tmp_path, budget=2e12)
    with open_folder(config, resume=False, overwrite=False) as opened:
        campaign = open_campaign(config, opened, clock=ticking())
        kinds = set()
        while isinstance(answer := campaign.ask(), TrajectoryConfig):
            kinds.add(answer.diffusion.kernel)
            assert campaign.account.available >= 0
            assert bool(answer.model.time_conditioning) is (answer.diffusion.kernel == "uniform")
            assert answer.params == count_params(answer.shape, answer.model, 257)
            finish_kernel(campaign, answer)
        assert kinds == {"mask", "uniform"}
        assert campaign.account.spent <= campaign.account.cap
        # A place of the start that a wider model took is not bought again for its N.
        states = campaign.ledger.trajectories.values()
        starts = [s.place for s in states if s.planned["reason"].startswith("start")]
        assert len(starts) == len(set(starts)) == len(campaign.start_plan)
        campaign.close()
        assert campaign.fit is not None
        assert campaign.fit.response.choices["kernel"].names[0] == "mask"


def test_a_study_under_way_is_played_on_with_both_of_its_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playing, "SHARES", (1.0,))
    config = kernels(tmp_path, budget=6e11)
    with open_folder(config, resume=False, overwrite=False) as opened:
        campaign = open_campaign(config, opened, clock=ticking())
        for _ in range(8):
            answer = campaign.ask()
            assert isinstance(answer, TrajectoryConfig)
            finish_kernel(campaign, answer)
        assert campaign.runs()["evaluator"].nunique() == 2
        campaign.close()
    facts = corpus()
    player = Player(config, facts, Menu(config, facts.vocab_size, facts.train_tokens))
    before, after = player.play(player.truths(1)[0]).states
    assert before.trials == 8
    assert after.trials > 8
    assert after.loss is not None


@pytest.mark.parametrize("left", [1.0, 0.9])
def test_no_suggestion_costs_more_than_what_is_left(left: float) -> None:
    """The dearest noise is asked for where the budget holds the study's own, or not even that."""
    config = recipes(search={"kernel": ["mask", "uniform"]})
    menu = Menu(config, 257, 30_000_000)
    steering = Steering(config, menu)
    row = menu.table[menu.table["tokens"] > 64 * 100 * 64].iloc[0]
    place = int(row["params"]), int(row["tokens"])
    asked = {"batch_sequences": 60.0, "noise": "cosine elbo uniform"}
    cheap = menu.run(*place, Recipe())
    dear, run = steering.affordable_recipe(asked, *place, available=10 * cheap.cost)
    assert dear == Recipe(64, noise=Noise("uniform", "elbo", "cosine"))
    assert run.cost > 1.05 * cheap.cost
    limit = left * run.cost
    recipe, run = steering.affordable_recipe(asked, *place, available=limit)
    assert run.cost <= limit
    assert (recipe == dear) is (left == 1.0)
    exact, run = steering.affordable_recipe(asked, *place, available=cheap.cost)
    assert run.cost <= cheap.cost
    assert exact.noise is None


def test_a_resumed_search_goes_on_as_if_it_had_not_ended(tmp_path: Path) -> None:
    def planned(stop_after: int | None, folder: Path) -> list[dict]:
        config = recipes(budget={"flops": 6e11}).model_copy(update={"storage": folder})
        count, resume = 0, False
        while True:
            with open_folder(config, resume=resume, overwrite=False) as opened:
                campaign = open_campaign(config, opened, clock=ticking())
                while isinstance(answer := campaign.ask(), TrajectoryConfig):
                    finish(campaign, answer)
                    count += 1
                    if count == stop_after:
                        break
                else:
                    found = campaign.ledger.trajectories.values()
                    campaign.close()
                    return [state.config.model_dump() for state in found]
                campaign.close()
                resume = True

    assert planned(None, tmp_path / "straight") == planned(5, tmp_path / "resumed")


def test_what_was_seen_is_told_as_it_would_be_at_the_next_runs_place(campaign: Campaign) -> None:
    config = next(iter(campaign.ledger.trajectories.values())).config
    there = Place(4 * config.params, 9 * config.tokens)
    reference = float(config.params), float(config.tokens)
    batch = BowlResponse(0.02, math.log(512), (0.0, 0.5), reference, (256, 4096))
    names = ("elbo", "maskgit")
    objective = ChoiceResponse(names, np.array([[0, 0, 0], [-0.01, 0.01, 0.02]]), reference)
    response = Response(bowls={"batch_tokens": batch}, choices={"objective": objective})
    dimensions = Dimensions(campaign.study)
    own = dimensions.told(config, 1.5)
    moved = dimensions.told(config, 1.5, response, there)
    assert moved == {**own, "batch_sequences": pytest.approx(3 * own["batch_sequences"])}
    assert dimensions.told(config, 1.5, response, Place.of(config)) == own
    costs = {"elbo": 0.0, "maskgit": 0.01 * math.log(4) + 0.02 * math.log(9)}
    for name, cost in costs.items():
        diffusion = config.diffusion.model_copy(update={"objective": name})
        trial = config.model_copy(update={"diffusion": diffusion})
        assert dimensions.moved_score(trial, response, there) == pytest.approx(cost)
        assert dimensions.moved_score(trial, None, there) == 0


def test_optunas_space_has_the_recipe_in_its_own_values(campaign: Campaign) -> None:
    space = search_space(campaign.study, campaign.menu)
    assert set(space) >= {"batch_sequences", "noise"}
    assert set(space["noise"].choices) == {
        "linear elbo", "linear maskgit", "cosine elbo", "cosine maskgit",
    }  # fmt: skip
    dimensions = Dimensions(campaign.study)
    for state in campaign.ledger.trajectories.values():
        values = dimensions.told(state.config, state.planned["lr_factor"])
        assert all(dimensions.space[name]._contains(
            dimensions.space[name].to_internal_repr(value)) for name, value in values.items()
        )  # fmt: skip
