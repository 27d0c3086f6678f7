"""Dropout: how often, on average what, and independent of everything but its place."""

import numpy as np
import pytest
import torch
import torch._dynamo.testing

from quokka_ray.model.dropout import drop, sites
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import ModelConfig

MODEL = ModelConfig(seq_len=16, head_dim=8, ffn_multiple=8, init_std=0.3)


def keys(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 1 << 32, count))


def kept(rate, rows=64, seq_len=32, width=24, count=3):
    """Return which elements are kept: [count, rows, seq_len, width]."""
    of_sites, places = sites(keys(rows), seq_len, width, count)
    ones = torch.ones(rows, seq_len, width, dtype=torch.float64)
    return torch.stack([drop(ones, of_site, places, rate) for of_site in of_sites]) > 0


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_is_the_rate_in_every_row_place_and_site(rate):
    dropped = 1 - kept(rate).double()
    for over in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):
        means = dropped.mean(over)
        expected = (rate * (1 - rate) * means.numel() / dropped.numel()) ** 0.5
        assert (means - rate).abs().max() < 4.5 * expected


def test_neighbours_rows_and_sites_are_uncorrelated():
    noise = kept(0.5).double() * 2 - 1
    for dimension in range(4):
        for lag in (1, 2):
            pairs = noise.narrow(dimension, lag, noise.shape[dimension] - lag)
            others = noise.narrow(dimension, 0, noise.shape[dimension] - lag)
            assert (pairs * others).mean().abs() < 4 * pairs.numel() ** -0.5


def test_keys_of_one_bit_apart_drop_differently():
    of_sites, places = sites(torch.tensor([12345, 12344]), 64, 64, 1)
    one, other = drop(torch.ones(2, 64, 64), of_sites[0], places, 0.5) > 0
    assert (one == other).double().mean() == pytest.approx(0.5, abs=0.04)


def test_the_mean_over_keys_is_what_came_in():
    x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_sites, places = sites(keys(20_000), 8, 8, 1)
    mean = drop(x.expand(20_000, 8, 8), of_sites[0], places, 0.25).mean(0)
    torch.testing.assert_close(mean, x[0], rtol=0.03, atol=0)


def test_no_gradient_reaches_what_was_dropped():
    x = torch.ones(4, 8, 8, requires_grad=True)
    of_sites, places = sites(keys(4), 8, 8, 1)
    out = drop(x, of_sites[0], places, 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def model(dropout):
    module = DiffusionTransformer(make_shape(16, 2, MODEL), MODEL, 11, dropout=dropout)
    module.initialise(MODEL, 0)
    return module


def test_a_model_without_keys_drops_nothing():
    tokens = torch.arange(32).view(2, 16) % 11
    assert torch.equal(model(0.3)(tokens), model(0.0)(tokens))


def test_a_row_drops_alike_in_any_batch():
    module, tokens, mine = model(0.3), torch.arange(64).view(4, 16) % 11, keys(4)
    whole = module(tokens, dropout_keys=mine)
    assert not torch.equal(whole, module(tokens))
    for rows in (slice(0, 1), slice(1, 4)):
        part = module(tokens[rows], dropout_keys=mine[rows])
        torch.testing.assert_close(part, whole[rows], rtol=1e-5, atol=1e-5)


def test_compiled_blocks_drop_what_uncompiled_ones_do():
    module, tokens, mine = model(0.3), torch.arange(64).view(4, 16) % 11, keys(4)
    expected = module(tokens, dropout_keys=mine)
    counted = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for block in module.blocks:
        block.compile(backend=counted, fullgraph=True, dynamic=False)
    try:
        found = module(tokens, dropout_keys=mine)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert counted.frame_count == 1
    finally:
        torch._dynamo.reset()
