import math
from itertools import combinations

import numpy as np
import pytest
import torch
from peers import load
from toy import TableDenoiser, unigram

from quokka_ray.diffusion.masks import Masks, antithetic_masks
from quokka_ray.diffusion.objective import blind_loss, masked_cross_entropy, masked_elbo


def test_only_masked_positions_are_scored_and_only_unmasked_text_is_seen():
    seen = []

    def table(tokens):
        seen.append(tokens.clone())
        return torch.zeros(*tokens.shape, 3)

    tokens = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]])
    losses = masked_cross_entropy(TableDenoiser(3, table), tokens, torch.tensor([1, 4, 7]))
    assert losses.tolist() == pytest.approx([math.log(3)] * 3)
    assert seen[0].tolist() == [[0, 3, 2, 0], [3, 2, 1, 3]]
    assert tokens.tolist() == [[0, 1, 2, 0], [2, 2, 1, 1]]


def test_the_estimate_is_unbiased_over_all_masks_of_a_short_text():
    # Cross-entropies that depend on what is visible: any wrong weight shows.
    def table(tokens):
        visible = (tokens != 3).sum(-1, keepdim=True).double()
        scores = torch.arange(3.0).double() * (1 + visible[..., None])
        return scores.expand(*tokens.shape, 3)

    denoiser, tokens, length = TableDenoiser(3, table), torch.tensor([[0, 2, 1, 1]]), 4
    exact = 0.0
    for k in range(1, length + 1):
        subsets = list(combinations(range(length), k))
        for subset in subsets:
            losses = masked_cross_entropy(denoiser, tokens, torch.tensor(subset))
            exact += length / k * losses.sum().item() / len(subsets) / length / length
    estimates = []
    for step in range(3000):
        masks = antithetic_masks(0, step, 4, length)
        flat, weights = torch.from_numpy(masks.flat), torch.from_numpy(masks.weights(length))
        batch = tokens.expand(4, -1)
        losses = masked_cross_entropy(denoiser, batch, flat)
        estimates.append((losses * weights).sum().item() / batch.numel())
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(exact, abs=4 * error)
    assert error < 0.01 * exact


def test_weights_of_power_one_make_every_batch_of_a_blind_model_equal_to_the_entropy():
    # With exact counts L / k cancels the number of masked tokens: no noise from counts is left.
    denoiser, tokens = unigram([0.25] * 4), torch.randint(4, (8, 16))
    for step in range(5):
        masks = antithetic_masks(0, step, 8, 16)
        weights = torch.from_numpy(masks.weights(16)).double()
        loss = masked_elbo(denoiser, tokens, torch.from_numpy(masks.flat), weights)
        assert loss.item() == pytest.approx(math.log(4), rel=1e-6)


def test_blind_loss_is_what_a_uniform_model_gets_on_average():
    for power in (0.0, 0.5, 1.0):
        losses = []
        for step in range(400):
            masks = antithetic_masks(0, step, 16, 12)
            weights = torch.from_numpy(masks.weights(12, power)).double()
            flat = torch.from_numpy(masks.flat)
            tokens = torch.zeros(16, 12, dtype=torch.long)
            losses.append(masked_elbo(unigram([0.2] * 5), tokens, flat, weights).item())
        assert np.mean(losses) == pytest.approx(blind_loss(5, 12, power), rel=5e-3)


def test_loss_equals_the_released_estimators_of_llada_and_megadlms():
    inputs, cases = load("inputs"), {**load("masked"), **load("objectives")}
    logits = torch.tensor(inputs["logits"], dtype=torch.float64)
    tokens, noisy = torch.tensor(inputs["clean"]), torch.tensor(inputs["masked"])
    masked = noisy == 10
    flat = masked.flatten().nonzero().squeeze(1)
    counts = masked.sum(1).numpy()
    assert counts.tolist() == cases["megadlms_same_xt"]["k"]
    weights = torch.from_numpy(Masks(counts, flat.numpy()).weights(8)).double()
    # They leave the mask's own logit in the softmax: K = 11 rows here.
    losses = masked_cross_entropy(TableDenoiser(10, lambda _: logits), tokens, flat)
    per_token = torch.zeros(tokens.numel(), dtype=torch.float64)
    per_token[flat] = losses * weights
    expected = torch.tensor(cases["megadlms_same_xt"]["loss_tokens"], dtype=torch.float64)
    torch.testing.assert_close(per_token.view_as(tokens), expected, rtol=1e-6, atol=1e-9)
    per_row = -torch.tensor(cases["llada_same_xt"]["loglik_per_seq"], dtype=torch.float64)
    torch.testing.assert_close(per_token.view_as(tokens).sum(1), per_row, rtol=1e-6, atol=1e-9)
    # And without it, as here, they are SUBS.
    real = TableDenoiser(10, lambda _: logits[..., :10])
    subs = torch.tensor(cases["subs_token_nll"]["token_nll"], dtype=torch.float64)
    ours = masked_cross_entropy(real, tokens, flat)
    torch.testing.assert_close(ours, subs.flatten()[flat], rtol=1e-9, atol=1e-9)
