"""Two laws while a search runs: one of every observation, and one as often as time allows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.simulated import finish, observe, open_campaign, run, study

import quokka_ray.campaign.refits as refits
from analysis.fitting import fit as fitting
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.ledger import Ledger
from quokka_ray.study.folder import StudyFolder, open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


@pytest.fixture
def folder(tmp_path: Path):
    with open_folder(
        study().model_copy(update={"storage": tmp_path}), resume=False, overwrite=False
    ) as folder:
        yield folder


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Each law that was fitted, and to how many rows."""
    calls = []
    fit = refits.fit_law

    def note(runs, **settings):
        guide = settings.get("discrepancy") == "none"
        calls.append(("guide" if guide else "reported", len(runs)))
        return fit(runs, **settings)

    monkeypatch.setattr(refits, "fit_law", note)
    return calls


class SlowFits:
    """A clock on which every reading is a second later: a refit takes one."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def trials(campaign: Campaign, count: int) -> None:
    for _ in range(count):
        config = campaign.ask()
        assert isinstance(config, TrajectoryConfig)
        finish(campaign, config)


def test_the_guide_counts_every_observation_and_the_reported_law_those_until_it_was_due(
    folder: StudyFolder, fitted: list[tuple[str, int]]
) -> None:
    campaign = open_campaign(study(budget={"flops": 1e13}), folder, clock=SlowFits())
    trials(campaign, 25)
    guides = [rows for law, rows in fitted if law == "guide"]
    reported = [rows for law, rows in fitted if law == "reported"]
    assert guides == list(range(1, 26))
    # A refit takes a second, and looking whether it is due another: due every twenty looks.
    assert len(reported) == 2
    assert campaign.guide is not None
    assert len(campaign.guide.runs) == 25
    assert campaign.fit is not None
    assert len(campaign.fit.runs) == reported[-1] < 25


@pytest.mark.parametrize(
    "last", [Campaign.settle, Campaign.close, Campaign.ask], ids=["settle", "close", "done"]
)
def test_the_last_word_counts_every_observation(
    folder: StudyFolder, last: Callable[[Campaign], object], fitted: list[tuple[str, int]]
) -> None:
    campaign = open_campaign(study(budget={"trials": 14}), folder, clock=SlowFits())
    trials(campaign, 14)
    assert campaign.fit is not None
    assert len(campaign.fit.runs) < 14
    last(campaign)
    assert len(campaign.fit.runs) == 14
    count = len(fitted)
    campaign.settle()
    assert len(fitted) == count, "what is settled is not fitted again"


def test_the_last_law_is_the_one_of_all_rows_at_once(folder: StudyFolder) -> None:
    campaign = open_campaign(study(), folder, clock=SlowFits())
    trials(campaign, 20)
    campaign.settle()
    alone = fitting.fit_law(
        Ledger(folder.ledger, read_only=True).runs(), bootstrap=50, lr_prior=1e-2, priors="weak"
    )
    assert campaign.fit is not None
    np.testing.assert_array_equal(campaign.fit.theta, alone.theta)
    np.testing.assert_array_equal(campaign.fit.samples, alone.samples)


def test_what_a_search_proposes_does_not_depend_on_how_long_its_refits_take(
    tmp_path: Path,
) -> None:
    decisions = []
    for name, clock in (("quick", lambda: 0.0), ("slow", SlowFits())):
        config = study().model_copy(update={"storage": tmp_path / name})
        with open_folder(config, resume=False, overwrite=False) as folder:
            run(open_campaign(study(), folder, clock=clock))
            states = Ledger(folder.ledger, read_only=True).trajectories.values()
        decisions.append([(s.config.id, s.config.lr, s.planned["reason"]) for s in states])
    assert decisions[0] == decisions[1]


def test_the_guide_searches_the_whole_space_a_few_times_as_its_rows_grow(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    search = fitting.fit_point

    def note(problem, delta):
        searched.append(problem.log_loss.size)
        return search(problem, delta)

    monkeypatch.setattr(fitting, "fit_point", note)
    campaign = open_campaign(study(budget={"flops": 1e15}), folder)
    laws = refits.Refits(study())
    trials(campaign, 1)
    config = next(iter(campaign.ledger.trajectories.values())).config
    runs = _many_runs(campaign, config, 100)
    searched.clear()
    for rows in range(refits.SEARCH_BELOW, 100):
        laws.refit_guide(runs.iloc[:rows])
    assert searched == [30, 38, 48, 60, 75, 94]


def _many_runs(campaign: Campaign, like: TrajectoryConfig, count: int):
    """Return a run table of simulated observations, without a search for where they lie."""
    table = campaign.runs().iloc[[0] * count].reset_index(drop=True)
    menu = campaign.menu.table.sample(count, random_state=0, replace=True)
    for row, run_ in enumerate(menu.itertuples()):
        rate = 1e-2 * 2.0 ** np.sin(row)
        config = like.model_copy(
            update={
                "id": f"{row}", "params": int(run_.params), "tokens": int(run_.tokens),
                "seed": row, "lr": rate,
            }
        )  # fmt: skip
        seen = observe(config)
        table.loc[row, ["trajectory", "observation"]] = [config.id, seen["observation"]]
        table.loc[row, ["params", "tokens"]] = [config.params, config.tokens]
        table.loc[row, ["lr", "loss"]] = [rate, seen["loss"]]
    return table.drop(columns=["flops", "unique_tokens", "epochs"])


def test_the_guide_of_unchecked_rows_is_the_guide_of_checked_ones(folder: StudyFolder) -> None:
    campaign = open_campaign(study(budget={"flops": 1e14}), folder, clock=SlowFits())
    trials(campaign, refits.SEARCH_BELOW + 2)
    runs = campaign.runs()
    guide = campaign.guide
    assert guide is not None
    checked = fitting.fit_law(
        runs, law="chinchilla", discrepancy="none", bootstrap=0, priors="weak", near=guide,
        huber_delta="auto", seed=0, lr_prior=1e-2,
    )  # fmt: skip
    np.testing.assert_allclose(guide.theta, checked.theta, rtol=1e-6)
    assert guide.runs["loss"].to_list() == checked.runs["loss"].to_list()
    assert guide.state.validity["flops"] == checked.state.validity["flops"]

    # What no run can have leaves the guide as it was, and is said.
    laws = refits.Refits(campaign.study)
    laws.refit_guide(runs[:-1])
    before = laws.guide
    runs.loc[runs.index[-1], "loss"] = -1.0
    laws.refit_guide(runs)
    assert before is not None
    assert laws.guide is before
    assert "finite and positive" in laws.no_law_because
