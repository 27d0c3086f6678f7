import copy

import pytest
import torch
from trajectories import MODEL, TRAINING

from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.training.optimizers import Muon, build_optimizers, norm_of, orthogonalise


def build():
    model = DiffusionTransformer(make_shape(16, 2, MODEL), MODEL, 11)
    model.initialise(MODEL, 0)
    return model


def test_orthogonalised_matrices_keep_their_directions_and_lose_their_scales():
    stack = torch.randn(5, 8, 24, generator=torch.Generator().manual_seed(0))
    stack[2] *= 1e6
    result = orthogonalise(stack)
    singular = torch.linalg.svdvals(result)
    assert singular.min() > 0.4
    assert singular.max() < 1.3
    u, _, v = torch.linalg.svd(stack, full_matrices=False)
    core = u.mT @ result @ v.mT
    off = core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-3


def test_a_fused_projection_is_updated_as_its_parts_would_be():
    torch.manual_seed(0)
    parts = [torch.nn.Parameter(torch.randn(8, 8)) for _ in range(3)]
    fused = torch.nn.Parameter(torch.cat([p.detach() for p in parts]))
    tall = torch.nn.Parameter(torch.randn(24, 8))
    apart = Muon([(p, 1) for p in parts], lr=0.1, momentum=0.9, weight_decay=0.1)
    together = Muon([(fused, 3), (tall, 1)], lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        for p in parts:
            p.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(step)) * p.detach()
        fused.grad = torch.cat([p.grad for p in parts])
        tall.grad = torch.ones_like(tall)
        apart.step()
        together.step()
        torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in parts]))


def test_first_muon_step_is_the_orthogonalised_gradient_scaled_by_shape():
    parameter = torch.nn.Parameter(torch.zeros(32, 8))
    gradient = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    optimizer = Muon([(parameter, 1)], lr=0.5, momentum=0.95, weight_decay=0.0)
    parameter.grad = gradient
    optimizer.step()
    expected = -0.5 * 2 * orthogonalise(gradient.T[None])[0].T
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(optimizer):
    model = build()
    recipe = TRAINING.model_copy(update={"optimizer": optimizer, "weight_decay": 0.5})
    optimizers = build_optimizers(model, recipe, lr=0.0)
    groups = optimizers.groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith(("qkv.weight", "out.weight", "gate_up.weight", "down.weight"))
        assert (id(parameter) in decayed) == is_matrix, name


def test_the_schedule_scales_every_groups_own_peak():
    model = build()
    optimizers = build_optimizers(model, TRAINING, lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(0.5)
    rates = sorted({group["lr"] for group in optimizers.groups})
    assert rates == pytest.approx([0.005, 0.005 * TRAINING.muon_lr_ratio])


def test_state_survives_a_round_trip():
    first, second = build(), build()
    a, b = build_optimizers(first, TRAINING, 0.01), build_optimizers(second, TRAINING, 0.01)

    def push(model, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)

    push(first, 0)
    a.step(1.0)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    second.load_state_dict(first.state_dict())
    for model, optimizers in ((first, a), (second, b)):
        push(model, 1)
        optimizers.step(0.7)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_norm_of_long_gradients_does_not_depend_on_how_ranks_share_them():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(1000, 1001, generator=generator), torch.randn(7, generator=generator)]
    exact = torch.cat([g.double().flatten() for g in gradients]).norm()
    torch.testing.assert_close(norm_of(gradients), exact, rtol=2e-7, atol=0)
    rows = norm_of([g[:300] for g in gradients]), norm_of([g[300:] for g in gradients])
    torch.testing.assert_close(rows[0].hypot(rows[1]), exact, rtol=2e-7, atol=0)


def test_the_norm_of_gradients_that_are_not_finite_is_not_finite():
    assert norm_of([torch.tensor([1.0, float("nan")])]).isnan()
    assert norm_of([torch.tensor([1.0]), torch.tensor([float("inf")])]).isinf()
