import pytest
import torch
from torch.nn import functional

from quokka_ray.model.documents import Documents
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import ModelConfig

END = 10
PLAIN = ModelConfig(
    seq_len=32, head_dim=8, ffn_multiple=8, init_std=0.3, document_attention="within"
)
RICH = PLAIN.model_copy(update={"embedding_norm": True, "conv_width": 5})
CAUSAL = RICH.model_copy(update={"causal": True})


def build(model):
    module = DiffusionTransformer(make_shape(16, 2, model), model, 11, end_of_document=END)
    module.initialise(model, 0)
    return module


def packed():
    """Return two rows: documents of 9, 1 and 22 positions, and of 32."""
    tokens = torch.randint(10, (2, 32), generator=torch.Generator().manual_seed(0))
    tokens[0, 8] = tokens[0, 9] = END
    return tokens


@pytest.mark.parametrize("model", [PLAIN, RICH, CAUSAL])
def test_a_change_in_one_document_changes_no_logits_of_another(model):
    module, tokens = build(model), packed()
    logits = module.logits(module(tokens))
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 10
    difference = (module.logits(module(changed)) - logits).abs().amax(-1)
    # A causal model reads an end to guess the next document's first token.
    own = slice(3, 8) if model.causal else slice(9)
    assert (difference[0, own] > 0).all()
    difference[0, own] = 0
    assert (difference == 0).all()


def test_across_documents_everything_is_seen():
    module, tokens = build(RICH.model_copy(update={"document_attention": "across"})), packed()
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 10
    difference = (module(changed) - module(tokens)).abs().amax(-1)
    assert (difference[0] > 0).all()


@pytest.mark.parametrize("model", [PLAIN, RICH, CAUSAL])
def test_a_document_has_the_logits_that_it_has_alone(model):
    module, tokens = build(model), packed()
    whole = module(tokens)
    # Alone it starts at position 0: rotary positions that run on make no difference.
    opening = 9 if model.causal else 10
    second = module(tokens[:1, opening:])
    torch.testing.assert_close(second, whole[:1, opening:], rtol=1e-4, atol=1e-5)
    last = 8 if model.causal else 9
    first = module(tokens[:1, :last])
    torch.testing.assert_close(first, whole[:1, :last], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [RICH, CAUSAL])
def test_a_window_of_one_document_is_as_across(model):
    within, across = build(model), build(model.model_copy(update={"document_attention": "across"}))
    tokens = packed()[1:]
    torch.testing.assert_close(within(tokens), across(tokens), rtol=1e-4, atol=1e-5)


def test_an_end_that_is_masked_is_not_seen():
    tokens = packed()
    tokens[0, 8] = 11
    assert Documents(tokens, END).ids[0].tolist() == [0] * 10 + [1] * 22
    module = build(RICH)
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 10
    difference = (module(changed) - module(tokens)).abs().amax(-1)[0]
    assert (difference[:10] > 0).all()
    assert (difference[10:] == 0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_both_ways_of_attending_equal_a_dense_mask(causal, scale):
    documents = Documents(packed(), END, causal)
    q, k, v = torch.randn(3, 2, 2, 32, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    same = documents.ids[:, :, None] == documents.ids[:, None]
    if causal:
        same = same & torch.ones(32, 32, dtype=torch.bool).tril()
    dense = functional.scaled_dot_product_attention(q, k, v, attn_mask=same[:, None], scale=scale)
    for attend in (documents.attend_in_turn, documents.attend_in_blocks):
        torch.testing.assert_close(attend(q, k, v, scale), dense, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_queries_that_autocast_left_wider_than_values_are_attended_to_in_the_values_type():
    documents = Documents(packed(), END)
    q, k, v = torch.randn(3, 2, 2, 32, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    mixed = documents.attend_in_blocks(q, k, v.bfloat16())
    assert mixed.dtype == torch.bfloat16
    wide = documents.attend_in_blocks(q, k, v)
    torch.testing.assert_close(mixed.float(), wide, rtol=2e-2, atol=2e-2)


def test_gradients_stay_within_their_document():
    module, tokens = build(RICH), packed()
    embedded = []

    def keep(_, arguments):
        embedded.append(arguments[0])
        arguments[0].retain_grad()

    module.blocks[0].register_forward_pre_hook(keep)
    module(tokens)[0, 10:].square().sum().backward()
    gradient = embedded[0].grad.abs().amax(-1)
    assert (gradient[0, 10:] > 0).all()
    assert (gradient[0, :10] == 0).all()
    assert (gradient[1] == 0).all()


def test_without_a_token_that_ends_documents_within_is_refused():
    with pytest.raises(ValueError, match="end_of_document"):
        DiffusionTransformer(make_shape(16, 2, PLAIN), PLAIN, 11)
