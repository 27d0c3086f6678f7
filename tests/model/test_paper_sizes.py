import itertools

import pytest

from quokka_ray.model.counts import count_params, count_params_non_embedding, head_dim_of
from quokka_ray.model.paper_sizes import PAPER_SIZES
from quokka_ray.model.shapes import ladder, shape_for
from quokka_ray.study.config import ModelConfig

# Its embedding has 50,304 rows, the last of them the mask's.
VOCABULARY = 50_303
FAMILY = ModelConfig(family="quokka")


@pytest.mark.parametrize("size", PAPER_SIZES, ids=lambda size: size.nominal)
def test_every_row_has_the_papers_parameters(size):
    total = count_params(size.shape, FAMILY, VOCABULARY)
    assert f"{total / 1e6:.1f}" == f"{size.total_millions:.1f}"
    assert round(12 * size.layers * size.d_model**2 / 1e6) == size.nominal


def test_the_released_billion_has_its_own_vocabulary():
    (size,) = (size for size in PAPER_SIZES if size.nominal == 1002)
    assert size.shape.ffn == 4736
    assert count_params(size.shape, FAMILY, 50_268) == pytest.approx(1086e6, rel=2e-4)


def test_rows_whose_heads_are_not_as_wide_as_the_model_are_told():
    odd = [
        (s.nominal, s.heads * s.kv_size) for s in PAPER_SIZES if s.heads * s.kv_size != s.d_model
    ]
    assert odd == [
        (5, 224),
        (14, 224),
        (10_682, 4096),
        (11_976, 4096),
        (13_343, 4096),
        (14_653, 4096),
    ]


def test_the_paper_s_family_is_its_table_in_order():
    shapes = ladder(FAMILY, VOCABULARY, 0, 1e12)
    assert shapes == [size.shape for size in PAPER_SIZES]
    for vocab_size in (257, 32_000):
        sizes = [count_params(s, FAMILY, vocab_size) for s in ladder(FAMILY, vocab_size, 0, 1e12)]
        assert all(a < b for a, b in itertools.pairwise(sizes))
    assert shape_for(51e6, FAMILY, VOCABULARY).d_model == 512
    assert head_dim_of(shape_for(7e6, FAMILY, VOCABULARY), FAMILY) == 32


def test_a_size_whose_heads_are_narrower_than_the_model_builds_and_counts():
    import torch

    from quokka_ray.model.transformer import DiffusionTransformer

    (size,) = (size for size in PAPER_SIZES if size.nominal == 5)
    module = DiffusionTransformer(size.shape, FAMILY.model_copy(update={"seq_len": 16}), 100)
    built = sum(p.numel() for p in module.parameters())
    assert built == count_params(size.shape, FAMILY, 100)
    assert built - 101 * 288 == count_params_non_embedding(size.shape, FAMILY, 100)
    module.initialise(FAMILY, 0)
    assert module(torch.zeros(1, 16, dtype=torch.int64)).shape == (1, 16, 288)
