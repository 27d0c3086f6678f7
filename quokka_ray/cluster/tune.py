"""The Ray executor: a fresh `Tuner` around the campaign, on a local or a running cluster."""

import logging
import math
import os
from pathlib import Path

from quokka_ray.campaign.campaign import Campaign
from quokka_ray.cluster.trainable import Train, trial_of
from quokka_ray.errors import MachineError
from quokka_ray.study.config import ResourcesConfig

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
    resources = campaign.study.resources
    started_here = not ray.is_initialized()
    if started_here:
        _connect(resources)
    try:
        request, slots = _slots(resources)
        logger.info("running %d trials at once, each with %s", slots, request)
        tuner = tune.Tuner(
            tune.with_resources(trial_of(train), request),
            tune_config=tune.TuneConfig(
                search_alg=CampaignSearch(campaign, stop_file),
                num_samples=-1,
                # Without the limit Tune holds one suggestion made before the last observation.
                max_concurrent_trials=slots,
                reuse_actors=True,
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


def _connect(resources: ResourcesConfig) -> None:
    import ray

    try:
        ray.init(
            address=resources.address,
            include_dashboard=False if resources.address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError) as error:
        raise MachineError(
            f"no Ray cluster at resources.address = {resources.address!r}: {error}"
        ) from error


def _slots(resources: ResourcesConfig) -> tuple[dict[str, float], int]:
    """Return what one trial asks for, and how many of them the cluster has room for."""
    import ray

    # A cluster that is still starting has no resources yet; its first node brings them.
    total = ray.cluster_resources()
    gpus = resources.gpus_per_trial
    if gpus == "auto":
        gpus = 1.0 if total.get("GPU", 0) >= 1 else 0.0
    request = {"cpu": resources.cpus_per_trial, "gpu": gpus}
    room = [total.get("CPU", 0) / resources.cpus_per_trial]
    if gpus:
        room.append(total.get("GPU", 0) / gpus)
    capacity = math.floor(min(room) + 1e-9)
    if capacity < 1:
        raise MachineError(
            f"no room for one trial: it asks for {request}, the cluster has "
            f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs"
        )
    slots = capacity if resources.slots == "auto" else min(resources.slots, capacity)
    return request, slots


def _next_attempt(folder: Path) -> str:
    taken = [path for path in folder.glob("*") if path.is_dir()]
    return f"{len(taken):04d}"


def _trial_name(trial: object) -> str:
    config: dict[str, str] = trial.config  # type: ignore[attr-defined]
    return config["id"]
