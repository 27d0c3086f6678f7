"""The fused step, of torch's operations and in C, against the plain model under autograd."""

import pytest
import torch
from torch.nn import functional
from trajectories import MODEL, trajectory

from quokka_ray.diffusion.build import build_objective
from quokka_ray.diffusion.likelihood import validation_loss
from quokka_ray.model import transformer
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import DiffusionConfig, EvaluationConfig
from quokka_ray.training import fused_step as fused
from quokka_ray.training.loop import Trainer
from quokka_ray.training.native.build import library
from quokka_ray.training.native.step import NativeStep

TRANSFER = {"transfer": "completep", "transfer_base_width": 8, "transfer_base_layers": 4}


def trainer_of(corpus, steps=60, **changes):
    config = trajectory(corpus, steps=steps, **changes)
    windows = corpus.window_order(config.unique_tokens, config.model.seq_len, config.seed)
    return Trainer(config, windows, "cpu")


@pytest.fixture(params=["torch", "native"])
def way(request):
    """How the step is computed; the second only where there is a compiler for it."""
    if request.param == "native" and library(torch.float64) is None:
        pytest.skip("no C compiler that has vector types")
    return request.param


@pytest.fixture
def double(monkeypatch, way):
    """Take the plain model's casts to float32 away, and return what makes a trainer float64."""

    def rotate(x, table):
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2)

    def logits(self, rows):
        rows = rows * self.transfer.logits
        return functional.linear(rows, self.embedding.weight[: self.vocab_size])

    monkeypatch.setattr(transformer, "rotate", rotate)
    monkeypatch.setattr(DiffusionTransformer, "logits", logits)

    def convert(trainer):
        trainer.model.double()
        trainer.model.rotary = trainer.model.rotary.to(torch.complex128)
        trainer.smoothed_loss = trainer.smoothed_loss.double()
        native = way == "native"
        trainer.fused = fused.fused_step(trainer.model, trainer._objective, native)
        assert isinstance(trainer.fused, NativeStep) == native
        return trainer

    return convert


