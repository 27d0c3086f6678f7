"""What `status` and `plan` say of a study of repeated data."""

import json

import pytest
from support.repeated import open_campaign, run, study

from quokka_ray.cli.main import main
from quokka_ray.study.folder import open_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study whose first three simulated trajectories have ended."""
    config = study().model_copy(update={"storage": tmp_path_factory.mktemp("runs")})
    with open_folder(config, resume=False, overwrite=False) as folder:
        campaign = open_campaign(config, folder)
        # Status needs no law.
        campaign._laws.refit_guide = lambda runs: None
        run(campaign, 3)
        campaign.close()
        return folder.root


def test_status_says_where_each_curve_is_lowest_and_what_became_of_it(finished, capsys):
    assert main(["status", str(finished), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trajectories"]
    assert len(rows) == 3
    for row in rows:
        losses = [seen["loss"] for seen in row["observations"]]
        assert row["loss"] == min(losses) == row["curve"]["lowest"]
        assert row["curve"]["shape"] == "turned"
        assert row["curve"]["rise"] == pytest.approx(losses[-1] / min(losses) - 1)
    assert main(["status", str(finished)]) == 0
    said = capsys.readouterr().out
    curve = rows[0]["curve"]
    assert f"{curve['first']:.3g} to {curve['last']:.3g} epochs" in said
    assert said.count("lowest at") == 3
