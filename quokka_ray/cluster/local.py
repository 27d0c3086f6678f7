"""The local executor: the campaign's trajectories one after the other, in this process.

For debugging, for machines without Ray, and for tests of the campaign with real training.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from quokka_ray.campaign.campaign import Answer, Campaign
from quokka_ray.cluster.trainable import StopFlag, Train
from quokka_ray.errors import QuokkaError
from quokka_ray.study.trajectory import TrajectoryConfig

logger = logging.getLogger(__name__)


def run_locally(campaign: Campaign, stop_file: Path, train: Train | None = None) -> None:
    """Run the campaign's trajectories in this process until it has none to give.

    Args:
        campaign: The campaign.
        stop_file: The file whose existence asks the trial to return.
        train: What a trial runs, in place of `quokka_ray.training.run.train`.
    """
    import torch

    if train is None:
        from quokka_ray.training import run

        train = run.train
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stopped: Callable[[], bool] = StopFlag(stop_file)
    while isinstance(answer := campaign.ask(), TrajectoryConfig):
        try:
            train(
                answer,
                campaign.folder.trajectory(answer.id),
                report=campaign.tell,
                should_stop=stopped,
                device=device,
                threads=campaign.study.resources.threads,
            )
        except QuokkaError:
            raise
        except Exception as error:
            # One trial's fault is its own: the campaign retries it, and the search goes on.
            logger.exception("trajectory %s failed", answer.id)
            campaign.lost(answer.id, f"{type(error).__name__}: {error}")
        else:
            campaign.returned(answer.id)
    assert answer is Answer.DONE, "with nothing in flight there is nothing to wait for"
