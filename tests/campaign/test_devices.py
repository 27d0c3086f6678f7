import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.simulated import ended, observe, open_campaign, progress, study

from quokka_ray.campaign.campaign import Answer, Campaign
from quokka_ray.campaign.devices import Devices
from quokka_ray.campaign.speed import fit_speed
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig

LARGE = 50_000
"""From this N on a trial takes four workers."""


START = 600.0
"""Seconds in which a trial starts."""


def seconds(config: TrajectoryConfig, share: float = 1.0) -> float:
    """A machine on which small models are slow per FLOP."""
    return share * config.flops_exact * 1e-9 * (config.params / 1e4) ** -0.5


def timed(row: dict[str, Any], config: TrajectoryConfig, share: float = 1.0) -> dict[str, Any]:
    return {**row, "device_seconds": seconds(config, share)}


def slow() -> Callable[[], float]:
    """Return a clock by which every refit of the reported law takes long, so that few are due."""
    return itertools.count(0.0, 100.0).__next__


def finish(campaign: Campaign, config: TrajectoryConfig, beside: float = 0.0) -> None:
    """Let a run end, so many seconds later than its training takes."""
    began = campaign.ledger.trajectories[config.id].started_at
    campaign.tell(timed(observe(config), config))
    campaign.tell({**timed(ended(config), config), "time": began + beside + seconds(config)})
    campaign.returned(config.id)


def cluster(campaign: Campaign, total: int) -> Devices:
    sizes = campaign.menu.rungs
    return Devices(total, {params: 4 if params >= LARGE else 1 for params in sizes})


def played(campaign: Campaign, total: int) -> list[tuple[float, float, TrajectoryConfig]]:
    """Run a campaign to its end on `total` workers; return when each run started and ended."""
    campaign.devices = devices = cluster(campaign, total)
    now, done, flying = 0.0, [], []
    while True:
        answer = campaign.ask()
        if isinstance(answer, TrajectoryConfig):
            flying.append((now, now + seconds(answer) / devices.of(answer.params), answer))
            used = sum(devices.of(config.params) for _, _, config in flying)
            assert used <= total, "no run is started without its workers"
            continue
        if answer is Answer.DONE:
            return done
        flying.sort(key=lambda run: run[1])
        # Time passes to the next end; the others say how far they are.
        first = flying.pop(0)
        now = first[1]
        for start, end, config in flying:
            share = (now - start) / (end - start)
            campaign.tell(timed(progress(config, share), config, share))
        finish(campaign, first[2])
        done.append(first)


def test_a_run_that_needs_more_workers_than_are_free_waits_and_the_free_ones_work(
    tmp_path: Path,
) -> None:
    config = study(search={"initial_fraction": 0.2}, budget={"flops": 4e12})
    with open_folder(
        config.model_copy(update={"storage": tmp_path}), resume=False, overwrite=False
    ) as folder:
        campaign = open_campaign(config, folder, clock=slow())
        runs = played(campaign, total=4)
        campaign.close()
    large = [run for run in runs if run[2].params >= LARGE]
    assert len(large) >= 2, "the large ones had their turn"
    ends = max(end for _, end, _ in runs)
    busy = sum(seconds(config) for _, _, config in runs)
    assert busy > 0.5 * 4 * ends, "workers were not left idle"


def test_what_starts_beside_a_waiting_run_is_done_before_it_could_start(tmp_path: Path) -> None:
    config = study()
    with open_folder(
        config.model_copy(update={"storage": tmp_path}), resume=False, overwrite=False
    ) as folder:
        campaign = open_campaign(config, folder, clock=slow())
        flying = [campaign.ask() for _ in range(3)]
        assert all(isinstance(run, TrajectoryConfig) for run in flying)
        for run in flying[:2]:
            campaign.tell(timed(progress(run, 0.5), run, 0.5))
        states = campaign.ledger.trajectories
        live = [states[run.id] for run in flying[:2]]
        devices = Devices(5, {run.params: 2 for run in flying[:2]} | {LARGE: 3, 4_000: 1})
        speed = fit_speed(states.values())
        assert speed is not None
        fits = devices.backfill(LARGE, live, speed)
        # One worker of five is free, and when the first of the two ends none is to spare.
        first = min(speed.seconds(run.params, run.flops_exact / 2) / 2 for run in flying[:2])
        short, long = 0.8 * first, 1.5 * first
        flops = 1.0 / speed.seconds(4_000, 1.0)
        assert fits(4_000, short * flops)
        assert not fits(4_000, long * flops)
        assert not fits(LARGE, 1.0), "it is the one that waits"
        roomy = Devices(6, devices.workers)
        assert roomy.backfill(LARGE, live, speed)(4_000, 100 * long * flops), "one is to spare"
        assert not devices.backfill(LARGE, live, None)(4_000, 1.0), "nothing is known of time"
        campaign.close()


def test_a_search_that_counts_seconds_buys_fewer_and_larger_runs_where_starts_are_dear(
    tmp_path: Path,
) -> None:
    took, count = {}, {}
    for price in ("flops", "seconds"):
        config = study(
            search={"price": price, "lr_factor": {"low": 1, "high": 1}, "lr_schedule": ["wsd"]},
            target={"stop": "budget"},
            budget={"flops": 2.5e12},
        ).model_copy(update={"seed": 4, "storage": tmp_path / price})
        with open_folder(config, resume=False, overwrite=False) as folder:
            campaign = open_campaign(config, folder, clock=slow())
            while isinstance(run := campaign.ask(), TrajectoryConfig):
                finish(campaign, run, START)
            states = campaign.ledger.trajectories.values()
            took[price] = sum(START + seconds(state.config) for state in states)
            count[price] = len(states)
            counts_time = "s of device time" in list(states)[-1].planned["reason"]
            assert counts_time == (price == "seconds")
            campaign.close()
    assert count["seconds"] < count["flops"]
    assert took["seconds"] < 0.8 * took["flops"]


def test_resumed_runs_wait_for_their_workers_too(tmp_path: Path) -> None:
    config = study(search={"initial_fraction": 0.2}).model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        first = open_campaign(config, folder)
        given = [first.ask() for _ in range(4)]
        first.close()
        again = open_campaign(config, folder)
        again.devices = Devices(4, {run.params: 2 for run in given} | {4_000: 1})
        assert {again.ask().id, again.ask().id} == {run.id for run in given[:2]}
        assert again.ask() is Answer.WAIT
        again.close()


@pytest.mark.parametrize(
    ("workers", "alike"), [({}, True), ({1: 2, 2: 2}, True), ({1: 1, 2: 2}, False)]
)
def test_a_cluster_is_alike_where_all_trials_take_as_many_workers(workers, alike) -> None:
    assert Devices(8, workers).alike is alike
