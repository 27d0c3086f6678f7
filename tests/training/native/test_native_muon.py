"""Muon in C against Muon of torch's operations."""

import pytest
import torch

from quokka_ray.training.native.build import library
from quokka_ray.training.native.muon import NativeMuon
from quokka_ray.training.optimizers import Muon

SHAPES = {
    "square": (1, 40, 40),
    "three square ones": (3, 24, 24),
    "two tall ones": (2, 104, 40),
    "lying": (1, 40, 104),
    "hardly tall": (1, 60, 48),
    "of few and odd numbers": (2, 3, 10),
    "wide enough for two vectors": (1, 88, 232),
}

pytestmark = pytest.mark.skipif(
    library(torch.float64) is None, reason="no C compiler that has vector types"
)


def pushed(kind, parameters, dtype, steps=3, scale=1.0):
    """Return what an optimiser makes of parameters and gradients drawn from one seed."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    pairs = [(torch.nn.Parameter(draw((n * r, c))), n) for n, r, c in parameters]
    optimizer = kind(pairs, lr=0.1, momentum=0.9, weight_decay=0.2)
    for _ in range(steps):
        for parameter, _ in pairs:
            parameter.grad = draw(parameter.shape) * scale
        optimizer.step()
    return [p.detach() for p, _ in pairs], optimizer


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_three_steps_are_those_of_torch(shape, dtype, close):
    (ours,), _ = pushed(NativeMuon, [shape], dtype)
    (theirs,), _ = pushed(Muon, [shape], dtype)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=close)


def test_all_shapes_of_a_model_go_together_and_leave_the_same_state():
    ours, native = pushed(NativeMuon, SHAPES.values(), torch.float64)
    theirs, plain = pushed(Muon, SHAPES.values(), torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    a, b = native.state_dict(), plain.state_dict()
    assert a["param_groups"] == b["param_groups"]
    torch.testing.assert_close(a["state"], b["state"], rtol=1e-12, atol=1e-15)


def test_a_gradient_of_zero_moves_nothing_and_a_tiny_one_does():
    shape = SHAPES["two tall ones"]
    (still,), _ = pushed(NativeMuon, [shape], torch.float32, steps=1, scale=0.0)
    (moved,), _ = pushed(NativeMuon, [shape], torch.float32, steps=1, scale=1e-8)
    (as_torch,), _ = pushed(Muon, [shape], torch.float32, steps=1, scale=1e-8)
    (start,), _ = pushed(NativeMuon, [shape], torch.float32, steps=0)
    torch.testing.assert_close(still, start * (1 - 0.1 * 0.2))
    torch.testing.assert_close(moved, as_torch, rtol=0, atol=1e-5)


def test_matrices_that_leave_the_caches_are_left_to_torch():
    ours, _ = pushed(NativeMuon, [(1, 264, 300)], torch.float32, steps=1)
    theirs, _ = pushed(Muon, [(1, 264, 300)], torch.float32, steps=1)
    assert torch.equal(ours[0], theirs[0])
