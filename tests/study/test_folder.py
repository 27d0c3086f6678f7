"""The study's folder: who may open it, and what is never deleted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import open_folder, saved_study

HOLD = """
import sys
from pathlib import Path
from quokka_ray.study.folder import open_folder, saved_study
folder = open_folder(saved_study(Path(sys.argv[1])), resume=True, overwrite=False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "mine",
            "storage": tmp_path / "runs",
            "search": {"params": {"low": 1e3, "high": 1e4}, "run_flops": {"low": 1, "high": 2}},
            "budget": {"flops": 1e12},
            "target": {"flops": 1e14},
        }
    )


def changed(study: StudyConfig, **sections: dict[str, object]) -> StudyConfig:
    values = study.model_dump(mode="json")
    for section, keys in sections.items():
        values[section].update(keys)
    return StudyConfig.model_validate(values)


def test_a_new_folder_holds_the_resolved_study(study: StudyConfig) -> None:
    with open_folder(study, resume=False, overwrite=False) as folder:
        assert folder.root == study.folder
        assert folder.trajectory("t1").parent == folder.trajectories
        assert folder.trajectories.is_dir()
    assert saved_study(study.folder) == study


def test_a_folder_with_a_study_is_refused_without_a_flag(study: StudyConfig) -> None:
    open_folder(study, resume=False, overwrite=False).close()
    before = study.folder.joinpath("study.yaml").read_bytes()
    with pytest.raises(ConfigurationError, match=r"quokka-ray resume .*--overwrite"):
        open_folder(changed(study, model={"seq_len": 4}), resume=False, overwrite=False)
    assert study.folder.joinpath("study.yaml").read_bytes() == before


def test_a_resume_may_change_the_budget_and_keeps_everything(study: StudyConfig) -> None:
    with open_folder(study, resume=False, overwrite=False) as folder:
        folder.ledger.write_text("{}\n")
    larger = changed(study, budget={"flops": 2e12}, resources={"slots": 3})
    with open_folder(larger, resume=True, overwrite=False) as folder:
        assert folder.ledger.read_text() == "{}\n"
    assert saved_study(study.folder) == larger


def test_a_resume_of_another_study_names_what_differs(study: StudyConfig) -> None:
    open_folder(study, resume=False, overwrite=False).close()
    other = changed(study, model={"seq_len": 4}, training={"lr": 0.5})
    with pytest.raises(ConfigurationError, match=r"model\.seq_len \(was 2048, now 4\)") as caught:
        open_folder(other, resume=True, overwrite=False)
    assert "training.lr" in str(caught.value)
    assert saved_study(study.folder) == study
    open_folder(study, resume=True, overwrite=False).close()  # the lock was given back


def test_nothing_to_resume_is_said_and_nothing_is_made(study: StudyConfig) -> None:
    with pytest.raises(ConfigurationError, match="no study in"):
        open_folder(study, resume=True, overwrite=False)
    assert not study.folder.exists()


def test_overwrite_deletes_a_study_and_nothing_else(study: StudyConfig) -> None:
    with open_folder(study, resume=False, overwrite=False) as folder:
        folder.ledger.write_text("{}\n")
        folder.trajectory("t1").mkdir()
    with open_folder(study, resume=False, overwrite=True) as folder:
        assert not folder.ledger.exists()
        assert not folder.trajectory("t1").exists()
        assert saved_study(folder.root) == study


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_study_is_left_alone(study: StudyConfig, overwrite: bool) -> None:
    study.folder.mkdir(parents=True)
    study.folder.joinpath("thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="left alone"):
        open_folder(study, resume=False, overwrite=overwrite)
    assert [path.name for path in study.folder.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_named(study: StudyConfig) -> None:
    study.storage.mkdir()
    study.folder.write_text("")
    with pytest.raises(ConfigurationError, match="is a file"):
        open_folder(study, resume=False, overwrite=False)


def test_storage_that_cannot_be_written_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    # A file where the storage folder should be: it stops root too, unlike missing permissions.
    (tmp_path / "file").write_text("")
    values = {
        "name": "mine",
        "storage": tmp_path / "file" / "runs",
        "search": {"params": {"low": 1, "high": 2}, "run_flops": {"low": 1, "high": 2}},
        "budget": {"flops": 1},
        "target": {"flops": 1},
    }
    with pytest.raises(MachineError, match="cannot be written") as caught:
        open_folder(StudyConfig.model_validate(values), resume=False, overwrite=False)
    assert caught.value.exit_code == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_storage_is_a_fault_of_the_machine(study: StudyConfig) -> None:
    study.storage.mkdir(mode=0o500)
    with pytest.raises(MachineError, match="Permission denied"):
        open_folder(study, resume=False, overwrite=False)


def test_an_object_store_is_refused(study: StudyConfig) -> None:
    remote = StudyConfig.model_validate({**study.model_dump(), "storage": "s3://bucket/runs"})
    with pytest.raises(ConfigurationError, match="object store"):
        open_folder(remote, resume=False, overwrite=False)


def test_two_drivers_never_share_a_folder_and_a_killed_one_lets_go(study: StudyConfig) -> None:
    open_folder(study, resume=False, overwrite=False).close()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(study.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for resume, overwrite in ((True, False), (False, True)):
            with pytest.raises(MachineError, match="another search is running"):
                open_folder(study, resume=resume, overwrite=overwrite)
    finally:
        holder.kill()
        holder.communicate()
    open_folder(study, resume=True, overwrite=False).close()


def test_a_folder_that_was_moved_is_read_where_it_lies(study: StudyConfig) -> None:
    open_folder(study, resume=False, overwrite=False).close()
    moved = study.storage / "elsewhere"
    study.folder.rename(moved)
    assert saved_study(moved).folder == moved


def test_a_study_that_names_its_corpus_relatively_is_resumed_from_anywhere(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = changed(study, corpus={"source": "files", "paths": ["texts/*.txt"]})
    open_folder(study, resume=False, overwrite=False).close()
    open_folder(study, resume=True, overwrite=False).close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    saved = saved_study(study.folder)
    assert saved.corpus.paths == (str(tmp_path / "texts" / "*.txt"),)
    open_folder(saved, resume=True, overwrite=False).close()
