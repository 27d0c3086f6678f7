import json

import pytest
import torch
from trajectories import trajectory

from quokka_ray.model.counts import training_flops
from quokka_ray.training.peaks import data_sheet_peak, measured_peak
from quokka_ray.training.run import train


def test_rows_say_how_fast_a_run_trains_and_where_its_time_went(corpus, tmp_path):
    config = trajectory(corpus, steps=40, earlier=(10, 20), report_seconds=1e-9)
    train(config, tmp_path, report=lambda row: None)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    speeds = [row for row in rows if row["kind"] == "progress"]
    per_token = training_flops(config.shape, config.model, config.vocab_size, 1)
    peak = measured_peak("cpu", torch.float32, 1)
    for row in speeds:
        assert row["flops_per_second"] == pytest.approx(per_token * row["tokens_per_second"])
        assert row["mfu"] == pytest.approx(row["flops_per_second"] / peak)
        assert row["mfu"] < 1
        assert "mfu_data_sheet" not in row
    last = rows[-1]
    assert last["kind"] == "ended"
    seconds = [last[f"{what}_seconds"] for what in ("evaluation", "checkpoint", "data")]
    assert all(value > 0 for value in seconds)
    assert sum(seconds) < last["device_seconds"]
    evaluated = [row["evaluation_seconds"] for row in rows if row["kind"] == "observation"]
    assert evaluated == sorted(evaluated)
    assert 1e7 < last["peak_memory_bytes"] < 1e11


def test_a_peak_is_measured_once_and_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    measured_peak.cache_clear()
    first = measured_peak("cpu", torch.float32, 1)
    assert measured_peak("cpu", torch.float32, 1) == first > 1e8
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_data_sheet_is_known_by_the_name_of_the_device(monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert data_sheet_peak("cuda:0", torch.bfloat16) == expected
    assert data_sheet_peak("cuda:0", torch.float32) is None
    assert data_sheet_peak("cpu", torch.bfloat16) is None
