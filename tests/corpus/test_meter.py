"""What a preparation says while it goes on."""

import pytest

from quokka_ray.corpus import meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_are_of_this_attempt(clock: list[float]) -> None:
    said: list[str] = []
    told = meter.Meter(said.append)
    clock[0] += 10
    # Half is read; of its 80 MB of text this attempt made 40, in ten seconds.
    told.tell(1000, 80_000_000, 40_000_000, done=20_000_000, size=40_000_000)
    assert said == ["1,000 documents, 80 MB of text, 4.0 MB/s, 50%, 20 s left"]
    # Not more often than twice a second.
    told.tell(1001, 80_000_100, 40_000_100, done=20_000_100, size=40_000_000)
    assert len(said) == 1
    clock[0] += 590
    told.tell(1001, 80_000_000, 40_000_000, done=20_000_000, size=40_000_000)
    assert said[-1].endswith("50%, 20 min left")


def test_a_pipe_has_a_rate_and_no_end(clock: list[float]) -> None:
    said: list[str] = []
    told = meter.Meter(said.append)
    clock[0] += 2
    told.tell(7, 6_000_000, 6_000_000, done=6_000_000, size=None)
    assert said == ["7 documents, 6 MB of text, 3.0 MB/s"]
