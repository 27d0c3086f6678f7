"""The Ray executor: a fresh `Tuner` around the campaign, on a local or a running cluster."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.devices import Devices
from quokka_ray.cluster.machines import Room, connect, device_memory, room_for
from quokka_ray.cluster.shares import with_shares
from quokka_ray.cluster.trainable import Train, trial_of
from quokka_ray.cluster.worlds import Worlds
from quokka_ray.model.counts import count_params

if TYPE_CHECKING:
    from ray import tune

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Ctrl-C is ours: trials checkpoint and return by themselves.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The ledger, metrics.jsonl and our own event files say it all.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Progress rows carry no loss.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Tune's own state is never restored from; writing it often is waste.
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    # Waiting for "more" trials than there is budget for is not worth a warning.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def run_on_ray(campaign: Campaign, stop_file: Path, train: Train | None = None) -> None:
    """Run the campaign's trajectories as Tune trials until it has none to give.

    Args:
        campaign: The campaign.
        stop_file: The file whose existence asks all trials to return.
        train: What a trial runs, in place of `quokka_ray.training.run.train`.

    Raises:
        MachineError: The cluster cannot be reached, or has no room for a single trial.
    """
    os.environ.update(_ENVIRONMENT)
    import ray
    from ray import tune

    from quokka_ray.cluster.searcher import CampaignSearch

    # A trial's fault is told in one line by the campaign; its traceback is in its folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    started_here = not ray.is_initialized()
    if started_here:
        connect(campaign.study.resources)
    try:
        resources = with_shares(campaign)
        room = room_for(resources)
        worlds = Worlds(resources, room, device_memory)
        workers = _workers_of(campaign, worlds)
        campaign.devices = Devices(room.workers, workers)
        fewest, most = min(workers.values()), max(workers.values())
        room.trials(most)
        slots = room.trials(fewest)
        if resources.slots != "auto":
            slots = min(resources.slots, slots)
        logger.info("running %d trials at once, of up to %d workers each", slots, most)
        tuner = tune.Tuner(
            tune.with_resources(trial_of(train, room), partial(_request, room=room)),
            tune_config=tune.TuneConfig(
                search_alg=CampaignSearch(campaign, stop_file, worlds.of),
                num_samples=-1,
                # Without the limit Tune holds one suggestion made before the last observation.
                max_concurrent_trials=slots,
                # An actor that is kept holds its device, which workers may be waiting for; one
                # that only waits for its workers holds none.
                reuse_actors=most == 1 or fewest > 1,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                storage_path=str(campaign.folder.ray.absolute()),
                name=_next_attempt(campaign.folder.ray),
                # Tune's own retries bypass the searcher; the campaign retries.
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        if started_here:
            ray.shutdown()


def _workers_of(campaign: Campaign, worlds: Worlds) -> dict[int, int]:
    """Return the most workers that a trial of each of the study's sizes may have, by N.

    A size with another kernel stands under its own N too.
    """
    vocab_size = campaign.corpus.vocab_size
    found: dict[int, int] = {}
    for params, rung in campaign.menu.rungs.items():
        for trial in (campaign.study, *campaign.study.heaviest):
            sections = (trial.model, vocab_size, trial.training, trial.diffusion)
            count = worlds.of_size(rung.shape, *sections)
            for own in (params, count_params(rung.shape, trial.model, vocab_size)):
                found[own] = max(count, found.get(own, 0))
    return found


def _request(config: dict[str, Any], room: Room) -> "tune.PlacementGroupFactory":
    """Return what the trial of a configuration asks for."""
    from ray import tune

    if config["workers"] == 1:
        gpus = {"GPU": room.gpus} if room.gpus else {}
        return tune.PlacementGroupFactory([{"CPU": room.cpus, **gpus}])
    # Its workers ask for theirs by themselves. One byte, since a request must ask for something:
    # were it a share of a CPU, workers that take every CPU would never start.
    return tune.PlacementGroupFactory([{"memory": 1}])


def _next_attempt(folder: Path) -> str:
    taken = [path for path in folder.glob("*") if path.is_dir()]
    return f"{len(taken):04d}"


def _trial_name(trial: object) -> str:
    config: dict[str, str] = trial.config  # type: ignore[attr-defined]
    return config["id"]
