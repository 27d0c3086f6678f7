"""A whole campaign, watched."""

import io
from itertools import chain, repeat
from pathlib import Path

from rich.console import Console
from support.simulated import open_campaign, progress, run, study
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quokka_ray.reporting.live import LiveView
from quokka_ray.reporting.watch import Watch
from quokka_ray.study.folder import open_folder
from quokka_ray.study.trajectory import TrajectoryConfig


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_a_campaign_is_seen_from_its_first_trial_to_its_law(tmp_path: Path) -> None:
    config = study().model_copy(update={"storage": tmp_path})
    stream = io.StringIO()
    view = LiveView(Console(file=stream, width=200), plain=True)
    with open_folder(config, resume=False, overwrite=False) as folder, view:
        # Drawing takes a thousand seconds of this clock, and nothing else any.
        clock = chain([0.0, 0.0], repeat(1e3)).__next__
        watch = Watch(config, folder, view, clock)
        campaign = open_campaign(config, folder, [watch])
        first = campaign.ask()
        assert isinstance(first, TrajectoryConfig)
        campaign.tell(progress(first, 0.5))
        begun = watch.state(campaign)
        assert [(trial.id, trial.loss) for trial in begun.running] == [(first.id, 3.0)]
        assert abs(begun.running[0].progress - 0.5) < 0.01
        assert "not yet" not in begun.message
        assert begun.message
        campaign.lost(first.id, "killed")
        run(campaign)
        last = watch.finish(campaign)
        campaign.close()

        trials = sorted(path.name for path in folder.tensorboard.iterdir())
        assert trials == sorted([*campaign.ledger.trajectories, "_study"])
        lines = stream.getvalue().splitlines()
        assert len(lines) == len(campaign.ledger.trajectories)
        assert all("finished" in line for line in lines)
        assert last.counts == {"finished": len(lines)}
        assert not last.running
        assert last.optimum is not None
        assert last.optimum.params.low < last.optimum.params.value < last.optimum.params.high

        law = read(folder.tensorboard / "_study")
        # Pictures of the first law, and of the last one.
        for name in ("isoflop", "frontier", "predicted_against_observed"):
            assert len(law.Images(f"law/{name}")) == 2
        assert len(law.Scalars("study/params_at_target")) > 10
        run_of_first = read(folder.tensorboard / first.id)
        assert [event.value for event in run_of_first.Scalars("train/loss")] == [3.0]
        assert len(run_of_first.Scalars("loss/by_tokens")) == 1
