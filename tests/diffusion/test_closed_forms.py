"""Bounds whose exact value is known: texts of one or two tokens, every noisy version counted."""

from itertools import product

import numpy as np
import pytest
import torch
from peers import SCHEDULES, Squeezed, load, nelbo, processes

from quokka_ray.diffusion.elbo import elbo
from quokka_ray.diffusion.processes import Hybrid, Mask, Uniform
from quokka_ray.diffusion.schedules import Cosine, Linear, Poly

DATA = load("closed_forms")
UNIGRAM = torch.tensor(DATA["unigram"]["p"], dtype=torch.float64)


def bound_of_unigrams(process):
    return sum(
        p * nelbo(process, elbo, [token], lambda *_: [UNIGRAM])
        for token, p in enumerate(UNIGRAM.tolist())
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_bound_of_independent_tokens_is_their_entropy_under_every_schedule_and_noise(name):
    for process in processes(SCHEDULES[name], len(UNIGRAM)):
        bound = bound_of_unigrams(process)
        assert bound == pytest.approx(DATA["unigram"]["entropy"], rel=2e-7), process


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("md4_eps1e-4_diffusion_term", 1e-4, 1 - 1e-4), ("mdlm_eps1e-3", 1e-3, 1.0)],
)
def test_a_schedule_that_stops_short_of_an_end_misses_that_part_of_the_bound(name, low, high):
    process = Mask(Squeezed(Linear(), low=low, high=high), len(UNIGRAM))
    assert bound_of_unigrams(process) == pytest.approx(DATA["unigram"][name], rel=1e-6)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Poly(), Poly(0.5)])
def test_bound_of_a_wrong_model_of_two_tokens_is_the_published_one(schedule):
    toy = DATA["two_token"]

    def denoise(noisy, _):
        return [
            toy["none"][i] if noisy[1 - i] == 3 else toy["given_other"][i][noisy[1 - i]]
            for i in (0, 1)
        ]

    def tensors(noisy, marginal):
        return [torch.tensor(row, dtype=torch.float64) for row in denoise(noisy, marginal)]

    for text, exact in toy["exact"]:
        bound = nelbo(Mask(schedule, 3), elbo, text, tensors)
        assert bound == pytest.approx(exact, rel=1e-8)


def beliefs(joint, process_size, own):
    """Return a denoiser that is Bayes' rule on the noisy text, with or without one's own token."""
    axes = joint.ndim

    known = {}

    def denoise(noisy, marginal):
        if noisy not in known:
            known[noisy] = tables(noisy, *marginal)
        return known[noisy]

    def tables(noisy, keep, mask, other):
        evidence = []
        for token in noisy:
            rows = [
                mask if token == process_size else other + keep * (token == value)
                for value in range(process_size)
            ]
            evidence.append(torch.stack(rows, dim=1))
        found = []
        for i in range(axes):
            table = torch.as_tensor(joint).expand(len(keep), *joint.shape)
            for j in range(axes):
                if j == i and not own:
                    continue
                shape = [-1] + [process_size if a == j else 1 for a in range(axes)]
                table = table * evidence[j].view(shape)
            summed = table.sum([1 + a for a in range(axes) if a != i]) if axes > 1 else table
            # Where this noisy text cannot occur nothing is asked; any distribution will do.
            summed = summed + 1e-300
            found.append(summed / summed.sum(1, keepdim=True))
        return found

    return denoise


CASES = {
    "uniform_V3_L1": Uniform(Linear(), 3),
    "uniform_V3_L2": Uniform(Cosine(), 3),
    "gidd_pu0.2_V3+mask_L1": Hybrid(Linear(), 3, p_uniform=0.2),
    "gidd_pu0.2_V3+mask_L2": Hybrid(Linear(), 3, p_uniform=0.2),
    "masked_V3+mask_L2": Mask(Poly(), 3),
}


@pytest.mark.parametrize("name", CASES)
def test_the_best_denoiser_leaves_its_own_noisy_token_out_and_reaches_the_entropy(name):
    case, process = DATA["leave_one_out"][name], CASES[name]
    joint = np.array(case.get("joint", case.get("p")))
    bounds = {}
    for own in (False, True):
        denoise = beliefs(joint, 3, own)
        bounds[own] = sum(
            joint[text] * nelbo(process, elbo, list(text), denoise)
            for text in product(range(3), repeat=joint.ndim)
        )
    assert bounds[False] == pytest.approx(case["entropy"], rel=1e-6)
    # The published quadratures of the hybrid stop 1e-4 short of both ends.
    assert bounds[False] == pytest.approx(case["nelbo_quadrature"], rel=5e-5)
    tolerance = 1e-2 if "gidd" in name else 1e-5
    full = case["nelbo_if_xtheta_is_full_posterior"]
    assert bounds[True] == pytest.approx(full, rel=tolerance)


@pytest.mark.parametrize("process", processes(Linear(), len(UNIGRAM)))
def test_drawn_noise_gives_the_bound_within_its_error(process):
    generator = np.random.default_rng(0)
    count = 100_000
    clean = generator.choice(len(UNIGRAM), p=UNIGRAM.numpy(), size=(count, 1))
    # Stratified levels, denser near 0, where a replaced token is rare and weighs much.
    level = (np.arange(count) + generator.random(count)) / count
    t, density = level**3, 3 * level**2
    noisy = process.corrupt(clean, t, generator)
    ids = (torch.from_numpy(x[:, 0]) for x in (clean, noisy))
    logits = UNIGRAM.log().expand(count, -1)
    values = elbo(process, logits, *ids, torch.from_numpy(t)).numpy() * density
    error = values.std() / count**0.5
    assert error < 0.05
    assert values.mean() == pytest.approx(DATA["unigram"]["entropy"], abs=4 * error)
