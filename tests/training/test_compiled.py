import json
import logging

import pytest
import torch
from torch import nn
from trajectories import trajectory

from quokka_ray.study.config import DiffusionConfig
from quokka_ray.training import compiled
from quokka_ray.training.loop import Trainer
from quokka_ray.training.run import train


def windows(corpus, config):
    return corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)


def trained(corpus, config, steps):
    trainer = Trainer(config, windows(corpus, config), "cpu")
    for _ in range(steps):
        trainer.advance()
    return trainer


def modes(folder, kind):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["mode"] for row in rows if row["kind"] == kind]


@pytest.fixture(autouse=True)
def no_fused_step(monkeypatch):
    """Leave the tiny models of these tests to autograd."""
    monkeypatch.setattr("quokka_ray.training.loop.fused_step", lambda *_: None)


@pytest.fixture
def no_code_generation(monkeypatch):
    """Trace and differentiate blocks as ever, but run the graphs without compiling code."""
    original = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **kw: original(self, backend="aot_eager", **kw)
    )
    yield
    torch._dynamo.reset()


def test_a_short_run_on_a_cpu_stays_uncompiled_and_says_so(corpus, tmp_path):
    config = trajectory(corpus, steps=20)
    train(config, tmp_path, report=lambda row: None)
    assert modes(tmp_path, "observation") == ["eager"]


def test_a_run_is_compiled_once_the_steps_left_pay_for_it(corpus, no_code_generation, monkeypatch):
    monkeypatch.setattr(compiled, "_COLD_SECONDS", 0.0)
    trainer = trained(corpus, trajectory(corpus), 4)
    assert not trainer.compilation.decided
    trainer.advance()
    assert trainer.compilation.decided
    assert trainer.compilation.mode == "compiled"
    trainer.advance()
    plain = trained(corpus, trajectory(corpus, compile="never"), 6)
    torch.testing.assert_close(trainer.smoothed_loss, plain.smoothed_loss, rtol=1e-5, atol=0)
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_what_is_saved_grows_with_the_steps_left_and_their_length():
    assert compiled.predicted_saving(1000, 0.5, "cpu") == pytest.approx(60)
    assert compiled.predicted_saving(2000, 0.5, "cuda:1") == pytest.approx(150)


def test_all_layers_share_one_graph(corpus, no_code_generation):
    from torch._dynamo.utils import counters

    counters.clear()
    for _ in range(2):
        trained(corpus, trajectory(corpus, compile="always", micro_batch_sequences=4), 2)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("stop", [3, 8])
def test_a_resumed_compiled_run_equals_a_straight_one_to_the_bit(
    corpus, tmp_path, no_code_generation, monkeypatch, stop
):
    monkeypatch.setattr(compiled, "_COLD_SECONDS", 0.0)
    config = trajectory(corpus, steps=12, compile="always")
    straight = train(config, tmp_path / "straight", report=lambda row: None)
    polls = iter(range(stop))
    train(
        config,
        tmp_path / "resumed",
        report=lambda row: None,
        should_stop=lambda: next(polls, None) is None,
    )
    resumed = train(config, tmp_path / "resumed", report=lambda row: None)
    assert resumed == straight
    assert modes(tmp_path / "resumed", "observation") == ["compiled"]


def test_a_resumed_run_keeps_the_mode_that_was_decided(corpus, no_code_generation, monkeypatch):
    monkeypatch.setattr(compiled, "_COLD_SECONDS", 0.0)
    config = trajectory(corpus)
    first = trained(corpus, config, 6)
    monkeypatch.setattr(compiled, "_COLD_SECONDS", 1e9)
    second = Trainer(config, windows(corpus, config), "cpu")
    second.load_state_dict(first.model.state_dict(), first.state_dict())
    second.advance()
    assert second.compilation.mode == "compiled"
    # And one that decided against it measures no more, whatever it would find.
    plain = trained(corpus, config, 6)
    assert plain.state_dict()["mode"] == "eager"
    monkeypatch.setattr(compiled, "_COLD_SECONDS", 0.0)
    second = Trainer(config, windows(corpus, config), "cpu")
    second.load_state_dict(plain.model.state_dict(), plain.state_dict())
    for _ in range(6):
        second.advance()
    assert second.compilation.mode == "eager"


def test_blocks_that_do_not_compile_run_uncompiled_with_one_warning(corpus, monkeypatch, caplog):
    def no_compiler(self, **settings):
        def fail(*arguments, **others):
            raise RuntimeError("No working C++ compiler found\nand much more")

        self._compiled_call_impl = fail

    monkeypatch.setattr(nn.Module, "compile", no_compiler)
    with caplog.at_level(logging.WARNING):
        trainer = trained(corpus, trajectory(corpus, compile="always"), 5)
    plain = trained(corpus, trajectory(corpus, compile="never"), 5)
    assert trainer.compilation.mode == "eager"
    assert [record.message for record in caplog.records] == [
        "the blocks do not compile and run uncompiled: No working C++ compiler found"
    ]
    assert torch.equal(trainer.smoothed_loss, plain.smoothed_loss)
    for one, other in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluation_runs_uncompiled(corpus, no_code_generation):
    from torch._dynamo.utils import counters

    trainer = trained(corpus, trajectory(corpus, compile="always"), 1)
    counters.clear()
    with trainer.compilation.paused(), torch.no_grad():
        trainer.model(torch.zeros(3, 7, dtype=torch.long))
    assert counters["stats"]["unique_graphs"] == 0
    trainer.advance()
    assert trainer.compilation.mode == "compiled"
    assert all(block._compiled_call_impl is not None for block in trainer.model.blocks)


def test_attention_within_documents_is_never_compiled(corpus):
    config = trajectory(corpus, compile="always")
    model = config.model.model_copy(update={"document_attention": "within"})
    config = config.model_copy(update={"model": model, "end_of_document": 0})
    assert trained(corpus, config, 1).compilation.mode == "eager"


def test_trials_of_a_study_share_a_cache_and_lone_runs_have_torchs(tmp_path):
    trial = tmp_path / "study" / "trajectories" / "t7"
    assert compiled.study_cache(trial) == tmp_path / "study" / "compiled"
    assert compiled.study_cache(tmp_path / "run") is None


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["mask", "uniform"])
def test_generated_code_learns_what_the_plain_step_does(corpus, tmp_path, monkeypatch, kernel):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    diffusion = DiffusionConfig(kernel=kernel)
    losses = {}
    for mode in ("always", "never"):
        config = trajectory(corpus, compile=mode, optimizer="adamw", lr=3e-3)
        config = config.model_copy(update={"diffusion": diffusion})
        trainer = trained(corpus, config, 20)
        assert trainer.compilation.mode == ("compiled" if mode == "always" else "eager")
        losses[mode] = trainer.smoothed_loss.item()
    assert losses["always"] == pytest.approx(losses["never"], rel=1e-4)
    assert any(tmp_path.iterdir())
