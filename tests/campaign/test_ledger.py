import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from quokka_ray.campaign.ledger import Ledger
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.model.counts import count_params, count_params_non_embedding
from quokka_ray.model.shapes import shape_for
from quokka_ray.study.config import (
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)
from quokka_ray.study.trajectory import TrajectoryConfig


def trajectory(name: str = "0000-a", tokens: int = 51_200) -> TrajectoryConfig:
    model = ModelConfig(seq_len=64, head_dim=8, ffn_multiple=8)
    shape = shape_for(5_000, model, 257)
    params = count_params(shape, model, 257)
    return TrajectoryConfig(
        id=name,
        study="s",
        corpus=Path("corpus"),
        corpus_hash="c0ffee",
        tokenizer="bytes",
        vocab_size=257,
        model=model,
        shape=shape,
        diffusion=DiffusionConfig(),
        training=TrainingConfig(batch_sequences=8),
        evaluation=EvaluationConfig(),
        tokens=tokens,
        unique_tokens=25_600,
        lr=1e-2,
        lr_schedule="wsd",
        seed=0,
        params=params,
        params_non_embedding=count_params_non_embedding(shape, model, 257),
        flops=6.0 * params * tokens,
        flops_exact=1e9,
    )


def planned(config: TrajectoryConfig) -> dict:
    return {
        "kind": "planned",
        "trajectory": config.id,
        "reason": "a test",
        "predicted": None,
        "lr_factor": 1.0,
        "reserved_flops": config.flops_exact,
        "config": config.model_dump(mode="json"),
    }


def observation(config: TrajectoryConfig, loss: float = 2.5) -> dict:
    return {
        "kind": "observation",
        "trajectory": config.id,
        "observation": f"{config.id}@{config.tokens}+cooldown",
        "tokens": config.tokens,
        "loss": loss,
        "loss_stderr": 0.01,
        "evaluator": "data/bound",
        "cooled": True,
        "flops_spent": 9e8,
    }


def test_a_record_that_arrives_twice_is_stored_once(tmp_path: Path) -> None:
    config = trajectory()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.append(planned(config))
    assert ledger.append(observation(config))
    assert not ledger.append(observation(config))
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 2
    assert len(ledger.runs()) == 1


def test_a_reopened_ledger_says_what_the_first_one_said(tmp_path: Path) -> None:
    config = trajectory()
    first = Ledger(tmp_path / "ledger.jsonl")
    first.append(planned(config))
    first.append({"kind": "started", "trajectory": config.id, "attempt": 1})
    first.append(observation(config))
    first.close()
    second = Ledger(tmp_path / "ledger.jsonl")
    state = second.trajectories[config.id]
    assert state.config == config
    assert state.attempts == 1
    assert state.flops_spent == 9e8
    assert second.runs().equals(first.runs())
    assert not second.append(observation(config))


def test_a_last_line_torn_by_a_crash_is_dropped_and_can_be_said_again(tmp_path: Path) -> None:
    config, path = trajectory(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(planned(config))
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps(observation(config)).encode()[:40])
    reopened = Ledger(path)
    assert path.read_bytes() == whole
    assert reopened.append(observation(config))


def test_looking_at_a_ledger_that_a_driver_writes_changes_nothing(tmp_path: Path) -> None:
    config, path = trajectory(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(planned(config))
    path.write_bytes(path.read_bytes() + b'{"kind":"obs')
    before = path.read_bytes()
    looking = Ledger(path, read_only=True)
    looking.append(observation(config))
    looking.close()
    assert path.read_bytes() == before
    assert len(looking.runs()) == 1


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    config, path = trajectory(), tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(planned(config))
    ledger.close()
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(ConfigurationError, match="line 1 is not a ledger record"):
        Ledger(path)


def test_what_a_trial_wrote_before_its_driver_died_is_merged_once(tmp_path: Path) -> None:
    config = trajectory()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(planned(config))
    folder = tmp_path / "trajectories" / config.id
    folder.mkdir(parents=True)
    progress = {"kind": "progress", "trajectory": config.id, "tokens": 512, "flops_spent": 1e7}
    rows = [progress, observation(config)]
    torn = '{"kind":"ended","traj'
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + torn)
    stranger = tmp_path / "trajectories" / "not-planned-here"
    stranger.mkdir()
    assert ledger.merge_metrics([folder, stranger]) == 1
    assert ledger.merge_metrics([folder]) == 0
    state = ledger.trajectories[config.id]
    assert state.progress == progress
    assert state.ended is None
    assert [row["loss"] for row in state.observations] == [2.5]


