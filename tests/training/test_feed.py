import threading

import pytest
from trajectories import trajectory

from quokka_ray.training.feed import Feed, steps_ahead
from quokka_ray.training.loop import Trainer


class Source:
    """Notes which steps were drawn and by which threads; waits where it is told to."""

    def __init__(self):
        self.drawn = []
        self.threads = set()
        self.third = threading.Event()

    def __call__(self, step):
        self.threads.add(threading.current_thread())
        self.drawn.append(step)
        if len(self.drawn) == 3:
            self.third.set()
        return step * 10


def test_the_steps_that_follow_are_drawn_while_one_runs():
    source = Source()
    feed = Feed(source, 2, 100)
    assert feed.take(5) == 50
    assert source.third.wait(10)
    assert source.drawn == [5, 6, 7]
    assert threading.current_thread() not in source.threads
    assert [feed.take(step) for step in (6, 7, 8)] == [60, 70, 80]
    feed.close()
    assert source.drawn[:4] == [5, 6, 7, 8]
    assert len(source.threads) == 1


@pytest.mark.parametrize("ahead", [0, 3])
def test_any_step_may_come_next(ahead):
    feed = Feed(lambda step: step * 10, ahead, 12)
    assert [feed.take(step) for step in (0, 1, 9, 11, 4, 5, 0)] == [0, 10, 90, 110, 40, 50, 0]
    feed.close()


def test_nothing_is_drawn_beyond_the_last_step():
    source = Source()
    feed = Feed(source, 5, 3)
    assert [feed.take(step) for step in range(3)] == [0, 10, 20]
    feed.close()
    assert source.drawn == [0, 1, 2]


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_reaches_the_step_that_it_belongs_to(ahead):
    def draw(step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    feed = Feed(draw, ahead, 100)
    assert [feed.take(0), feed.take(1)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        feed.take(2)
    assert feed.take(3) == 3
    feed.close()


def test_closing_ends_the_thread_and_what_waits_for_it():
    source, gate = Source(), threading.Event()

    def draw(step):
        if step == 1:
            gate.wait(10)
        return source(step)

    feed = Feed(draw, 3, 100)
    feed.take(0)
    threading.Timer(0.05, gate.set).start()
    feed.close()
    assert not any(thread.is_alive() for thread in source.threads)
    assert set(source.drawn) <= {0, 1}


def test_waiting_is_counted():
    pause = threading.Event()
    feed = Feed(lambda step: pause.wait(0.02), 0, 100)
    feed.take(0)
    assert 0.02 <= feed.seconds < 1


def test_a_cpu_has_no_second_thread():
    assert steps_ahead("cpu") == 0
    assert steps_ahead("cuda:1") > 0


def test_steps_drawn_ahead_train_as_steps_drawn_in_time(corpus, monkeypatch):
    def trained():
        config = trajectory(corpus, steps=12)
        windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
        trainer = Trainer(config, windows, "cpu")
        for _ in range(12):
            trainer.advance()
        trainer.close()
        return trainer.smoothed_loss.item()

    in_time = trained()
    monkeypatch.setattr("quokka_ray.training.loop.steps_ahead", lambda device: 3)
    assert trained() == in_time
