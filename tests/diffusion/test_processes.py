import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import MASK, SCHEDULES, Inputs, load, processes

from quokka_ray.diffusion.elbo import position_weight
from quokka_ray.diffusion.processes import (
    Hybrid,
    LogSnrHybrid,
    Mask,
    Uniform,
    noise_process,
)
from quokka_ray.diffusion.schedules import Cosine, Linear, Poly

SIZES = st.integers(2, 60_000)
ANY_SCHEDULE = st.sampled_from(list(SCHEDULES.values()))
ANY = st.one_of(
    st.builds(Mask, ANY_SCHEDULE, SIZES),
    st.builds(Uniform, ANY_SCHEDULE, SIZES),
    st.builds(Hybrid, ANY_SCHEDULE, SIZES, p_uniform=st.floats(0, 0.99), gamma=st.floats(0.01, 2)),
    st.builds(LogSnrHybrid, ANY_SCHEDULE, SIZES, shift=st.floats(-5, 5), scale=st.floats(-1, 1)),
)
ROWS = torch.tensor(load("inputs")["t"], dtype=torch.float64)


@given(ANY, st.floats(0, 1))
def test_probabilities_sum_to_one_at_every_time(process, t):
    keep, mask, other = process.marginal(t)
    assert min(keep, mask, other) >= 0
    assert keep + mask + process.vocab_size * other == pytest.approx(1, rel=1e-9)


@given(ANY, st.floats(1e-6, 1 - 1e-6))
def test_rates_and_weights_are_never_negative(process, t):
    assert min(process.rates(t)) >= 0
    assert min(process.noise_weights(t)) >= 0


@given(ANY, st.floats(0.01, 0.99))
def test_rates_are_those_that_the_marginals_imply(process, t):
    time = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    values = process.marginal(time)
    keep, mask, other = (
        torch.autograd.grad(v, time, retain_graph=True)[0] if v.requires_grad else 0 * v
        for v in values
    )
    for noise, slope, rate in zip(
        values[1:], (mask, other), process.rates(time.detach()), strict=True
    ):
        expected = (slope - keep / values[0] * noise).item()
        floor = 1e-9 * abs((keep / values[0] * noise).item())
        assert rate.item() == pytest.approx(expected, rel=1e-7, abs=floor + 1e-12)


@given(ANY)
def test_noise_runs_from_clean_text_to_none(process):
    assert process.marginal(0.0) == pytest.approx((1, 0, 0), abs=1e-15)
    assert process.marginal(1.0)[0] == 0


def test_the_mixtures_become_masks_and_uniform_noise_at_their_ends():
    t = np.linspace(0.01, 0.99, 9)
    for ours, theirs in (
        (Hybrid(Cosine(), 7, p_uniform=0.0), Mask(Cosine(), 7)),
        (LogSnrHybrid(Cosine(), 7, shift=-1000.0), Mask(Cosine(), 7)),
        (LogSnrHybrid(Cosine(), 7, shift=1000.0), Uniform(Cosine(), 7)),
    ):
        np.testing.assert_allclose(ours.marginal(t), theirs.marginal(t), atol=1e-12)
        np.testing.assert_allclose(ours.rates(t), theirs.rates(t), rtol=1e-9, atol=1e-12)


def test_uniform_share_of_the_hybrid_is_largest_half_way_and_as_set():
    process = Hybrid(Linear(), 10, p_uniform=0.2)
    share = [10 * process.marginal(t)[2] for t in (0.3, 0.5, 0.7)]
    assert share[1] == pytest.approx(0.2, rel=1e-12)
    assert share[0] < share[1] > share[2]


