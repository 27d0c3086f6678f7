"""What `status` says of each trial of a simulated study, and where it points to."""

import json

import pytest
from support.simulated import finish, open_campaign, study

from quokka_ray.campaign.flights import MAX_ATTEMPTS
from quokka_ray.cli.main import main
from quokka_ray.study.folder import open_folder


@pytest.fixture(scope="module")
def under_way(tmp_path_factory):
    """The folder of a study with a start, three steered trials and one that was given up."""
    config = study(
        search={"run_flops": {"low": 1e10, "high": 1e11}, "initial_fraction": 0.1},
        budget={"flops": 2e12},
        target={"flops": 1e12},
    ).model_copy(update={"storage": tmp_path_factory.mktemp("runs")})
    with open_folder(config, resume=False, overwrite=False) as folder:
        campaign = open_campaign(config, folder)
        for _ in range(len(campaign.start_plan) + 3):
            finish(campaign, campaign.ask())
        broken = campaign.ask()
        for _ in range(MAX_ATTEMPTS):
            campaign.lost(broken.id, "the worker died")
            campaign.ask()
        campaign.close()
        return folder.root


def test_status_says_why_each_trial_was_chosen_and_how_it_ended(under_way, capsys):
    assert main(["status", str(under_way), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trajectories"]
    assert rows[0]["reason"].startswith("start: IsoFLOP at")
    steered = [row for row in rows if "cuts the variance of ln N_opt by" in row["reason"]]
    assert steered
    assert all("of the budget" in row["reason"] for row in steered)
    assert any(row["reason"].startswith("tests the law") for row in rows)
    failed = next(row for row in rows if row["status"] == "failed")
    assert "the worker died" in failed["ended_because"]
    assert main(["status", str(under_way)]) == 0
    said = capsys.readouterr().out
    assert f"    failed: {failed['ended_because']}" in said
    for row in rows:
        assert row["reason"] in said


def test_status_of_a_study_under_way_points_to_what_its_rest_would_reach(under_way, capsys):
    assert main(["status", str(under_way)]) == 0
    assert f"quokka-ray plan {under_way}" in capsys.readouterr().out
