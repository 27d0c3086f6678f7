"""Draws in float64: top-p against a plain reference, tails that float32 would lose."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quokka_ray.diffusion.drawing import draw, nucleus, token_probabilities

laws = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda law: sum(law) > 1e-3)


def reference_nucleus(law, top_p):
    """Take tokens from the most probable on until their mass reaches top_p."""
    kept, mass = np.zeros_like(law), 0.0
    for token in sorted(range(len(law)), key=lambda token: (-law[token], token)):
        if mass >= top_p:
            break
        kept[token], mass = law[token], mass + law[token]
    return kept / kept.sum()


@settings(deadline=None, max_examples=300)
@given(law=laws, top_p=st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_tokens_of_that_mass(law, top_p):
    law = np.array(law) / sum(law)
    kept = nucleus(torch.tensor(law)[None], top_p)[0].numpy()
    if top_p < 1:
        assert np.allclose(kept, reference_nucleus(law, top_p), rtol=1e-12, atol=0)
        others = kept > 0
        others[np.flatnonzero(others)[np.argmin(law[others])]] = False
        assert law[others].sum() < top_p + 1e-12
    else:
        assert (kept == law).all()
    assert abs(kept.sum() - 1) < 1e-12


def test_rows_are_cut_each_by_itself():
    law = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    kept = nucleus(law, 0.75)
    assert torch.allclose(kept, torch.tensor([[0.625, 0.375, 0], [0, 0, 1]], dtype=torch.float64))


@settings(deadline=None, max_examples=300)
@given(law=laws, uniform=st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_cumulative_sum_and_takes_nothing_impossible(law, uniform):
    law = torch.tensor(law, dtype=torch.float64)[None]
    token = int(draw(law, torch.tensor([uniform], dtype=torch.float64)))
    assert law[0, token] > 0
    below, total = float(law[0, :token].sum()), float(law.sum())
    assert below <= uniform * total * (1 + 1e-12)
    assert uniform * total <= (below + float(law[0, token])) * (1 + 1e-12)


def test_tokens_too_rare_for_float32_are_drawn():
    logits = torch.tensor([[0.0, -30.0, -31.0]], dtype=torch.float32)
    law = token_probabilities(logits, 1.0, 1.0)
    assert law.dtype == torch.float64
    tail = float(law[0, 1:].sum())
    assert 1e-13 < tail < 2e-13
    uniforms = torch.tensor([1 - 1.01 * tail, 1 - 0.99 * tail, 1 - 2**-53], dtype=torch.float64)
    assert draw(law.expand(3, -1), uniforms).tolist() == [0, 1, 2]


def test_draws_have_the_models_law():
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0])
    for temperature in (0.5, 1.0, 2.0):
        law = torch.softmax(logits.double() / temperature, 0)
        rows = token_probabilities(logits.expand(20_000, -1), temperature, 1.0)
        uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
        shares = torch.bincount(draw(rows, uniforms), minlength=4) / 20_000
        assert (shares - law).abs().max() < 5 * (0.25 / 20_000) ** 0.5


def test_temperature_0_is_argmax():
    logits = torch.tensor([[0.1, 0.3, 0.2], [5.0, -1.0, 5.0]])
    assert token_probabilities(logits, 0, 0.5).tolist() == [[0, 1, 0], [1, 0, 0]]
