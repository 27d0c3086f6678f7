"""Coordinate checks: what training does to activations, over widths and depths."""

import pytest
import torch
from torch.nn import functional

from quokka_ray.model.transfer import Transfer, transfer_of
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import ModelConfig, TrainingConfig
from quokka_ray.study.trajectory import Shape
from quokka_ray.training.optimizers import build_optimizers

FAMILY = ModelConfig(seq_len=16, head_dim=8, ffn_multiple=8, rope_base=100, init_std=0.1)
BASES = {
    "none": {},
    "mup": {"transfer_base_width": 32},
    "completep": {"transfer_base_width": 32, "transfer_base_layers": 2},
}
WIDTHS, DEPTHS = (32, 64, 128, 256), (2, 4, 8, 16)


def recipe_of(transfer="none", **training):
    return TrainingConfig(**{"lr": 4e-3, "transfer": transfer, **BASES[transfer], **training})


def built(width, layers, *, zero_init=False, **training):
    recipe = recipe_of(**training)
    shape = Shape(d_model=width, layers=layers, heads=width // 8, ffn=8 * width // 3 // 8 * 8)
    family = FAMILY.model_copy(update={"zero_init_residual": zero_init})
    transfer = transfer_of(shape, recipe)
    module = DiffusionTransformer(shape, family, 50, transfer=transfer)
    module.initialise(family, 0)
    return module, build_optimizers(module, recipe, recipe.lr)


def change_of_the_stream(width, layers, *, steps=3, **training):
    """Return the root mean square of what `steps` steps change in the last block's output."""
    module, optimizers = built(width, layers, **training)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(50, (8, 16), generator=generator)
    noisy = clean.masked_fill(torch.rand(8, 16, generator=generator) < 0.5, 50)
    streams = []
    module.final_norm.register_forward_hook(lambda _, given, __: streams.append(given[0]))
    for _ in range(steps):
        logits = module.logits(module(noisy).flatten(0, 1))
        functional.cross_entropy(logits, clean.flatten()).backward()
        optimizers.step(1.0)
        for parameter in module.parameters():
            parameter.grad = None
    module(noisy)
    return (streams[-1] - streams[0]).square().mean().sqrt().item()


def spread(values):
    return max(values) / min(values)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("rule", "low", "high"), [("none", 8, 1e3), ("mup", 1, 1.8), ("completep", 1, 1.8)]
)
def test_activations_stay_level_over_width_with_transfer_and_drift_without(
    optimizer, rule, low, high
):
    changes = [change_of_the_stream(w, 2, optimizer=optimizer, transfer=rule) for w in WIDTHS]
    assert low <= spread(changes) <= high, changes


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(("rule", "low", "high"), [("none", 3, 1e3), ("completep", 1, 1.15)])
def test_activations_stay_level_over_depth_with_completep_and_drift_without(
    optimizer, rule, low, high
):
    # Output projections start at zero: depth then shows in what is learnt, not in random sums.
    recipe = {"optimizer": optimizer, "transfer": rule, "lr": 1e-3, "zero_init": True, "steps": 6}
    changes = [change_of_the_stream(64, depth, **recipe) for depth in DEPTHS]
    assert low <= spread(changes) <= high, changes


@pytest.mark.parametrize("rule", ["mup", "completep"])
def test_at_the_base_size_a_rule_changes_nothing(rule):
    shape = Shape(d_model=32, layers=2, heads=4, ffn=80)
    transfer = transfer_of(shape, recipe_of(rule))
    assert transfer == Transfer(linear_attention=True)
    plain = change_of_the_stream(32, 2)
    assert change_of_the_stream(32, 2, transfer=rule) == pytest.approx(plain, rel=1e-4)


def groups_of(module, optimizers):
    names = {id(p): name for name, p in module.named_parameters()}
    return {names[id(p)]: group for group in optimizers.groups for p in group["params"]}


def test_completep_scales_rates_decays_and_epsilon_of_adamw():
    recipe = {"transfer": "completep", "weight_decay": 0.1, "eps": 1e-8}
    module, optimizers = built(128, 8, **recipe)
    groups = groups_of(module, optimizers)
    hidden, embedding = groups["blocks.3.feed_forward.down.weight"], groups["embedding.weight"]
    assert (hidden["lr"], hidden["weight_decay"]) == pytest.approx((1e-3, 0.4))
    assert (embedding["lr"], embedding["weight_decay"]) == pytest.approx((4e-3, 0))
    assert hidden["eps"] == embedding["eps"] == pytest.approx(1e-8 / 16)


def test_mup_scales_the_rate_alone():
    module, optimizers = built(128, 8, transfer="mup", weight_decay=0.1, eps=1e-8)
    hidden = groups_of(module, optimizers)["blocks.0.attention.qkv.weight"]
    assert (hidden["lr"], hidden["weight_decay"], hidden["eps"]) == pytest.approx(
        (1e-3, 0.1, 1e-8)
    )


def test_muon_keeps_its_rate_and_decay_and_adamw_beside_it_takes_the_epsilon():
    module, optimizers = built(128, 8, optimizer="muon", transfer="completep", weight_decay=0.1)
    groups = groups_of(module, optimizers)
    hidden = groups["blocks.0.attention.qkv.weight"]
    assert (hidden["lr"], hidden["weight_decay"]) == pytest.approx((4e-3, 0.1))
    assert groups["embedding.weight"]["eps"] == pytest.approx(1e-8 / 16)


def test_hidden_matrices_start_smaller_the_wider_they_are_and_the_embedding_does_not():
    module, _ = built(128, 2, transfer="mup")
    assert module.blocks[0].attention.qkv.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert module.embedding.weight.std().item() == pytest.approx(0.1, rel=0.05)


def test_scores_are_divided_by_the_width_of_a_head_from_the_family_s_on():
    model = FAMILY.model_copy(update={"family": "quokka"})
    shape = Shape(d_model=64, layers=1, heads=2, ffn=64, head_dim=32)
    module = DiffusionTransformer(shape, model, 50, transfer=Transfer(linear_attention=True))
    assert module.blocks[0].attention.scale == pytest.approx(8**0.5 / 32)
