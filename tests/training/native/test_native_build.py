"""Compiling the C code, and doing without."""

import logging
import subprocess

import pytest
import torch
from trajectories import trajectory

from quokka_ray.training.loop import Trainer
from quokka_ray.training.native import build


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and a process that has loaded nothing."""
    monkeypatch.setattr(build, "_CACHE", tmp_path / "cache")
    build.library.cache_clear()
    yield tmp_path / "cache"
    build.library.cache_clear()


@pytest.fixture
def compiler():
    if build.compiler() is None:
        pytest.skip("no C compiler")


def losses(corpus, steps=3):
    config = trajectory(corpus)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    trainer = Trainer(config, windows, "cpu")
    for _ in range(steps):
        trainer.advance()
    return trainer.smoothed_loss.item()


def test_it_is_compiled_once_for_all_processes(fresh, compiler, monkeypatch):
    assert build.library(torch.float32) is not None
    (made,) = fresh.iterdir()
    build.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    assert build.library(torch.float32) is not None
    assert list(fresh.iterdir()) == [made]


def test_without_a_compiler_a_run_trains_on_torchs_operations(corpus, request, monkeypatch):
    expected = losses(corpus)
    request.getfixturevalue("fresh")
    monkeypatch.setattr(build, "compiler", lambda: None)
    assert losses(corpus) == pytest.approx(expected, rel=1e-5)
    assert build.library(torch.float32) is None


def test_a_compiler_that_cannot_is_named_once_and_a_run_trains(
    fresh, corpus, compiler, monkeypatch, caplog
):
    monkeypatch.setattr(build, "_TARGETS", ("-march=none-such",))
    with caplog.at_level(logging.WARNING):
        losses(corpus)
    (said,) = [record.getMessage() for record in caplog.records]
    assert "stay with torch" in said
    assert "none-such" in said
    assert list(fresh.iterdir()) == []


def test_a_cache_that_cannot_be_written_stops_nothing(fresh, corpus, compiler, monkeypatch):
    fresh.write_text("a file where the folder should be")
    losses(corpus)
    assert build.library(torch.float32) is None
