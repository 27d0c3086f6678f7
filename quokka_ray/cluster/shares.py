"""Which fraction of a GPU the trials of a search ask for."""

import math
import os
from pathlib import Path

from quokka_ray.campaign.campaign import Campaign
from quokka_ray.study.config import ResourcesConfig

_TYPE = "accelerator_type:"


def with_shares(campaign: Campaign) -> ResourcesConfig:
    """Return the study's resources with `gpus_per_trial: auto` decided, where GPUs are shared."""
    resources = campaign.study.resources
    if resources.gpus_per_trial != "auto" or resources.workers_per_trial not in ("auto", 1):
        return resources
    share = gpu_share(campaign)
    return resources.model_copy(update={"gpus_per_trial": share}) if share < 1 else resources


def gpu_share(campaign: Campaign) -> float:
    """Return the fraction of a GPU for each trial, by the largest size that the study may run.

    Tune asks for the same of every trial of one worker. No more trials share a GPU than there are
    CPUs for, or than were asked for; one whose type Ray does not say is not shared.
    """
    import ray

    from quokka_ray.training.packing import gpu_named, share_of_gpu

    total = ray.cluster_resources()
    gpu = gpu_named(name.removeprefix(_TYPE) for name in total if name.startswith(_TYPE))
    if gpu is None or total.get("GPU", 0) < 1:
        return 1.0
    resources = campaign.study.resources
    largest = max(campaign.menu.rungs.values(), key=lambda rung: rung.params)
    share = share_of_gpu(
        campaign.study, largest.shape, campaign.corpus.vocab_size, gpu, mps=_has_mps()
    )
    useful = total.get("CPU", 0) / resources.cpus_per_trial
    if resources.slots != "auto":
        useful = min(useful, resources.slots)
    return max(share, 1 / max(1, math.floor(useful / total["GPU"])))


def _has_mps() -> bool:
    """Return whether NVIDIA's multi-process service runs on this machine."""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")).exists()