def stir(model, size=0.2):
    """Move all parameters away from where zeros and ones would hide an error."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=size)


def gradients(trainer, batch, tokens):
    for parameter in trainer.model.parameters():
        parameter.grad = None
    loss = trainer._learn(tokens, batch)
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters()}


def compare(trainer, seq_len=32):
    clean = trainer._windows.batch(0, 8)[:, :seq_len]
    draw = trainer._objective.draw(0, 3, trainer._windows.batch(0, 8))
    # Masks of whole windows, cut to what is seen of them.
    keep = draw.flat % trainer.config.model.seq_len < seq_len
    rows = draw.flat // trainer.config.model.seq_len
    flat = (rows * seq_len + draw.flat % trainer.config.model.seq_len)[keep]
    batch = type(draw)(draw.normaliser, flat=flat, weights=draw.weights[keep].astype("float64"))
    batch, tokens = batch.map(torch.from_numpy), torch.from_numpy(clean.copy())
    loss, ours = gradients(trainer, batch, tokens)
    step, trainer.fused = trainer.fused, None
    expected, theirs = gradients(trainer, batch, tokens)
    trainer.fused = step
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, gradient in theirs.items():
        error = (ours[name] - gradient).abs().max() / gradient.abs().max()
        assert error < 1e-10, name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"embedding_norm": False},
        {"conv_width": 0},
        {"conv_width": 7},
        {"qk_norm": False},
        {"norm_eps": 0.1, "head_dim": 4},
        {"family": "quokka", "head_dim": 16},
    ],
)
def test_loss_and_gradients_are_those_of_autograd(corpus, double, changes):
    trainer = double(trainer_of(corpus, model=MODEL.model_copy(update=changes)))
    stir(trainer.model)
    compare(trainer)


def test_they_are_under_a_rule_of_transfer(corpus, double):
    trainer = double(trainer_of(corpus, **TRANSFER))
    stir(trainer.model)
    compare(trainer)


def test_they_are_where_scores_are_too_large_for_their_exponentials(corpus, double):
    trainer = double(trainer_of(corpus))
    stir(trainer.model)
    with torch.no_grad():
        for block in trainer.model.blocks:
            block.attention.qk_gain.mul_(30)
    compare(trainer)


def test_they_are_in_parts_and_on_shorter_windows(corpus, double, monkeypatch):
    monkeypatch.setattr(fused, "_POSITIONS", 96)
    trainer = double(trainer_of(corpus))
    stir(trainer.model)
    compare(trainer)
    compare(trainer, seq_len=20)
    # Two positions: a convolution's outer taps read little, and some rows have no mask.
    compare(trainer, seq_len=2)


@pytest.mark.parametrize(
    "diffusion",
    [
        {"objective": "maskgit"},
        {"objective": "megadlm", "mask_sampler": "independent"},
        {"noise_schedule": "cosine"},
        {"mask_sampler": "independent"},
    ],
)
def test_every_objective_of_masks_is_covered(corpus, double, diffusion):
    trainer = trainer_of(corpus)
    trainer._objective = build_objective(DiffusionConfig(**diffusion), corpus.vocab_size, 32, 60)
    double(trainer)
    stir(trainer.model)
    assert trainer.fused is not None
    compare(trainer)


@pytest.mark.parametrize("seq_len", [32, 20])
def test_the_validation_loss_is_the_plain_models(corpus, monkeypatch, way, seq_len):
    # Two whole parts and a smaller one.
    monkeypatch.setattr(fused, "_POSITIONS_READ", 512)
    trainer = trainer_of(corpus)
    trainer.fused = fused.fused_step(trainer.model, trainer._objective, way == "native")
    stir(trainer.model)
    windows = corpus.validation_windows(seq_len, 40, 0)
    evaluation = EvaluationConfig(sequences=40, draws=2)
    plain, ours = (
        validation_loss(model, windows, evaluation, corpus.vocab_size)
        for model in (trainer.model, fused.FusedDenoiser(trainer.model, trainer.fused))
    )
    assert ours.per_sequence == pytest.approx(plain.per_sequence, rel=1e-5)
    assert ours.loss == pytest.approx(plain.loss, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_twenty_steps_in_double_precision_are_those_of_autograd(corpus, double, optimizer):
    ours, plain = (
        double(trainer_of(corpus, optimizer=optimizer, lr=3e-3, micro_batch_sequences=6))
        for _ in range(2)
    )
    plain.fused = None
    for _ in range(20):
        ours.advance()
        plain.advance()
        torch.testing.assert_close(ours.grad_norm, plain.grad_norm, rtol=1e-8, atol=0)
    assert ours.smoothed_loss.item() == pytest.approx(plain.smoothed_loss.item(), rel=1e-9)
    for ours_, plain_ in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours_, plain_, rtol=0, atol=1e-9)


@pytest.mark.parametrize("compiling", ["auto", "never"])
def test_two_hundred_steps_come_to_the_loss_of_autograd(corpus, compiling):
    ours = trainer_of(corpus, steps=200, compile=compiling)
    plain = trainer_of(corpus, steps=200, compile="never")
    assert isinstance(ours.fused, NativeStep) == (compiling == "auto")
    plain.fused = None
    for _ in range(200):
        ours.advance()
        plain.advance()
    assert ours.smoothed_loss.item() == pytest.approx(plain.smoothed_loss.item(), rel=2e-3)


@pytest.mark.parametrize(
    ("changes", "diffusion"),
    [
        ({"causal": True}, {}),
        ({"time_conditioning": True}, {}),
        ({"document_attention": "within"}, {}),
        ({"seq_len": 512}, {}),
        ({}, {"kernel": "uniform"}),
    ],
)
def test_what_it_does_not_cover_is_left_to_autograd(corpus, changes, diffusion):
    model = MODEL.model_copy(update=changes)
    config = trajectory(corpus, model=model)
    module = DiffusionTransformer(
        config.shape, model, corpus.vocab_size, end_of_document=corpus.vocab_size - 1
    )
    objective = build_objective(DiffusionConfig(**diffusion), corpus.vocab_size, model.seq_len, 60)
    assert fused.fused_step(module, objective) is None


@pytest.mark.parametrize("training", [{"precision": "bf16"}, {"compile": "always"}])
def test_what_a_run_asks_for_comes_first(corpus, training):
    assert trainer_of(corpus).fused is not None
    assert trainer_of(corpus, **training).fused is None


def test_models_that_would_leave_the_caches_stay_with_torch(corpus):
    wide = trainer_of(corpus, d_model=136)
    assert wide.fused is not None
    assert not isinstance(wide.fused, NativeStep)
