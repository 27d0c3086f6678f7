import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from quokka_ray.diffusion.masks import antithetic_masks
from quokka_ray.diffusion.objective import masked_elbo
from quokka_ray.model.counts import (
    count_params,
    count_params_non_embedding,
    evaluation_flops,
    flops_per_token,
    masked_fraction,
    training_flops,
)
from quokka_ray.model.shapes import ladder, make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import EvaluationConfig, ModelConfig
from quokka_ray.study.trajectory import Shape

TINY = ModelConfig(
    seq_len=64, head_dim=8, ffn_multiple=8, rope_base=100, embedding_norm=True, conv_width=3
)
ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "flops_params.json"


def built_size(shape, model, vocab_size):
    with torch.device("meta"):
        module = DiffusionTransformer(shape, model, vocab_size)
    return sum(p.numel() for p in module.parameters()), module.embedding.weight.numel()


@pytest.mark.parametrize(
    "changes",
    [{}, {"qk_norm": False}, {"conv_width": 0}, {"embedding_norm": False}, {"conv_width": 5}],
)
def test_counted_parameters_are_the_modules_own_on_every_small_rung(changes):
    model = TINY.model_copy(update=changes)
    for shape in ladder(model, 50, 0, 1e6):
        built, embedding = built_size(shape, model, 50)
        assert count_params(shape, model, 50) == built
        assert count_params_non_embedding(shape, model, 50) == built - embedding


def test_counted_parameters_are_the_modules_own_beyond_ten_billion():
    model = ModelConfig()
    for shape in ladder(model, 50_257, 0, 2e10)[::9]:
        assert count_params(shape, model, 50_257) == built_size(shape, model, 50_257)[0]
    assert count_params(ladder(model, 50_257, 1e10, 2e10)[0], model, 50_257) > 1e10


@pytest.mark.parametrize(("d_model", "layers", "vocab_size"), [(16, 2, 50), (24, 3, 257)])
def test_flops_equal_torchs_own_counter_forward_and_backward(d_model, layers, vocab_size):
    model = TINY.model_copy(update={"conv_width": 0})
    shape = make_shape(d_model, layers, model)
    module = DiffusionTransformer(shape, model, vocab_size)
    module.initialise(model, seed=0)
    tokens = torch.randint(vocab_size, (4, 64))
    masks = antithetic_masks(0, 0, 4, 64)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        weights = torch.from_numpy(masks.weights(64))
        masked_elbo(module, tokens, torch.from_numpy(masks.flat), weights).backward()
    counted = flops_per_token(shape, model, vocab_size) * tokens.numel()
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-12)


def test_the_convolution_costs_six_flops_a_tap_and_channel():
    shape = make_shape(24, 2, TINY)
    without = TINY.model_copy(update={"conv_width": 0})
    extra = flops_per_token(shape, TINY, 50) - flops_per_token(shape, without, 50)
    assert extra == 2 * 6 * 3 * 24


def test_evaluation_is_a_forward_pass_of_every_draw():
    shape, evaluation = make_shape(24, 2, TINY), EvaluationConfig(sequences=10, draws=3)
    tokens = 10 * 3 * 64
    expected = training_flops(shape, TINY, 257, tokens) / 3
    assert evaluation_flops(shape, TINY, 257, evaluation) == pytest.approx(expected)
    assert masked_fraction(64) == pytest.approx(0.5078125)


def test_flops_equal_those_published_for_smdm_and_megadlms():
    # SMDM's 66M row: 10 layers of width 640, ten heads, gated width 2560, 32k tokens.
    model = ModelConfig(seq_len=2048, qk_norm=False)
    shape = Shape(d_model=640, layers=10, heads=10, ffn=2560)
    assert count_params_non_embedding(shape, model, 32_000) == 65_549_440
    assert flops_per_token(shape, model, 32_000, head_fraction=1) == 673_382_400
    assert flops_per_token(shape, model, 32_000, head_fraction=0.5) == 611_942_400
    wide = ModelConfig(seq_len=2048, head_dim=128)
    shape = Shape(d_model=2048, layers=28, heads=16, ffn=6144)
    assert flops_per_token(shape, wide, 50_304, head_fraction=1) == 11_187_781_632


def test_flops_equal_every_row_of_the_oracle_table():
    if not ORACLES.exists():
        pytest.skip("needs ../shared/oracles/flops_params.json")
    for row in json.loads(ORACLES.read_text())["models"]:
        if row["n_kv"] != row["n_head"]:
            continue
        head_dim = row["n_embd"] // row["n_head"]
        model = ModelConfig(seq_len=row["seq"], head_dim=head_dim, qk_norm=False)
        shape = Shape(
            d_model=row["n_embd"], layers=row["n_layer"], heads=row["n_head"], ffn=row["ff"]
        )
        vocab, expected = row["vocab"], row["flops_per_token"]
        assert count_params_non_embedding(shape, model, vocab) == row["non_embedding"]
        full = flops_per_token(shape, model, vocab, head_fraction=1)
        half = flops_per_token(shape, model, vocab, head_fraction=0.5)
        assert full == pytest.approx(expected["exact_matmul_full_attention"], rel=1e-12)
        assert half == pytest.approx(expected["exact_head_on_half"], rel=1e-12)
