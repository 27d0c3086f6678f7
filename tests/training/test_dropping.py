"""Dropout in training: the same however it is run, and in training alone."""

import pytest
import torch
from trajectories import MODEL, trajectory
from worlds import alone, losses

from quokka_ray.diffusion.likelihood import validation_loss
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import DiffusionConfig, fit_to_kernel
from quokka_ray.training.cuda_graphs import Replayed
from quokka_ray.training.dropout import dropout_keys
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train
from quokka_ray.training.trained import last_checkpoint, load_model

KINDS = {
    "mask": DiffusionConfig(),
    "uniform": DiffusionConfig(kernel="uniform"),
    "next_token": DiffusionConfig(kernel="none", objective="next_token"),
}


def configured(corpus, kind, **options):
    """Return a trajectory trained under one kind of noise."""
    diffusion = KINDS[kind]
    config = trajectory(corpus, model=fit_to_kernel(MODEL, diffusion), **options)
    return config.model_copy(update={"diffusion": diffusion})


def stepped(corpus, config, steps=6, capture=None):
    windows = corpus.window_order(config.unique_tokens, 32, config.seed)
    trainer = Trainer(config, windows, "cpu")
    if capture is not None:
        trainer._replayed = Replayed(trainer._learn, trainer._parameters, capture)
        trainer._may_replay = lambda rows: True
    for _ in range(steps):
        trainer.advance()
    return trainer


def test_a_rate_of_zero_changes_no_bit_and_any_other_all(corpus, monkeypatch):
    fused = stepped(corpus, trajectory(corpus))
    assert stepped(corpus, trajectory(corpus, dropout=0.0)).smoothed_loss == fused.smoothed_loss
    assert fused.fused is not None
    monkeypatch.setattr("quokka_ray.training.loop.fused_step", lambda *_: None)
    plain = stepped(corpus, trajectory(corpus))
    dropping = stepped(corpus, trajectory(corpus, dropout=0.1))
    assert dropping.smoothed_loss != plain.smoothed_loss
    # Of the same size: a tenth of the elements, and no shift of the others.
    assert dropping.smoothed_loss.item() == pytest.approx(plain.smoothed_loss.item(), rel=0.02)


def test_tiny_models_that_drop_are_left_to_autograd(corpus):
    assert stepped(corpus, trajectory(corpus, dropout=0.1), steps=1).fused is None


def test_keys_follow_the_seed_and_the_step_alone():
    assert (dropout_keys(1, 5, 8) == dropout_keys(1, 5, 8)).all()
    others = [dropout_keys(1, 6, 8), dropout_keys(2, 5, 8)]
    assert all((other != dropout_keys(1, 5, 8)).all() for other in others)
    assert (dropout_keys(1, 5, 64)[:8] == dropout_keys(1, 5, 8)).all()


@pytest.mark.parametrize("kind", ["mask", "uniform", "next_token"])
def test_two_processes_and_micro_batches_drop_what_one_process_does(corpus, pair, kind):
    config = configured(corpus, kind, steps=12, dropout=0.2)
    expected = alone(losses, config, 12)
    assert expected != alone(losses, configured(corpus, kind, steps=12), 12)
    parts = configured(corpus, kind, steps=12, dropout=0.2, micro_batch_sequences=3)
    assert alone(losses, parts, 12) == pytest.approx(expected, rel=1e-9, abs=0)
    for sharded in (False, True):
        for these in pair(losses, config, 12, sharded):
            assert these == pytest.approx(expected, rel=1e-9, abs=0)


def test_a_resumed_run_equals_a_straight_one_to_the_bit(corpus, tmp_path):
    config = trajectory(corpus, dropout=0.1, steps=30)
    polls = iter(range(13))
    straight = train(config, tmp_path / "straight", report=lambda row: None)
    first = train(
        config,
        tmp_path / "resumed",
        report=lambda row: None,
        should_stop=lambda: next(polls, None) is None,
    )
    second = train(config, tmp_path / "resumed", report=lambda row: None)
    assert first.status == "interrupted"
    assert second == straight


def test_an_evaluation_drops_nothing(corpus, tmp_path):
    config = trajectory(corpus, dropout=0.5, steps=30)
    outcome = train(config, tmp_path, report=lambda row: None)
    model = load_model(last_checkpoint(tmp_path)).model
    model.dropout = 0.0
    windows = corpus.validation_windows(32, config.evaluation.sequences, config.evaluation.seed)
    found = validation_loss(
        model, windows, config.evaluation, config.vocab_size, "cpu", config.diffusion
    )
    assert outcome.loss == found.loss


def test_a_block_that_runs_twice_drops_the_same(corpus, monkeypatch):
    monkeypatch.setattr("quokka_ray.training.loop.fused_step", lambda *_: None)
    once = stepped(corpus, trajectory(corpus, dropout=0.2, activation_checkpointing="never"))
    twice = stepped(corpus, trajectory(corpus, dropout=0.2, activation_checkpointing="always"))
    assert twice.model.checkpointing
    assert twice.smoothed_loss == once.smoothed_loss


def test_a_graph_reads_the_keys_of_each_step(corpus):
    def capture(function):
        result = function()
        return lambda: result.copy_(function()), result

    config = trajectory(corpus, dropout=0.2)
    found, expected = stepped(corpus, config, capture=capture), stepped(corpus, config)
    assert found.smoothed_loss.item() == pytest.approx(expected.smoothed_loss.item(), rel=1e-6)
    pairs = zip(found.model.parameters(), expected.model.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_run_is_not_gone_on_with_at_another_rate(corpus, tmp_path):
    train(trajectory(corpus, steps=2), tmp_path, report=lambda row: None)
    with pytest.raises(ConfigurationError, match="another run"):
        train(trajectory(corpus, steps=2, dropout=0.1), tmp_path, report=lambda row: None)
