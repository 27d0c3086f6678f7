import json
import math
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
    head_fraction,
    masked_fraction,
    training_flops,
)
from quokka_ray.model.shapes import ladder, make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import DiffusionConfig, EvaluationConfig, ModelConfig
from quokka_ray.study.trajectory import Shape

TINY = ModelConfig(
    seq_len=64, head_dim=8, ffn_multiple=8, rope_base=100, embedding_norm=True, conv_width=3
)


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


def counted_by_torch(module, model, run):
    """Return the FLOPs of the forward and of the backward pass of run(hidden states)."""
    tokens, time = torch.randint(50, (4, 64)), torch.rand(4)
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        with forward:
            loss = module.logits(run(module(tokens, time))).sum()
        with backward:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("kernel", ["uniform", "none"])
def test_flops_of_other_kernels_equal_torchs_own_counter(kernel):
    objective = "next_token" if kernel == "none" else "elbo"
    diffusion = DiffusionConfig(kernel=kernel, objective=objective)
    causal = kernel == "none"
    changes = {"conv_width": 0, "causal": causal, "time_conditioning": not causal}
    model = TINY.model_copy(update=changes)
    shape = make_shape(24, 2, model)
    module = DiffusionTransformer(shape, model, 50)
    module.initialise(model, seed=0)
    forward, backward = counted_by_torch(module, model, lambda hidden: hidden.flatten(0, 1))
    trained = training_flops(shape, model, 50, 4 * 64, diffusion)
    assert forward + backward == pytest.approx(trained, rel=1e-12)
    evaluation = EvaluationConfig(sequences=4, draws=1)
    evaluated = evaluation_flops(shape, model, 50, evaluation, diffusion)
    assert forward == pytest.approx(evaluated, rel=1e-12)


def test_time_conditioning_is_counted_in_the_parameters():
    timed = TINY.model_copy(update={"time_conditioning": True})
    for shape in ladder(timed, 50, 0, 1e5):
        built, embedding = built_size(shape, timed, 50)
        assert count_params(shape, timed, 50) == built
        assert count_params_non_embedding(shape, timed, 50) == built - embedding


def test_an_autoregressive_model_is_evaluated_in_one_pass():
    diffusion = DiffusionConfig(kernel="none", objective="next_token")
    one, many = (
        evaluation_flops(make_shape(24, 2, TINY), TINY, 257, evaluation, diffusion)
        for evaluation in (EvaluationConfig(draws=1), EvaluationConfig(draws=8))
    )
    assert one == many


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 65 / 128),
        ({"kernel": "hybrid"}, 1),
        ({"kernel": "none", "objective": "next_token"}, 1),
        ({"mask_sampler": "stratified"}, 0.5),
        ({"mask_sampler": "stratified", "noise_schedule": "poly2"}, 1 / 3),
        ({"mask_sampler": "stratified", "noise_schedule": "cosine"}, 2 / math.pi),
        ({"mask_sampler": "stratified", "noise_schedule": "poly", "noise_power": 3}, 0.25),
        ({"mask_sampler": "importance", "time_min": 0.01}, 0.99 / math.log(100)),
    ],
)
def test_the_head_is_counted_where_training_computes_logits(changes, share):
    assert head_fraction(DiffusionConfig(**changes), 64) == pytest.approx(share, rel=1e-3)


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


SMDM = json.loads((Path(__file__).parent / "data" / "smdm_sizes.json").read_text())


@pytest.mark.parametrize("row", SMDM["rows"], ids=lambda row: row[0])
def test_counts_equal_all_thirty_sizes_of_smdm(row):
    _, layers, d_model, heads, ffn, non_embedding, untied, full, half = row
    model = ModelConfig(seq_len=SMDM["seq_len"], head_dim=d_model // heads, qk_norm=False)
    shape = Shape(d_model=d_model, layers=layers, heads=heads, ffn=ffn)
    vocab_size = SMDM["vocab_size"]
    assert count_params_non_embedding(shape, model, vocab_size) == non_embedding
    # Its head is a second table, without a row for the mask.
    assert count_params(shape, model, vocab_size) + vocab_size * d_model == untied
    assert flops_per_token(shape, model, vocab_size, head_fraction=1) == full
    assert flops_per_token(shape, model, vocab_size, head_fraction=0.5) == half


def test_counts_equal_those_of_megadlms_script_of_1_7_billion():
    model = ModelConfig(seq_len=2048, head_dim=128)
    shape = Shape(d_model=2048, layers=28, heads=16, ffn=6144)
    assert flops_per_token(shape, model, 50_304, head_fraction=1) == 11_187_781_632
    norms = 28 * (2 * 2048 + 2 * 128) + 2048
    matrices = count_params_non_embedding(shape, model, 50_304) - norms
    assert matrices == 1_526_726_656
    # In all it counts matrices and two tables of 50,304 rows, but no norms.
    assert matrices + 2 * 50_304 * 2048 == 1_732_771_840