def test_runs_without_an_observation_are_counted_with_their_status(tmp_path: Path) -> None:
    good, bad = trajectory("0000-good"), trajectory("0001-bad")
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for config in (good, bad):
        ledger.append(planned(config))
    ledger.append(observation(good))
    ledger.append(
        {
            "kind": "ended",
            "trajectory": bad.id,
            "status": "diverged",
            "reason": "loss is not finite",
            "flops_spent": 5e8,
        }
    )
    runs = ledger.runs().set_index("trajectory")
    assert runs.loc[good.id, "status"] == "finished"
    assert runs.loc[bad.id, "status"] == "diverged"
    assert runs.loc[good.id, "epochs"] == 2.0
    assert runs.loc[good.id, "flops"] == 6.0 * good.params * good.tokens


def test_several_observations_of_a_trajectory_are_rows_that_add_up_to_its_cost(
    tmp_path: Path,
) -> None:
    config = trajectory().model_copy(update={"earlier_points": (12_800, 25_600)})
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(planned(config))
    name = f"{config.id}@12800+cooldown"
    lost = {"observation": name, "tokens": 12_800, "loss": None, "status": "diverged"}
    ledger.append({**observation(config), **lost, "flops_spent": 1e8, "parent": config.id})
    for tokens, loss, spent in ((25_600, 2.7, 4e8), (51_200, 2.5, 9e8)):
        name = f"{config.id}@{tokens}+cooldown"
        row = {**observation(config, loss), "observation": name, "tokens": tokens}
        ledger.append({**row, "flops_spent": spent})
    ledger.append({"kind": "ended", "trajectory": config.id, "status": "finished",
                   "reason": "", "flops_spent": 9e8})  # fmt: skip
    for read in (ledger, Ledger(tmp_path / "ledger.jsonl", read_only=True)):
        runs = read.runs()
        assert list(runs["status"]) == ["diverged", "finished", "finished"]
        assert list(runs["tokens"]) == [12_800, 25_600, 51_200]
        assert list(runs["flops_spent"]) == pytest.approx([1e8, 3e8, 5e8])
        assert list(runs["cooldown_tokens"]) == [2_560, 5_120, 10_240]
        assert list(runs["warmup_tokens"]) == [512] * 3, "5 % of 25 steps of 512 tokens"
        assert runs["parent"].iloc[0] == config.id
        state = read.trajectories[config.id]
        assert state.last_observation is not None
        assert state.last_observation["loss"] == 2.5


def test_a_trajectory_that_diverges_late_keeps_what_was_observed_before(tmp_path: Path) -> None:
    config = trajectory().model_copy(update={"earlier_points": (12_800,)})
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(planned(config))
    ledger.append({**observation(config), "observation": "early", "tokens": 12_800})
    ledger.append({"kind": "ended", "trajectory": config.id, "status": "diverged",
                   "reason": "", "tokens": 40_960, "flops_spent": 1e9})  # fmt: skip
    assert list(ledger.runs()["status"]) == ["finished", "diverged"]
    assert ledger.trajectories[config.id].last_observation is None


def test_a_record_is_on_disk_when_append_returns_though_the_process_is_killed(
    tmp_path: Path,
) -> None:
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_ledger import Ledger, Path, planned, trajectory
Ledger(Path(sys.argv[2])).append(planned(trajectory()))
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = tmp_path / "ledger.jsonl"
    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(path)], check=False
    )
    assert result.returncode == -9
    assert list(Ledger(path).trajectories) == ["0000-a"]


def test_a_ledger_that_cannot_be_written_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot write the ledger"):
        Ledger(tmp_path / "no" / "such" / "folder" / "ledger.jsonl")


def test_the_run_table_that_grew_equals_the_one_that_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in range(6):
        config = trajectory(f"000{number}-a")
        ledger.append(planned(config))
        ledger.append({"kind": "started", "trajectory": config.id, "attempt": 1})
        pd.testing.assert_frame_equal(ledger.runs(), reread(ledger))
        for tokens in (25_600, 51_200)[: number % 3]:
            row = observation(config)
            ledger.append({**row, "observation": f"{config.id}@{tokens}", "tokens": tokens})
            pd.testing.assert_frame_equal(ledger.runs(), reread(ledger))
        status = "finished" if number % 3 else "diverged"
        end = {"kind": "ended", "trajectory": config.id, "status": status, "flops_spent": 1e9}
        ledger.append(end)
        pd.testing.assert_frame_equal(ledger.runs(), reread(ledger))
    assert len(ledger.runs()) == 8


def reread(ledger: Ledger) -> pd.DataFrame:
    return Ledger(ledger.path, read_only=True).runs()


def test_what_a_trajectory_spent_follows_every_row_that_it_reports(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    config = trajectory()
    ledger.append(planned(config))
    state = ledger.trajectories[config.id]
    assert state.flops_spent == 0.0
    for spent in (1e8, 2e8):
        state.progress = {"tokens": 1, "flops_spent": spent}
        assert state.flops_spent == spent
    ledger.append({**observation(config), "flops_spent": 3e8})
    assert state.flops_spent == 3e8
    ledger.append(
        {"kind": "ended", "trajectory": config.id, "status": "finished", "flops_spent": 4e8}
    )
    assert state.flops_spent == 4e8
