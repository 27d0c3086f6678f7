"""What a trajectory is held to cost, at every moment of its path, through kills."""

from collections.abc import Iterator

import numpy as np
import pytest
from support.simulated import ended, observe, open_campaign, run, study, true_optimum

from quokka_ray.campaign.budget import projected_flops
from quokka_ray.campaign.campaign import Answer, Campaign
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig

BRANCHED = {"observations": 3, "lr_schedule": ["wsd"]}


@pytest.fixture
def folder(tmp_path):
    config = study(search=BRANCHED).model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        yield folder


class Trial:
    """A trial without training: the rows and checkpoints of its path, killed where one likes.

    Attributes:
        spent: Exact FLOPs of all attempts.
        checkpoint: Tokens of the whole path at the last checkpoint.
    """

    def __init__(self, config: TrajectoryConfig) -> None:
        self.config = config
        self.spent = 0.0
        self.checkpoint = 0
        self.known: set[int] = set()
        training = config.flops_exact - len(config.points) * config.flops_evaluation
        self.per_token = training / config.path_tokens

    def remaining(self, place: int) -> float:
        """Return what is left to do from a place of the path."""
        rest = sum(last - max(place, first) for first, last, _ in self.legs() if last > place)
        missing = len(self.config.points) - len(self.known)
        return rest * self.per_token + missing * self.config.flops_evaluation

    def legs(self) -> Iterator[tuple[int, int, int | None]]:
        """Yield begin, end and point of the legs that are still to be trained, in tokens."""
        at, batch = 0, self.config.batch_tokens
        for leg in self.config.legs:
            begin, at = at, at + leg.steps * batch
            point = leg.last * batch if leg.observed else None
            if not (leg.branch and point in self.known):
                yield begin, at, point

    def attempt(self, rng: np.random.Generator) -> Iterator[dict]:
        """Yield the rows of an attempt; a checkpoint follows about every other one."""
        place = self.checkpoint
        for begin, end, point in list(self.legs()):
            if end < place or (end == place and point is None):
                continue
            stops = sorted({*rng.integers(max(begin, place), end + 1, size=3).tolist(), end})
            for stop in stops:
                self.spent += (stop - max(begin, place)) * self.per_token
                place = max(stop, place)
                begin = place
                yield {
                    "kind": "progress", "trajectory": self.config.id, "tokens": 1,
                    "processed_tokens": place, "train_loss": 3.0, "flops_spent": self.spent,
                }  # fmt: skip
                if rng.random() < 0.5:
                    self.checkpoint = place
            if point is not None and point not in self.known:
                self.spent += self.config.flops_evaluation
                self.known.add(point)
                row = observe(self.config, point)
                yield {**row, "processed_tokens": place, "flops_spent": self.spent}
        yield ended(self.config, spent=self.spent)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_left_of_a_path_is_never_priced_too_low(folder, seed) -> None:
    rng = np.random.default_rng(seed)
    config = open_campaign(study(search=BRANCHED), folder).ask()
    assert isinstance(config, TrajectoryConfig)
    assert len(config.points) == 3
    trial, state = Trial(config), TrajectoryState(config, {})
    for attempt in range(6):
        for row in trial.attempt(rng):
            if row["kind"] == "ended":
                break
            state.observe(row) if row["kind"] == "observation" else state.advance(row)
            due = trial.spent + trial.remaining(state.processed)
            assert projected_flops(state) >= due * (1 - 1e-12)
            if attempt == 0:
                assert projected_flops(state) == pytest.approx(config.flops_exact)
            if rng.random() < 0.15:
                state.processed = trial.checkpoint
                due = trial.spent + trial.remaining(trial.checkpoint)
                assert projected_flops(state) >= due * (1 - 1e-12)
                break
    assert trial.known


@pytest.mark.parametrize("seed", range(3))
def test_branches_and_kills_never_break_the_cap(folder, seed) -> None:
    rng = np.random.default_rng(seed)
    events = 0

    class Watch:
        def planned(self, campaign: Campaign, trajectory: TrajectoryConfig) -> None:
            self.check(campaign)

        def told(self, campaign: Campaign, row: dict) -> None:
            self.check(campaign)

        def refitted(self, campaign: Campaign, fit: object) -> None:
            pass

        def check(self, campaign: Campaign) -> None:
            nonlocal events
            events += 1
            account = campaign.account
            assert account.committed <= account.cap * (1 + 1e-12)

    config = study(search=BRANCHED, budget={"flops": 1.5e12})
    campaign = open_campaign(config, folder, [Watch()])
    trials: dict[str, Trial] = {}
    flying: list[tuple[str, Iterator[dict]]] = []
    killed = 0
    while True:
        answer = campaign.ask() if len(flying) < 3 else None
        if isinstance(answer, TrajectoryConfig):
            trial = trials.setdefault(answer.id, Trial(answer))
            flying.append((answer.id, trial.attempt(rng)))
        elif answer is Answer.DONE:
            break
        name, rows = flying[int(rng.integers(len(flying)))]
        row = next(rows)
        campaign.tell(row)
        if row["kind"] == "ended":
            flying.remove((name, rows))
            campaign.returned(name)
        elif rng.random() < 0.02:
            flying.remove((name, rows))
            trial = trials[name]
            if trial.checkpoint:
                place = folder.trajectory(name) / "checkpoints" / str(trial.checkpoint)
                place.mkdir(parents=True, exist_ok=True)
                (place / "COMPLETE").touch()
            campaign.lost(name, "killed")
            killed += 1
            assert campaign.account.committed <= campaign.account.cap * (1 + 1e-12)
    assert killed
    assert events > 100
    assert campaign.account.spent <= campaign.account.cap
    runs = campaign.runs()
    assert runs["observation"].dropna().is_unique
    assert runs["flops_spent"].sum() == pytest.approx(campaign.account.spent)


def test_a_search_with_branches_spends_its_budget_and_finds_the_optimum(folder) -> None:
    campaign = open_campaign(study(search=BRANCHED), folder)
    run(campaign)
    account = campaign.account
    assert account.cap - campaign.menu.smallest_cost < account.spent <= account.cap
    runs = campaign.runs()
    assert (runs.groupby("trajectory")["observation"].count() == 3).all()
    assert campaign.fit is not None
    assert len(campaign.fit.runs) == len(runs)
    optimum = campaign.fit.optimum(1e14)
    assert optimum.params.low < true_optimum(1e14) < optimum.params.high
