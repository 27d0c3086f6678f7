"""TensorBoard's event files, read back with its own reader."""

import threading
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status

from quokka_ray.reporting.tensorboard import STUDY_RUN, StudyBoard

HPARAMS: dict[str, Any] = {
    "params": 4512, "lr": 1e-2, "lr_schedule": "wsd", "parent": None, "betas": [0.9, 0.98],
    "tied": True,
}  # fmt: skip


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def session(folder: Path) -> dict[str, bytes]:
    """Return what the run holds for the HPARAMS plugin, by tag."""
    content = read(folder).PluginTagToContent(metadata.PLUGIN_NAME)
    return dict(content)


def observation(trajectory: str, tokens: int, flops: float, loss: float | None) -> dict[str, Any]:
    return {
        "kind": "observation", "trajectory": trajectory, "tokens": tokens, "flops": flops,
        "loss": loss, "loss_stderr": 0.01,
    }  # fmt: skip


def test_a_trunk_taken_up_after_a_branch_goes_on_to_the_right(tmp_path: Path) -> None:
    with StudyBoard(tmp_path) as board:
        for tokens, processed, loss in ((60, 60, 3.0), (100, 100, 2.5), (80, 120, 2.9)):
            board.progress({"trajectory": "t1", "tokens": tokens, "processed_tokens": processed,
                            "train_loss": loss, "mfu": 0.5})  # fmt: skip
        for tokens, loss in ((100, 2.6), (200, 2.4)):
            board.observation(observation("t1", tokens, 6e6 * tokens, loss))
    assert [step for step, _ in scalars(tmp_path / "t1", "train/loss")] == [60, 100, 120]
    assert [step for step, _ in scalars(tmp_path / "t1", "loss/by_tokens")] == [100, 200]
    assert scalars(tmp_path / "t1", "device/share_of_matrix_product")[0] == (60, 0.5)


def test_hyperparameters_are_there_while_the_trial_still_runs(tmp_path: Path) -> None:
    with StudyBoard(tmp_path) as board:
        board.trial_started("t1", HPARAMS)
        tags = session(tmp_path / "t1")
        start = metadata.parse_session_start_info_plugin_data(
            tags[metadata.SESSION_START_INFO_TAG]
        )
        assert start.hparams["params"].number_value == 4512
        assert start.hparams["lr_schedule"].string_value == "wsd"
        assert start.hparams["betas"].string_value == "[0.9, 0.98]"
        assert "parent" not in start.hparams
        experiment = metadata.parse_experiment_plugin_data(tags[metadata.EXPERIMENT_TAG])
        assert {one.name.tag for one in experiment.metric_infos} == {
            "loss/by_tokens",
            "loss/by_flops",
        }
        assert metadata.SESSION_END_INFO_TAG not in tags


@pytest.mark.parametrize(
    ("status", "shown"),
    [("finished", Status.STATUS_SUCCESS), ("diverged", Status.STATUS_FAILURE)],
)
def test_the_end_of_a_trial_is_a_success_or_a_failure(
    tmp_path: Path, status: str, shown: int
) -> None:
    with StudyBoard(tmp_path) as board:
        board.trial_started("t1", HPARAMS)
        board.trial_ended("t1", status)
        content = session(tmp_path / "t1")[metadata.SESSION_END_INFO_TAG]
        assert metadata.parse_session_end_info_plugin_data(content).status == shown


def test_losses_stand_against_tokens_and_against_flops(tmp_path: Path) -> None:
    with StudyBoard(tmp_path) as board:
        board.observation(observation("t1", 1000, 3e10, 2.5))
        board.observation(observation("t1", 2000, 6e24, 2.25))
        assert scalars(tmp_path / "t1", "loss/by_tokens") == [(1000, 2.5), (2000, 2.25)]
        assert scalars(tmp_path / "t1", "loss/by_flops") == [
            (30_000, 2.5),
            (6_000_000_000_000_000_000, 2.25),
        ]


def test_what_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    with StudyBoard(tmp_path) as board:
        board.progress({"trajectory": "t1", "tokens": 10, "train_loss": None, "lr": 0.5})
        board.progress({"trajectory": "t1", "tokens": 20})
        board.observation(observation("t1", 20, 1e9, None))
        board.law({}, {"sigma": None, "budget_spent": 0.5}, step=1)
        assert read(tmp_path / "t1").Tags()["scalars"] == ["train/lr", "loss/stderr"]
        assert read(tmp_path / STUDY_RUN).Tags()["scalars"] == ["study/budget_spent"]


def test_the_law_is_a_picture_on_the_studys_own_run(tmp_path: Path) -> None:
    figure = Figure(figsize=(3, 2), dpi=50)
    figure.subplots().plot([1, 2], [3, 4])
    with StudyBoard(tmp_path) as board:
        board.law({"isoflop": figure}, {"budget_spent": 0.5}, step=7)
        (image,) = read(tmp_path / STUDY_RUN).Images("law/isoflop")
        assert (image.step, image.width, image.height) == (7, 150, 100)
        assert image.encoded_image_string.startswith(b"\x89PNG")
        assert scalars(tmp_path / STUDY_RUN, "study/budget_spent") == [(7, 0.5)]


def test_a_resumed_study_adds_to_the_same_runs(tmp_path: Path) -> None:
    with StudyBoard(tmp_path) as board:
        board.trial_started("t1", HPARAMS)
        board.progress({"trajectory": "t1", "tokens": 10, "train_loss": 5.0})
    with StudyBoard(tmp_path) as board:
        board.progress({"trajectory": "t1", "tokens": 20, "train_loss": 4.0})
        board.observation(observation("t1", 20, 1e9, 4.5))
        board.trial_ended("t1", "finished")
    # The first file has the start, the second the end; the plugin reads the run's both.
    files = sorted((tmp_path / "t1").glob("events.*"))
    assert len(files) == 2
    assert [scalars(file, "train/loss") for file in files] == [[(10, 5.0)], [(20, 4.0)]]
    assert {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG} <= set(
        session(tmp_path / "t1")
    )


def test_trials_that_ended_leave_no_writer_behind(tmp_path: Path) -> None:
    # A writer has a thread of its own, and a file that it opens at each flush.
    before = threading.active_count()
    with StudyBoard(tmp_path) as board:
        for index in range(40):
            board.trial_started(f"t{index}", HPARAMS)
            board.trial_ended(f"t{index}", "finished")
        assert threading.active_count() == before
        board.trial_started("live", HPARAMS)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
