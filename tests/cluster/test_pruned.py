"""What Optuna's own study hears of a trial that ended as hopeless."""

import json

from optuna.trial import TrialState
from support.simulated import ended, finish, open_campaign, study

from quokka_ray.cluster.searcher import CampaignSearch
from quokka_ray.cluster.trainable import ROW
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


def test_a_hopeless_trial_is_pruned_and_the_search_goes_on(tmp_path):
    config = study(search={"hopeless": {"margin": 0.1}}).model_copy(update={"storage": tmp_path})
    with open_folder(config, resume=False, overwrite=False) as folder:
        campaign = open_campaign(config, folder)
        searcher = CampaignSearch(campaign, tmp_path / "stop", lambda trajectory: 1)
        given = []
        for name, status in (("a", "hopeless"), ("b", "finished")):
            answer = searcher.suggest(name)
            trajectory = TrajectoryConfig.model_validate_json(answer["trajectory"])
            given.append(trajectory)
            if status == "finished":
                finish(campaign, trajectory)
            else:
                spent = 0.2 * trajectory.flops_exact
                row = ended(trajectory, status, spent) | {"passed": [4.0], "excess": 0.2}
                searcher.on_trial_result(name, {ROW: json.dumps(row)})
            searcher.on_trial_complete(name, {})
        states = [trial.state for trial in searcher._ot_study.trials]
        assert states == [TrialState.PRUNED, TrialState.COMPLETE]
        assert campaign.account.committed == 0.2 * given[0].flops_exact + given[1].flops_exact
        # The place is bought again, since nothing was observed there.
        assert (given[1].params, given[1].tokens) == (given[0].params, given[0].tokens)