@pytest.mark.parametrize("p_uniform", ["0.0", "0.1", "0.2"])
def test_hybrid_equals_gidds_published_marginals_and_weights(p_uniform):
    expected, inputs = load("gidd")[p_uniform], Inputs()
    # What stands for 0 there is the logistic function at -20.
    process = Hybrid(Linear(), MASK, p_uniform=float(p_uniform) or 1 / (1 + math.exp(20)))
    keep, mask, other = process.marginal(ROWS)
    torch.testing.assert_close(keep.tolist(), expected["alpha"], rtol=1e-6, atol=0)
    noise = torch.stack((other, mask), dim=1).tolist()
    torch.testing.assert_close(noise, expected["noise"], rtol=1e-6, atol=1e-9)
    weight = position_weight(process, inputs.clean, inputs.hybrid, inputs.t)
    wanted = torch.tensor(expected["weight"], dtype=torch.float64).flatten()
    torch.testing.assert_close(weight, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", ["-1000", "-2", "0", "2", "1000"])
def test_log_snr_mixture_equals_gidd_easydels_published_shares_and_weights(shift):
    expected, inputs = load("log_snr")[shift], Inputs()
    process = LogSnrHybrid(Linear(), MASK, shift=float(shift))
    _, mask, other = process.marginal(ROWS)
    shares = torch.stack((other, mask), dim=1) / ROWS[:, None]
    torch.testing.assert_close(shares.tolist(), expected["shares"], rtol=2e-4, atol=1e-6)
    noisy = torch.tensor(expected["noisy"]).flatten()
    weight = position_weight(process, inputs.clean, noisy, inputs.t)
    wanted = torch.tensor(expected["weight"], dtype=torch.float64).flatten()
    torch.testing.assert_close(weight, wanted, rtol=2e-4, atol=1e-6)


def test_uniform_weight_equals_the_published_one():
    inputs = Inputs()
    process = Uniform(Linear(), MASK + 1)
    weight = position_weight(process, inputs.clean, inputs.uniform, inputs.t)
    wanted = torch.tensor(load("uniform")["weight"], dtype=torch.float64).flatten()
    torch.testing.assert_close(weight, wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("process", processes(Poly(), 5))
def test_corrupted_text_has_the_marginal_frequencies(process):
    tokens = np.full((4, 60_000), 3)
    times = np.array([0.0, 0.4, 0.8, 1.0])
    noisy = process.corrupt(tokens, times, np.random.default_rng(0))
    assert noisy.dtype == np.int64
    for row, t in zip(noisy, times, strict=True):
        keep, mask, other = process.marginal(t)
        expected = np.full(6, other)
        expected[3] += keep
        expected[5] = mask
        seen = np.bincount(row, minlength=6) / len(row)
        error = np.sqrt(expected * (1 - expected) / len(row))
        assert (abs(seen - expected) <= 4.5 * error).all()


def test_each_token_may_have_its_own_time():
    tokens = np.arange(8).reshape(2, 4)
    times = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
    noisy = Mask(Linear(), 8).corrupt(tokens, times, np.random.default_rng(0))
    assert noisy.tolist() == [[0, 8, 2, 8], [8, 5, 8, 7]]


@pytest.mark.parametrize("process", processes(Linear(), 50))
def test_noise_is_repeatable_and_grows_with_time(process):
    tokens = np.zeros((1, 4000), dtype=np.int64)

    def noisy(t):
        return process.corrupt(tokens, np.array([t]), np.random.default_rng(7))

    assert (noisy(0.5) == noisy(0.5)).all()
    # The same random numbers at a later time: what was replaced stays replaced.
    replaced = noisy(0.5) != 0
    still = noisy(0.7)[replaced] != 0
    assert still.mean() > 0.97


def test_processes_have_names_and_settings():
    assert noise_process("mask", Linear(), 10) == Mask(Linear(), 10)
    assert noise_process("uniform", Linear(), 10).mask_id == 10
    hybrid = noise_process("hybrid", Linear(), 10, p_uniform=0.2)
    assert hybrid == Hybrid(Linear(), 10, p_uniform=0.2, gamma=1.0)
    assert isinstance(noise_process("log_snr_hybrid", Linear(), 10, shift=2.0), LogSnrHybrid)


def test_only_masked_text_tells_its_own_noise_level():
    assert [p.needs_time for p in processes(Linear(), 5)] == [False, *[True] * 5]
    assert not noise_process("uniform", Linear(), 5, needs_time=False).needs_time


@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        ("gauss", {}, "no noise process 'gauss'; there are mask, uniform"),
        ("mask", {"gamma": 1.0}, "does not take"),
        ("hybrid", {"p_uniform": 1.0}, r"must be in \[0, 1\)"),
        ("hybrid", {"gamma": 2.5}, r"must be in \(0, 2\]"),
        ("log_snr_hybrid", {"scale": 1.5}, r"must be in \[-1, 1\]"),
        ("log_snr_hybrid", {"shift": math.nan}, "must be finite"),
    ],
)
def test_what_no_process_allows_is_refused(kernel, settings, message):
    with pytest.raises(ValueError, match=message):
        noise_process(kernel, Linear(), 10, **settings)
    with pytest.raises(ValueError, match="at least two"):
        noise_process("mask", Linear(), 1)
