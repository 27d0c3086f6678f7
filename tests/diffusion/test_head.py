"""The head and its loss in chunks: equal to autograd's, and never all logits at once."""

import numpy as np
import pytest
import torch
from test_objectives import KINDS
from torch.utils._python_dispatch import TorchDispatchMode

from quokka_ray.diffusion import head
from quokka_ray.diffusion.build import build_objective
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import ModelConfig, fit_to_kernel
from quokka_ray.study.diffusion import DiffusionConfig

VOCAB, LENGTH, ROWS = 37, 16, 8


def denoiser(diffusion, vocab=VOCAB, dtype=torch.float64):
    family = ModelConfig(seq_len=LENGTH, head_dim=8, ffn_multiple=8, init_std=0.3)
    model = fit_to_kernel(family, diffusion)
    module = DiffusionTransformer(make_shape(16, 2, model), model, vocab)
    module.initialise(model, 3)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    return module


def loss_and_gradients(diffusion, module, vocab=VOCAB, seed=5):
    objective = build_objective(diffusion, vocab, LENGTH, 100)
    tokens = np.random.default_rng(0).integers(0, vocab, (ROWS, LENGTH))
    batch = objective.draw(seed, 40, tokens).map(torch.from_numpy)
    module.zero_grad()
    loss = objective.loss(module, torch.from_numpy(tokens), batch)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in module.parameters()]


@pytest.fixture
def in_chunks(monkeypatch):
    monkeypatch.setattr(head, "_SMALL", 0)
    monkeypatch.setattr(head, "_AT_ONCE", {"cpu": 13 * VOCAB})


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(kind, monkeypatch, in_chunks):
    diffusion = DiffusionConfig(**KINDS[kind])
    module = denoiser(diffusion)
    with monkeypatch.context() as plain:
        plain.setattr(head, "_SMALL", 1 << 40)
        whole, expected = loss_and_gradients(diffusion, module)
    loss, gradients = loss_and_gradients(diffusion, module)
    torch.testing.assert_close(loss, whole, rtol=1e-13, atol=0)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", ["elbo", "uniform", "next_token"])
def test_chunks_in_float32_differ_by_rounding(kind, monkeypatch, in_chunks):
    diffusion = DiffusionConfig(**KINDS[kind])
    exact, expected = loss_and_gradients(diffusion, denoiser(diffusion))
    loss, gradients = loss_and_gradients(diffusion, denoiser(diffusion, dtype=torch.float32))
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-5)


def test_products_in_bfloat16_keep_the_sum_and_the_matrix_gradient_in_float32(in_chunks):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 16, generator=generator, requires_grad=True)
    matrix = torch.randn(VOCAB + 1, 16, generator=generator, requires_grad=True)
    targets = torch.randint(VOCAB, (50,), generator=generator)

    class Head:
        mask_id = VOCAB

        def head(self, states):
            return states, matrix

    def run():
        rows.grad = matrix.grad = None
        head.weighted_loss(Head(), rows, VOCAB, head.cross_entropy, None, 50, targets).backward()
        return rows.grad, matrix.grad

    exact_rows, exact_matrix = run()
    with torch.autocast("cpu", torch.bfloat16):
        loss = head.weighted_loss(Head(), rows, VOCAB, head.cross_entropy, None, 50, targets)
        half_rows, half_matrix = run()
    assert loss.dtype == half_rows.dtype == half_matrix.dtype == torch.float32
    assert not (half_matrix[:VOCAB].bfloat16().float() == half_matrix[:VOCAB]).all()
    torch.testing.assert_close(half_rows, exact_rows, rtol=0, atol=0.02 * exact_rows.abs().max())
    tolerance = 0.02 * exact_matrix.abs().max()
    torch.testing.assert_close(half_matrix, exact_matrix, rtol=0, atol=tolerance)
    assert not half_matrix[VOCAB].any()


def test_a_loss_that_is_scaled_scales_its_gradients(in_chunks):
    diffusion = DiffusionConfig()
    module = denoiser(diffusion)
    objective = build_objective(diffusion, VOCAB, LENGTH, 100)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH))
    batch = objective.draw(0, 0, tokens).map(torch.from_numpy)
    parameters = list(module.parameters())
    once, thrice = (
        torch.autograd.grad(
            scale * objective.loss(module, torch.from_numpy(tokens), batch), parameters
        )
        for scale in (1, 3)
    )
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(three, 3 * one)


def test_a_truth_that_the_model_calls_impossible_costs_what_its_logits_say(in_chunks):
    # exp(-300) is 0 in float32: the loss must not come from a probability.
    class Head:
        mask_id = 2

        def head(self, states):
            return states, torch.tensor([[300.0], [0.0], [0.0]], requires_grad=True)

    rows = torch.ones(1, 1, requires_grad=True)
    loss = head.weighted_loss(Head(), rows, 2, head.cross_entropy, None, 1, torch.tensor([1]))
    assert loss.item() == 300


class Largest(TorchDispatchMode):
    """Notes the elements of all tensors that the operations inside it make."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return result


@pytest.mark.parametrize("kind", ["elbo", "uniform", "hybrid", "quokka_uniform", "next_token"])
def test_no_tensor_of_a_step_holds_the_logits_of_all_positions(kind, monkeypatch):
    vocab, at_once = 4_000, 16
    monkeypatch.setattr(head, "_SMALL", 0)
    monkeypatch.setattr(head, "_AT_ONCE", {"cpu": at_once * vocab})
    diffusion = DiffusionConfig(**KINDS[kind])
    module = denoiser(diffusion, vocab, torch.float32)
    with Largest() as seen:
        loss_and_gradients(diffusion, module, vocab)
    parameters = module.embedding.weight.numel()
    assert max(seen.sizes.values()) <= max(at_once * vocab, parameters)
    assert at_once * 4 < ROWS * LENGTH
