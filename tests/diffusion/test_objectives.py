"""Whole objectives: what they draw, what they score, and that parts make up the whole."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peers import load
from toy import TableDenoiser, unigram

from quokka_ray.diffusion.build import build_objective
from quokka_ray.diffusion.masked import DrawnMasks, MaskGit, MaskSampler, MegaDlm
from quokka_ray.diffusion.masks import Masks
from quokka_ray.diffusion.noised import next_token_losses
from quokka_ray.diffusion.objective import Batch, masked_cross_entropy
from quokka_ray.diffusion.schedules import Linear
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import ModelConfig, fit_to_kernel
from quokka_ray.study.diffusion import DiffusionConfig

PUBLISHED, INPUTS = load("objectives"), load("inputs")
MASK, ROWS, LENGTH = 10, 4, 8

KINDS = {
    "elbo": {},
    "power": {"weight_power": 0.5},
    "cosine": {"noise_schedule": "cosine"},
    "stratified": {"mask_sampler": "stratified"},
    "systematic": {"mask_sampler": "systematic", "noise_schedule": "poly2"},
    "importance": {"mask_sampler": "importance"},
    "curriculum": {"mask_sampler": "stratified", "curriculum": "moving_gaussian"},
    "reweighted": {
        "mask_sampler": "stratified",
        "curriculum": "moving_gaussian",
        "curriculum_reweight": True,
        "curriculum_sigma": 0.5,
    },
    "maskgit": {"objective": "maskgit"},
    "maskgit-masked": {"objective": "maskgit", "maskgit_normalisation": "masked"},
    "maskgit-rows": {"objective": "maskgit", "maskgit_normalisation": "rows"},
    "megadlm": {"objective": "megadlm", "mask_sampler": "independent"},
    "uniform": {"kernel": "uniform"},
    "quokka_uniform": {"kernel": "uniform", "objective": "quokka_uniform"},
    "hybrid": {"kernel": "hybrid", "noise_schedule": "cosine"},
    "log_snr_hybrid": {"kernel": "log_snr_hybrid"},
    "uniform-curriculum": {
        "kernel": "uniform",
        "curriculum": "moving_gaussian",
        "curriculum_reweight": True,
        "curriculum_sigma": 0.5,
    },
    "next_token": {"kernel": "none", "objective": "next_token"},
}


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def published_masks(noisy):
    noisy = np.array(noisy)
    return Masks((noisy == MASK).sum(1), (noisy.ravel() == MASK).nonzero()[0])


class Fixed:
    """Stands for a sampler that drew the published masks."""

    is_uniform = False

    def __init__(self, masks):
        self.masks = masks

    def draw(self, seed, step, batch):
        return DrawnMasks(self.masks, np.full(batch, math.nan), np.ones(batch))

    def mean_rate(self, power):
        return 0.5


def published_loss(batch, logits):
    """The loss of the published inputs; `logits` chooses whether the mask has one."""
    table = torch.tensor(INPUTS["logits"], dtype=torch.float64)[..., :logits]
    denoiser = TableDenoiser(MASK, lambda _: table)
    losses = masked_cross_entropy(denoiser, torch.tensor(INPUTS["clean"]), batch.flat)
    return (losses * batch.weights.double()).sum().item() / batch.normaliser


@pytest.mark.parametrize("normalisation", ["tokens", "masked", "rows"])
def test_maskgit_is_the_published_loss_in_each_normalisation(normalisation):
    sampler = Fixed(published_masks(INPUTS["masked"]))
    objective = MaskGit(sampler, 10, normalisation)
    batch = objective.draw(0, 0, np.array(INPUTS["clean"])).map(torch.from_numpy)
    # Weights are float32.
    expected = PUBLISHED["maskgit"][normalisation]
    assert published_loss(batch, 10) == pytest.approx(expected, rel=1e-7)


def test_maskgit_over_all_tokens_is_the_low_variance_loss_of_scaling_dllms():
    expected = np.array(PUBLISHED["scaling_dllms_low_var"]).mean()
    assert PUBLISHED["maskgit"]["tokens"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", ["megadlms_same_xt", "megadlms_seed1234"])
def test_the_released_estimator_gives_its_published_losses(case):
    # The release leaves the mask's own logit in the softmax: eleven rows of logits.
    published = PUBLISHED[case]
    masks = published_masks(published.get("xt", INPUTS["masked"]))
    assert masks.counts.tolist() == published["k"]
    flat, weights = tensors(masks.flat, masks.weights(LENGTH))
    batch = Batch(ROWS * LENGTH, flat=flat, weights=weights)
    assert published_loss(batch, 11) == pytest.approx(published["loss_mean"], rel=1e-7)


def test_the_released_estimator_has_its_published_bias():
    toy = load("closed_forms")["two_token"]
    none, given = np.array(toy["none"]), np.array(toy["given_other"])

    def table(tokens):
        rows = tokens.numpy()[:, ::-1]
        seen = given[np.arange(2), np.minimum(rows, 2)]
        return torch.tensor(np.where((rows == 3)[..., None], none, seen)).log()

    objective, denoiser = MegaDlm(3, 2), TableDenoiser(3, table)
    for case in PUBLISHED["two_token_megadlms"]:
        tokens = np.tile(np.array(case["x"]), (64, 1))
        losses = []
        for step in range(150):
            batch = objective.draw(0, step, tokens).map(torch.from_numpy)
            losses.append(objective.loss(denoiser, torch.from_numpy(tokens), batch).item())
        error = np.std(losses) / math.sqrt(len(losses))
        assert 2 * np.mean(losses) == pytest.approx(case["expectation"], abs=8 * error)


def test_the_released_estimator_draws_one_mask_twice_as_often():
    counts = [MegaDlm(5, 7).draw(0, s, np.zeros((64, 7), int)) for s in range(300)]
    rows = np.concatenate([np.bincount(c.flat // 7, minlength=64) for c in counts])
    seen = np.bincount(rows, minlength=8)[1:] / len(rows)
    np.testing.assert_allclose(seen, [2 / 8] + [1 / 8] * 6, rtol=0.06)


def test_rows_of_exact_counts_make_maskgit_the_elbo():
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    sampler = MaskSampler(Linear(), 12, None, 1)
    rows = MaskGit(sampler, 7, "rows").draw(0, 3, tokens)
    whole = build_objective(DiffusionConfig(), 7, 12, 1).draw(0, 3, tokens)
    assert (rows.flat == whole.flat).all()
    np.testing.assert_allclose(
        rows.weights / rows.normaliser, whole.weights / whole.normaliser, rtol=1e-6
    )


def small_model(diffusion, vocab_size=7, length=12):
    model = ModelConfig(seq_len=length, head_dim=8, ffn_multiple=8, init_std=0.3, conv_width=3)
    model = fit_to_kernel(model, diffusion)
    module = DiffusionTransformer(make_shape(16, 2, model), model, vocab_size)
    module.initialise(model, 0)
    if module.time_conditioning is not None:
        torch.nn.init.normal_(module.time_conditioning.leave.weight)
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_add_up_to_it_whatever_their_size_and_order(kind):
    diffusion = DiffusionConfig(**KINDS[kind])
    objective = build_objective(diffusion, 7, 12, 100)
    model = small_model(diffusion)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    batch = objective.draw(5, 40, tokens)

    def share(first, last):
        part = batch.part(first, last, 12).map(torch.from_numpy)
        loss = objective.loss(model, torch.from_numpy(tokens[first:last]), part)
        gradient = torch.autograd.grad(loss, model.embedding.weight)[0]
        return loss.item(), gradient

    whole, gradient = share(0, 8)
    for edges in ((0, 4, 8), (0, 1, 2, 3, 4, 5, 6, 7, 8), (0, 3, 8)):
        spans = list(itertools.pairwise(edges))
        parts = [share(*span) for span in reversed(spans)]
        assert sum(loss for loss, _ in parts) == pytest.approx(whole, rel=1e-5)
        torch.testing.assert_close(sum(g for _, g in parts), gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_depends_on_seed_and_step_alone(kind):
    objective = build_objective(DiffusionConfig(**KINDS[kind]), 7, 12, 100)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    first = objective.draw(5, 40, tokens)
    objective.draw(5, 41, tokens)
    again = objective.draw(5, 40, tokens)
    for name in ("flat", "noisy", "weights", "time"):
        one, two = getattr(first, name), getattr(again, name)
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two), name
    if kind != "next_token":
        other = objective.draw(5, 41, tokens)
        same = [
            np.array_equal(getattr(first, name), getattr(other, name))
            for name in ("flat", "noisy")
            if getattr(first, name) is not None
        ]
        assert not all(same)


@pytest.mark.parametrize("kind", KINDS)
def test_blind_is_the_mean_loss_of_a_model_that_knows_nothing(kind):
    steps = 150
    objective = build_objective(DiffusionConfig(**KINDS[kind]), 7, 12, steps)
    tokens = np.random.default_rng(0).integers(0, 7, (64, 12))
    denoiser = unigram([1 / 7] * 7)
    losses = []
    for step in range(steps):
        batch = objective.draw(0, step, tokens).map(torch.from_numpy)
        losses.append(objective.loss(denoiser, torch.from_numpy(tokens), batch).item())
    error = np.std(losses) / math.sqrt(steps)
    assert np.mean(losses) == pytest.approx(
        objective.blind, abs=4 * error + 2e-3 * objective.blind
    )


def test_the_curriculum_goes_from_clean_text_to_noisy():
    objective = build_objective(DiffusionConfig(**KINDS["curriculum"]), 7, 64, 100)
    tokens = np.zeros((32, 64), dtype=int)
    masked = [len(objective.draw(0, step, tokens).flat) / tokens.size for step in (0, 50, 99)]
    assert masked[0] < 0.3 < masked[1] < 0.7 < masked[2]


def test_the_papers_uniform_loss_weighs_replaced_tokens_as_masks_and_averages_the_others():
    diffusion = DiffusionConfig(**KINDS["quokka_uniform"])
    objective = build_objective(diffusion, 7, 12, 100)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    batch = objective.draw(0, 0, tokens)
    replaced = batch.noisy != tokens
    weights = batch.weights.reshape(8, 12)
    of_row = np.broadcast_to(1 / batch.time[:, None], (8, 12))
    np.testing.assert_allclose(weights[replaced], of_row[replaced], rtol=1e-5)
    # Each row's mean over its kept tokens: their weights over the row's tokens add up to 1.
    kept = (weights * ~replaced).sum(1) / 12
    np.testing.assert_allclose(kept[(~replaced).any(1)], 1, rtol=1e-5)


def test_next_tokens_are_all_predicted_and_from_what_stands_before_them_alone():
    model = small_model(DiffusionConfig(**KINDS["next_token"]))
    tokens = torch.randint(7, (3, 12), generator=torch.Generator().manual_seed(0))
    losses = next_token_losses(model, tokens, 7).view(3, 12)
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 7
    others = next_token_losses(model, changed, 7).view(3, 12)
    torch.testing.assert_close(losses[:, :8], others[:, :8])
    assert (losses[:, 8:] != others[:, 8:]).all()
    # The losses are those of one distribution over whole texts: its probabilities add to 1.
    texts = torch.cartesian_prod(*[torch.arange(7)] * 3)
    total = (-next_token_losses(model, texts, 7).view(-1, 3).sum(1)).exp().sum()
    assert total.item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "hybrid", "next_token", "quokka_uniform"])
def test_computing_logits_in_parts_changes_no_loss(kind, monkeypatch):
    diffusion = DiffusionConfig(**KINDS[kind])
    objective, model = build_objective(diffusion, 7, 12, 100), small_model(diffusion)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    batch = objective.draw(5, 40, tokens).map(torch.from_numpy)

    def run():
        loss = objective.loss(model, torch.from_numpy(tokens), batch)
        return loss.item(), torch.autograd.grad(loss, list(model.parameters()))

    whole, gradients = run()
    monkeypatch.setattr("quokka_ray.diffusion.head._LOGITS_AT_ONCE", 7 * 13)
    parts, in_parts = run()
    assert parts == pytest.approx(whole, rel=1e-6)
    for one, two in zip(gradients, in_parts, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["elbo", "uniform"])
def test_rows_without_a_scored_position_change_no_loss(kind):
    # Padding to a full batch: the noise says which positions count, and the sum is divided alike.
    diffusion = DiffusionConfig(**KINDS[kind])
    objective, model = build_objective(diffusion, 7, 12, 100), small_model(diffusion)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    batch = objective.draw(5, 40, tokens)
    loss = objective.loss(model, torch.from_numpy(tokens), batch.map(torch.from_numpy))
    padding = np.zeros((2, 12), dtype=int)
    weights = batch.weights
    if kind == "uniform":
        weights = np.repeat(np.float32([1, 0]), [tokens.size, padding.size])
    padded = replace(
        batch,
        weights=weights,
        noisy=None if batch.noisy is None else np.concatenate((batch.noisy, padding)),
        time=None if batch.time is None else np.append(batch.time, np.float32([1, 1])),
    )
    longer = torch.from_numpy(np.concatenate((tokens, padding)))
    with_padding = objective.loss(model, longer, padded.map(torch.from_numpy))
    assert with_padding.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_rows_changes_no_loss(kind):
    diffusion = DiffusionConfig(**KINDS[kind])
    objective, model = build_objective(diffusion, 7, 12, 100), small_model(diffusion)
    tokens = np.random.default_rng(0).integers(0, 7, (8, 12))
    batch = objective.draw(5, 40, tokens)
    order = np.random.default_rng(1).permutation(8)
    rows = [batch.part(row, row + 1, 12) for row in order]

    def joined(name, offset=0):
        arrays = [getattr(row, name) for row in rows]
        if arrays[0] is None:
            return None
        return np.concatenate([array + offset * i for i, array in enumerate(arrays)])

    shuffled = replace(
        batch,
        flat=joined("flat", 12),
        noisy=joined("noisy"),
        weights=joined("weights"),
        time=joined("time"),
    )
    one = objective.loss(model, torch.from_numpy(tokens), batch.map(torch.from_numpy))
    two = objective.loss(model, torch.from_numpy(tokens[order]), shuffled.map(torch.from_numpy))
    assert two.item() == pytest.approx(one.item(), rel=1e-5)
