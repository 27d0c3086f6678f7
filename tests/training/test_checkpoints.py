import pickle

import pytest
import torch

from quokka_ray.training.checkpoints import (
    keep_only,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

PARAMETERS = {"w": torch.arange(6.0).view(2, 3)}
STATE = {"step": 3, "optimizers": [{"m": torch.ones(2)}]}


def test_a_checkpoint_reads_back_equal(tmp_path):
    path = save_checkpoint(tmp_path / "c", 100, PARAMETERS, STATE)
    parameters, state = load_checkpoint(path, "cpu")
    assert torch.equal(parameters["w"], PARAMETERS["w"])
    assert state["step"] == 3
    assert torch.equal(state["optimizers"][0]["m"], torch.ones(2))


def test_the_latest_is_the_complete_one_of_most_tokens(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for tokens in (900, 1000, 2000):
        save_checkpoint(tmp_path, tokens, PARAMETERS, STATE)
    (tmp_path / "2000" / "COMPLETE").unlink()
    (tmp_path / ".3000.draft").mkdir()
    latest = latest_checkpoint(tmp_path)
    assert latest == tmp_path / "1000"
    keep_only(tmp_path, latest)
    assert [p.name for p in tmp_path.iterdir()] == ["1000"]


def test_a_write_that_fails_leaves_the_earlier_checkpoint_the_latest(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, PARAMETERS, STATE)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("torch.save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, 2, PARAMETERS, STATE)
    assert latest_checkpoint(tmp_path) == tmp_path / "1"
    monkeypatch.undo()
    assert save_checkpoint(tmp_path, 2, PARAMETERS, STATE) == latest_checkpoint(tmp_path)


def test_an_unfinished_checkpoint_is_written_again(tmp_path):
    path = save_checkpoint(tmp_path, 5, PARAMETERS, STATE)
    (path / "COMPLETE").unlink()
    (path / "state.pt").write_bytes(b"half")
    assert load_checkpoint(save_checkpoint(tmp_path, 5, PARAMETERS, STATE), "cpu")[1]["step"] == 3


class Malicious:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_state_that_would_run_code_is_refused(tmp_path, capsys):
    path = save_checkpoint(tmp_path, 1, PARAMETERS, STATE)
    torch.save({"step": Malicious()}, path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(path, "cpu")
    assert "code was run" not in capsys.readouterr().out
