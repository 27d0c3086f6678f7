"""What training reaches on a source of known entropy, under every kind of noise and without."""

import math

import numpy as np
import pytest
import torch
from known_entropy import KERNELS, Chain, chain_trajectory

from quokka_ray.diffusion.likelihood import validation_loss
from quokka_ray.training.loop import Trainer


def trained(config, chain):
    trainer = Trainer(config, chain, "cpu")
    while trainer.step < config.steps:
        trainer.advance()
    return trainer


def gap_to_entropy(config, chain, sequences):
    """Return (loss - entropy, its standard error) of a run, on fresh text.

    The text's own luck is taken out: what is left is the error of the model and of the bound.
    """
    model = trained(config, chain).model
    windows = chain.batch(0, sequences, seed=99)
    found = validation_loss(
        model, windows, config.evaluation, config.vocab_size, "cpu", config.diffusion
    )
    gaps = found.per_sequence - chain.surprise(windows)
    return gaps.mean(), gaps.std(ddof=1) / math.sqrt(sequences)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_short_run_moves_from_ignorance_towards_the_entropy(kernel):
    torch.set_num_threads(1)
    chain = Chain(3, 16)
    config = chain_trajectory(chain, kernel, steps=120, d_model=16, lr=1.5e-2)
    gap, error = gap_to_entropy(config, chain, 512)
    assert -error < gap < 0.5 * (math.log(3) - chain.entropy)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [*KERNELS, "cosine", "maskgit", "megadlm", "quokka_uniform"])
def test_a_run_approaches_the_entropy_from_above(kernel):
    torch.set_num_threads(1)
    chain = Chain(4, 16)
    diffusion = {
        "cosine": {"noise_schedule": "cosine"},
        "maskgit": {"objective": "maskgit"},
        "quokka_uniform": {"kernel": "uniform", "objective": "quokka_uniform"},
        "megadlm": {"objective": "megadlm", "mask_sampler": "independent"},
    }.get(kernel)
    config = chain_trajectory(chain, kernel, steps=1200, batch=32, diffusion=diffusion)
    gap, error = gap_to_entropy(config, chain, 2048)
    assert error < 0.01
    assert -error < gap < 0.1 * (math.log(4) - chain.entropy)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("at_once", [1, 4, 6])
def test_micro_batches_take_the_same_steps_up_to_rounding(kernel, at_once):
    chain = Chain(4, 16)
    config = chain_trajectory(chain, kernel, steps=6, d_model=16, batch=8, lr=1e-3)
    recipe = config.training.model_copy(update={"micro_batch_sequences": at_once})
    whole, parts = (
        trained(one, chain) for one in (config, config.model_copy(update={"training": recipe}))
    )
    assert parts.smoothed_loss.item() == pytest.approx(whole.smoothed_loss.item(), rel=1e-5)
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_gives_nearly_the_loss_of_full_precision(kernel):
    chain = Chain(4, 16)
    config = chain_trajectory(chain, kernel, steps=30, d_model=16, batch=8)
    recipe = config.training.model_copy(update={"precision": "bf16"})
    full = trained(config, chain)
    half = trained(config.model_copy(update={"training": recipe}), chain)
    assert half.smoothed_loss.dtype == torch.float32
    assert half.smoothed_loss.item() == pytest.approx(full.smoothed_loss.item(), rel=0.02)


def test_the_chains_entropy_is_the_mean_surprise_of_its_texts():
    chain = Chain(4, 16)
    texts = chain.batch(0, 20_000)
    values = chain.surprise(texts)
    error = values.std() / math.sqrt(len(values))
    assert values.mean() == pytest.approx(chain.entropy, abs=4 * error)
    counts = np.bincount(texts[:, 7], minlength=4) / len(texts)
    np.testing.assert_allclose(counts, chain.start, atol=0.02)
