from quokka_ray.pacing import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_job_takes_no_more_than_its_share_of_the_time() -> None:
    clock = Clock()
    pace = Pace(0.05, clock)
    busy = 0.0
    for _ in range(1000):
        if pace.due:
            with pace.run():
                clock.now += 0.4
            busy += 0.4
        clock.now += 0.1
    assert 0.04 * clock.now < busy < 0.05 * clock.now + 0.4


def test_a_job_is_due_the_first_time_and_every_time_while_the_clock_stands_still() -> None:
    pace = Pace(0.05, lambda: 7.0)
    for _ in range(3):
        assert pace.due
        with pace.run():
            pass


def test_a_job_that_fails_took_its_time_too() -> None:
    clock = Clock()
    pace = Pace(0.5, clock)
    try:
        with pace.run():
            clock.now += 1.0
            raise ValueError
    except ValueError:
        pass
    assert not pace.due
    clock.now = 2.0
    assert pace.due
