"""Weights of a mixture as dimensions of a search: asked for, trained at, scored and recorded."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import simulated
from support.simulated import ended, observe, open_campaign, study

from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.factors import Scored, suggest_factors
from quokka_ray.campaign.sampler import search_space
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig

BEST = 2.0
"""The weight of books beside a weight of 1 that the simulated losses are lowest at."""


def mixed(**sections: Any) -> StudyConfig:
    parts = [
        {"source": "files", "paths": [name], "name": name, "weight": 1, "validation_weight": 1}
        for name in ("books", "code")
    ]
    parts[0]["weight"] = {"low": 0.25, "high": 4}
    return study(corpus={"mixture": parts}, **sections)


def finish(campaign: Campaign, config: TrajectoryConfig) -> None:
    assert config.mixture is not None
    row = observe(config)
    row["loss"] *= math.exp(0.1 * math.log(config.mixture["books"] / BEST) ** 2)
    campaign.tell(row)
    campaign.tell(ended(config))
    campaign.returned(config.id)


def searched(config: StudyConfig, folder: Path) -> tuple[Campaign, pd.DataFrame]:
    at = config.model_copy(update={"storage": folder})
    with open_folder(at, resume=False, overwrite=False) as opened:
        campaign = open_campaign(at, opened)
        while isinstance(answer := campaign.ask(), TrajectoryConfig):
            finish(campaign, answer)
        campaign.close()
        return campaign, pd.read_csv(opened.runs_csv)


def test_a_search_gathers_at_the_weights_whose_losses_are_lowest(tmp_path: Path) -> None:
    campaign, runs = searched(mixed(search={"lr_factor": {"low": 1, "high": 1}}), tmp_path)
    assert len(runs) > 20
    np.testing.assert_allclose(runs["share_books"] + runs["share_code"], 1)
    assert runs["share_books"].between(0.2, 0.8).all()
    weights = runs["share_books"] / runs["share_code"]
    off = np.log(weights / BEST).abs()
    assert off[-8:].median() < 0.5 * off[:8].median()
    # Whatever is mixed costs the same, so the cap holds as it does without.
    assert campaign.account.spent <= campaign.account.cap
    # One corpus and one evaluator, or no law could be fitted.
    assert runs["corpus"].nunique() == runs["evaluator"].nunique() == 1
    assert campaign.fit is not None


def test_a_trajectory_says_its_weights_and_a_resumed_search_knows_them(tmp_path: Path) -> None:
    config = mixed().model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        first = open_campaign(config, folder)
        given = first.ask()
        assert isinstance(given, TrajectoryConfig)
        assert given.mixture is not None
        assert list(given.mixture) == ["books", "code"]
        assert given.mixture["code"] == 1
        first.close()
    with open_folder(config, resume=True, overwrite=False) as folder:
        again = open_campaign(config, folder)
        assert again.ask() == given
        again.close()


def test_without_ranges_nothing_is_asked_and_nothing_recorded(tmp_path: Path) -> None:
    config = study().model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        campaign = open_campaign(config, folder)
        given = campaign.ask()
        assert isinstance(given, TrajectoryConfig)
        assert given.mixture is None
        simulated.finish(campaign, given)
        assert not [name for name in campaign.runs() if name.startswith("share_")]
        space = search_space(config, campaign.menu)
        assert not [name for name in space if name.startswith("weight_")]
        campaign.close()


@pytest.mark.parametrize("told", [0, 30])
def test_weights_stay_within_their_ranges(told: int) -> None:
    # A resumed study may have narrower ranges than what it was told.
    rows = [
        Scored(
            {"lr_factor": 1.0, "lr_schedule": "wsd", "weight_books": 0.1 + n},
            float(n % 7),
        )
        for n in range(told)
    ]
    space = Dimensions(mixed()).space
    for seed in range(5):
        assert 0.25 <= suggest_factors(space, rows, seed)["weight_books"] <= 4
