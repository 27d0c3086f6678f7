"""Ray Tune's searcher: `OptunaSearch`, with the campaign deciding what it suggests.

Tune asks here for configurations and tells results here, always in the driver's main thread. The
campaign's ledger is the only state: nothing is saved with Tune's, and a resumed search is a new
`Tuner` on the same ledger.
"""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from quokka_ray.campaign.campaign import Answer, Campaign
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.proposals import Proposal
from quokka_ray.campaign.sampler import SteeredSampler, search_space
from quokka_ray.cluster.trainable import ROW, trial_config, why_it_failed
from quokka_ray.study.trajectory import TrajectoryConfig

logger = logging.getLogger(__name__)

METRIC = "loss"


class CampaignSearch(OptunaSearch):
    """Suggests the campaign's trajectories to Tune, and tells the campaign what they report.

    Args:
        campaign: The campaign; new proposals pass through Optuna on their way.
        stop_file: The file whose existence asks all trials to return.
        workers: Says how many workers a trajectory has.
    """

    def __init__(
        self, campaign: Campaign, stop_file: Path, workers: Callable[[TrajectoryConfig], int]
    ) -> None:
        self._campaign = campaign
        self._workers = workers
        self._stop_file = stop_file
        study = campaign.study
        space = search_space(study, campaign.menu)
        self._steered = SteeredSampler(study, space)
        super().__init__(
            space=space,
            metric=METRIC,
            mode="min",
            sampler=self._steered,
            storage=_rebuild_journal(campaign, space),
            study_name=campaign.study.name,
        )
        self._trajectories: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial's configuration; None to be asked again; FINISHED when all is done.

        None is only said while a trial is in flight: with none, Tune would wait for minutes.
        """
        answer = self._campaign.ask(partial(self._tell_optuna, trial_id))
        if answer is Answer.WAIT:
            return None
        if isinstance(answer, Answer):
            return Searcher.FINISHED
        self._trajectories[trial_id] = answer.id
        return trial_config(
            answer,
            self._campaign.folder.trajectory(answer.id).absolute(),
            self._stop_file.absolute(),
            self._campaign.study.resources.threads,
            self._workers(answer),
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the campaign the row that a trial reported.

        The parent's method is not called: it wants the metric in every row, and refuses trials
        that Optuna never asked for, as resumed ones are.
        """
        self._campaign.tell(json.loads(result[ROW]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Settle a trial whose process is gone, and tell Optuna what became of it."""
        trajectory = self._trajectories.pop(trial_id)
        if error:
            folder = self._campaign.folder.trajectory(trajectory)
            self._campaign.lost(trajectory, why_it_failed(folder))
        else:
            self._campaign.returned(trajectory)
        optuna_trial = self._ot_trials.pop(trial_id, None)
        if optuna_trial is None:
            return
        state = self._campaign.ledger.trajectories[trajectory]
        observation = state.last_observation
        if observation is not None:
            self._ot_study.tell(optuna_trial, observation["loss"])
        elif state.hopeless_excess is not None:
            self._ot_study.tell(optuna_trial, state=TrialState.PRUNED)
        else:
            # Whatever has no value must be told as failed, or it stays running in the journal.
            self._ot_study.tell(optuna_trial, state=TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the ledger is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a resumed search is a fresh one on the same ledger."""
        raise RuntimeError("a campaign resumes from its ledger, not from Tune's state")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as nothing: Tune writes its tuner to disk, and nobody reads that."""
        return {}

    def _tell_optuna(self, trial_id: str, proposal: Proposal) -> None:
        """Make a trial of Optuna's for a run that the campaign is about to plan."""
        self._steered.proposal = proposal
        super().suggest(trial_id)


def _rebuild_journal(
    campaign: Campaign, space: dict[str, optuna.distributions.BaseDistribution]
) -> JournalStorage:
    """Write Optuna's journal anew from the ledger, for optuna-dashboard to read."""
    path = campaign.folder.optuna_journal
    path.unlink(missing_ok=True)
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name=campaign.study.name)
    dimensions = Dimensions(campaign.study)
    for state in campaign.ledger.trajectories.values():
        observation = state.last_observation
        if observation is None:
            continue
        config, (params, tokens) = state.config, state.place
        study.add_trial(
            create_trial(
                value=observation["loss"],
                params={
                    "params": params,
                    "tokens": float(tokens),
                    **(
                        {"unique_tokens": float(config.unique_tokens)}
                        if "unique_tokens" in space
                        else {}
                    ),
                    **dimensions.told(config, state.planned["lr_factor"]),
                },
                distributions=space,
                user_attrs={"trajectory": config.id, "lr": config.lr},
            )
        )
    return storage
