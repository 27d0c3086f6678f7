import itertools

import pytest

from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import count_params
from quokka_ray.model.shapes import depth_of, ladder, make_shape, shape_for
from quokka_ray.study.config import ModelConfig

TINY = ModelConfig(
    seq_len=64, head_dim=8, ffn_multiple=8, rope_base=100, embedding_norm=True, conv_width=3
)


@pytest.mark.parametrize("model", [TINY, ModelConfig(), ModelConfig(head_dim=128)])
@pytest.mark.parametrize("vocab_size", [50, 257, 50_257])
def test_ladder_is_strictly_increasing_and_passes_ten_billion(model, vocab_size):
    sizes = [count_params(s, model, vocab_size) for s in ladder(model, vocab_size, 0, 1e15)]
    assert all(a < b for a, b in itertools.pairwise(sizes))
    assert sizes[-1] > 1e10


def test_tiny_family_has_the_known_two_layer_sizes():
    sizes = {s.d_model: count_params(s, TINY, 50) for s in ladder(TINY, 50, 0, 3e5)}
    known = {8: 2.1e3, 16: 6.8e3, 24: 15.2e3, 32: 26.9e3, 48: 58e3, 64: 101e3, 96: 227e3}
    for d_model, params in known.items():
        assert sizes[d_model] == pytest.approx(params, rel=0.05)
    assert {s.layers for s in ladder(TINY, 50, 0, 3e5)} == {2}


def test_depth_never_falls_and_meets_its_anchors():
    depths = [depth_of(d) for d in range(8, 8192)]
    assert all(a <= b for a, b in itertools.pairwise(depths))
    assert (depth_of(8), depth_of(128), depth_of(1024), depth_of(4096)) == (2, 2, 18, 41)


def test_every_shape_keeps_the_head_width_and_the_gated_width():
    for model in (TINY, ModelConfig()):
        for shape in ladder(model, 50_257, 0, 1e11):
            assert shape.heads * model.head_dim == shape.d_model
            assert shape.ffn % model.ffn_multiple == 0
            assert abs(shape.ffn - 8 * shape.d_model / 3) <= model.ffn_multiple / 2 + 1e-9


def test_gaps_are_small_where_depth_can_fill_them():
    sizes = [
        count_params(s, ModelConfig(), 50_257) for s in ladder(ModelConfig(), 50_257, 4e7, 2e10)
    ]
    assert max(b / a for a, b in itertools.pairwise(sizes)) < 1.25


def test_shape_for_takes_the_nearest_in_log_size():
    for params in (2_500, 10_000, 40_000, 1.9e6):
        chosen = count_params(shape_for(params, TINY, 50), TINY, 50)
        others = [count_params(s, TINY, 50) for s in ladder(TINY, 50, 0, 1e9)]
        ratio = max(chosen / params, params / chosen)
        assert all(ratio <= max(n / params, params / n) for n in others)


def test_sizes_off_the_ladder_are_refused_with_its_ends():
    with pytest.raises(ConfigurationError, match="sizes run from 2,200"):
        shape_for(100, TINY, 50)
    with pytest.raises(ConfigurationError, match=r"multiple of model\.head_dim"):
        make_shape(20, 2, TINY)
