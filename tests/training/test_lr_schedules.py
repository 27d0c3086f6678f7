import json
from pathlib import Path

import pytest

from quokka_ray.study.config import TrainingConfig
from quokka_ray.training.lr_schedules import constant, cosine, lr_schedule, wsd

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "closed_forms.json"


def test_wsd_rises_stays_and_falls_linearly():
    values = [wsd(s, steps=100, warmup=10, cooldown=40) for s in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert values[9:61] == [1.0] * 52
    assert values[80] == pytest.approx(0.5)
    assert values[99] == pytest.approx(1 / 40)
    assert all(v > 0 for v in values)


def test_wsd_without_phases_is_constant():
    assert [wsd(s, steps=5, warmup=0, cooldown=0) for s in range(5)] == [1.0] * 5


def test_cosine_ends_at_its_floor_and_is_halfway_at_half_time():
    assert cosine(60, steps=100, warmup=20, floor=0.2) == pytest.approx(0.6)
    assert cosine(100, steps=100, warmup=20, floor=0.2) == pytest.approx(0.2)
    assert cosine(19, steps=100, warmup=20, floor=0.2) == 1.0
    assert constant(3, warmup=8) == 0.5
    assert constant(1000, warmup=8) == 1.0


@pytest.mark.parametrize("name", ["wsd", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_no_schedule_leaves_the_unit_interval_at_any_length(name, steps):
    schedule = lr_schedule(name, steps, TrainingConfig(warmup_fraction=0.05, min_lr_ratio=0.1))
    assert all(0 < schedule(step) <= 1 for step in range(steps))


def test_cosine_and_linear_decay_equal_the_published_values():
    if not ORACLES.exists():
        pytest.skip("needs ../shared/oracles/closed_forms.json")
    oracle = json.loads(ORACLES.read_text())["lr"]
    peak, total, warmup = oracle["max_lr"], oracle["total"], oracle["warmup"]
    floor = oracle["min_lr"] / peak
    for i, step in enumerate(oracle["steps"]):
        if step < warmup:
            # They start from zero; here the first step already moves.
            continue
        expected = oracle["cosine_warmup_smdm"][i]
        ours = cosine(step, steps=total, warmup=warmup, floor=floor)
        assert peak * ours == pytest.approx(expected, rel=1e-9)
        falling = wsd(step, steps=total, warmup=warmup, cooldown=oracle["decay"])
        with_floor = oracle["min_lr"] + (peak - oracle["min_lr"]) * falling
        assert with_floor == pytest.approx(oracle["megatron_wsd"]["linear"][i], rel=1e-9)
