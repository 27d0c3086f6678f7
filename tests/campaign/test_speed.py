from types import SimpleNamespace
from typing import Any

import pytest

from quokka_ray.campaign.budget import Account
from quokka_ray.campaign.speed import device_seconds_left, fit_speed


def seconds(params: float, flops: float) -> float:
    """A machine on which small models are slow per FLOP."""
    return flops * 1e-9 * (params / 1e4) ** -0.5


def trial(params: int, flops: float, share: float = 1.0) -> Any:
    """A trajectory that has spent `share` of its FLOPs, and has ended if that is all."""
    spent = share * flops
    row = {"flops_spent": spent, "device_seconds": seconds(params, spent)}
    config = SimpleNamespace(
        params=params, flops_exact=flops, flops_evaluation=0.0, points=(100,), path_tokens=100
    )
    return SimpleNamespace(
        config=config, observations=[], diverged=[], progress=row, flops_spent=spent,
        processed=round(100 * share), ended=row if share == 1 else None,
        attempts=1, started_at=None,
    )  # fmt: skip


def test_seconds_follow_the_size_of_a_model() -> None:
    speed = fit_speed([trial(params, 1e11) for params in (2_000, 10_000, 50_000)])
    assert speed is not None
    for params in (1_000, 30_000, 200_000):
        assert speed.seconds(params, 3e11) == pytest.approx(seconds(params, 3e11))
    alone = fit_speed([trial(10_000, 1e11)])
    assert alone is not None
    assert alone.slope == 0
    assert alone.seconds(10_000, 2e11) == pytest.approx(seconds(10_000, 2e11))


def test_what_is_left_is_priced_by_what_was_measured() -> None:
    states = [trial(2_000, 1e11), trial(50_000, 1e11), trial(50_000, 4e11, share=0.25)]
    account = Account(cap=1e12, spent=3e11, committed=6e11)
    planned = seconds(2_000, 1e11) + seconds(50_000, 5e11)
    expected = seconds(50_000, 3e11) + 4e11 * planned / 6e11
    assert device_seconds_left(account, states) == pytest.approx(expected)
    done = Account(cap=2e11, spent=2e11, committed=2e11)
    assert device_seconds_left(done, states[:2]) == pytest.approx(0)


def test_nothing_is_foretold_before_anything_was_measured() -> None:
    unknown = trial(2_000, 1e11)
    unknown.progress = unknown.ended = None
    assert device_seconds_left(Account(1e12, 0.0, 0.0), [unknown]) is None
    assert device_seconds_left(Account(1e12, 0.0, 0.0), []) is None


def test_a_trial_is_priced_with_the_time_in_which_it_does_not_train() -> None:
    states = [trial(params, 1e11) for params in (2_000, 10_000, 50_000)]
    for state, beside in zip(states, (3.0, 5.0, 40.0), strict=True):
        state.started_at = 1e9
        state.ended["time"] = 1e9 + seconds(state.config.params, 1e11) / 2 + beside
    again = trial(30_000, 1e11)
    again.attempts, again.started_at, again.ended["time"] = 2, 1e9, 2e9
    speed = fit_speed([*states, again], workers=lambda params: 2)
    assert speed is not None
    assert speed.overhead == pytest.approx(5.0), "the median of trials of one attempt"
    assert speed.price(10_000, 3e11, 2) == pytest.approx(seconds(10_000, 3e11) + 10.0)
