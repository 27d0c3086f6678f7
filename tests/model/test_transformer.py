import math

import pytest
import torch

from quokka_ray.model.shapes import make_shape
from quokka_ray.model.time_conditioning import TIME_FEATURES, time_features
from quokka_ray.model.transformer import DiffusionTransformer, rotary_table, rotate
from quokka_ray.study.config import ModelConfig

PLAIN = ModelConfig(seq_len=32, head_dim=8, ffn_multiple=8, init_std=0.3)
RICH = PLAIN.model_copy(update={"embedding_norm": True, "conv_width": 3})


def build(model, seed=0, vocab_size=11):
    shape = make_shape(16, 2, model)
    module = DiffusionTransformer(shape, model, vocab_size, end_of_document=vocab_size - 1)
    module.initialise(model, seed)
    return module


@pytest.mark.parametrize("model", [PLAIN, RICH, PLAIN.model_copy(update={"qk_norm": False})])
def test_every_position_sees_every_other_and_the_rows_of_a_batch_do_not_mix(model):
    module = build(model)
    tokens = torch.randint(11, (2, 32))
    hidden = module(tokens)
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 11
    difference = (module(changed) - hidden).abs().amax(-1)
    assert (difference[0] > 0).all()
    assert (difference[1] == 0).all()


def test_logits_cover_the_real_tokens_and_never_the_mask():
    module = build(RICH)
    assert module.embedding.weight.shape[0] == 12
    assert module.mask_id == 11
    rows = module(torch.full((1, 32), module.mask_id)).flatten(0, 1)
    assert module.logits(rows).shape == (32, 11)
    assert module.logits(rows).dtype == torch.float32


def test_the_embedding_and_the_head_are_one_matrix():
    module = build(RICH)
    names = [name for name, _ in module.named_parameters()]
    assert sum("embedding.weight" in name for name in names) == 1
    tokens = torch.randint(11, (1, 32))
    module.logits(module(tokens).flatten(0, 1)).sum().backward()
    unseen = torch.tensor([v for v in range(11) if v not in tokens.unique()])
    assert unseen.numel() == 0 or module.embedding.weight.grad[unseen].abs().sum() > 0
    assert module.embedding.weight.grad[11].abs().sum() == 0


def test_zero_initialised_residuals_make_the_blocks_start_as_identity():
    module = build(RICH.model_copy(update={"zero_init_residual": True}))
    tokens = torch.randint(11, (2, 32))
    straight = module.final_norm(module.embedding_norm(module.embedding(tokens)))
    torch.testing.assert_close(module(tokens), straight)


def test_initialisation_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = build(RICH, seed=3).state_dict()
    torch.manual_seed(2)
    second, third = build(RICH, seed=3).state_dict(), build(RICH, seed=4).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["embedding.weight"], third["embedding.weight"])
    assert first["embedding.weight"].std() == pytest.approx(0.3, rel=0.2)


def test_rotation_makes_scores_depend_on_the_distance_alone():
    table = rotary_table(32, 8, 100.0)
    pair = torch.randn(2, 1, 8)
    turned = rotate(pair.expand(1, 32, 2, 1, 8), table)[0, :, :, 0]
    scores = turned[:, 0] @ turned[:, 1].T
    for distance in (-5, 0, 9):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    assert scores.diagonal(0)[0] == pytest.approx(float(pair[0, 0] @ pair[1, 0]), abs=1e-5)
    assert table[3, 0, 0, 1].angle().item() == pytest.approx(3 / math.sqrt(math.sqrt(100)))


def test_the_convolution_is_centred_and_starts_as_identity():
    module = build(RICH)
    conv = module.blocks[0].attention.conv
    x = torch.randn(2, 32, 16)
    torch.testing.assert_close(conv(x), x)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 0.0, 0.0]).expand(16, 3))
    torch.testing.assert_close(conv(x)[:, 1:], x[:, :-1])
    assert (conv(x)[:, 0] == 0).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"causal": True}, {"time_conditioning": True}, {"document_attention": "within"}],
)
def test_half_precision_keeps_its_logits_in_float32_and_near(changes):
    module = build(RICH.model_copy(update=changes))
    tokens, time = torch.randint(11, (2, 32)), torch.tensor([0.2, 0.7])
    full = module.logits(module(tokens, time).flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        half = module.logits(module(tokens, time).flatten(0, 1))
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize("model", [PLAIN, RICH, RICH.model_copy(update={"conv_width": 5})])
def test_a_causal_model_sees_no_later_token_and_every_earlier_one(model):
    module = build(model.model_copy(update={"causal": True}))
    tokens = torch.randint(11, (1, 32))
    hidden = module(tokens)
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 11
    difference = (module(changed) - hidden).abs().amax(-1)[0]
    assert (difference[:20] == 0).all()
    assert (difference[20:] > 0).all()


def test_a_causal_prefix_gives_the_states_of_the_whole():
    module = build(RICH.model_copy(update={"causal": True}))
    tokens = torch.randint(11, (2, 32))
    torch.testing.assert_close(module(tokens[:, :9]), module(tokens)[:, :9])


TIMED = RICH.model_copy(update={"time_conditioning": True})


def test_an_untrained_model_takes_no_notice_of_time_and_a_trained_one_does():
    module, untold = build(TIMED), build(RICH)
    tokens = torch.randint(11, (2, 32))
    early, late = torch.tensor([0.1, 0.1]), torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert torch.equal(module(tokens, early), module(tokens, late))
    assert torch.equal(module(tokens, early), untold(tokens, late))
    module.logits(module(tokens, late).flatten(0, 1)).square().sum().backward()
    gradient = module.time_conditioning.leave.weight.grad
    with torch.no_grad():
        module.time_conditioning.leave.weight.sub_(gradient, alpha=0.1 / gradient.abs().max())
    difference = (module(tokens, early) - module(tokens, late)).abs().amax((1, 2))
    assert difference[0] == 0
    assert difference[1] > 1e-3


def test_a_time_that_is_needed_and_missing_is_an_error():
    with pytest.raises(ValueError, match="conditioned on time"):
        build(TIMED)(torch.zeros(1, 4, dtype=torch.int64))


def test_times_a_thousandth_apart_are_told_apart():
    features = time_features(torch.linspace(0, 1, 1001))
    assert features.shape == (1001, TIME_FEATURES)
    assert features.abs().max() <= 1
    assert torch.cdist(features, features).fill_diagonal_(9).min() > 0.3


def test_a_large_table_gets_the_gradient_of_a_dense_lookup(monkeypatch):
    family = ModelConfig(seq_len=8, head_dim=8, ffn_multiple=8)
    vocab = (1 << 20) // 16
    module = DiffusionTransformer(make_shape(16, 2, family), family, vocab)
    module.initialise(family, 0)
    tokens = torch.randint(50, (4, 8), generator=torch.Generator().manual_seed(0))

    def gradient():
        module.zero_grad()
        states = module(tokens).flatten(0, 1)
        module.logits(states[:3]).logsumexp(-1).sum().backward()
        assert not module.embedding.weight.grad.is_sparse
        return module.embedding.weight.grad

    assert module._adds_few_rows(tokens)
    few = gradient()
    monkeypatch.setattr(DiffusionTransformer, "_adds_few_rows", lambda self, tokens: False)
    torch.testing.assert_close(few, gradient())
