import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import MASK, Inputs, flat, load, processes

from quokka_ray.diffusion.elbo import elbo
from quokka_ray.diffusion.posterior import bridge, posterior
from quokka_ray.diffusion.processes import Mask, Uniform
from quokka_ray.diffusion.schedules import Cosine, Geometric, Linear, Poly

IN = Inputs()
ANY = st.sampled_from([p for s in (Linear(), Cosine(), Geometric()) for p in processes(s, 6)])
KINDS = pytest.mark.parametrize("process", processes(Poly(), 6))


def one_hot(tokens, size):
    return torch.nn.functional.one_hot(tokens, size).double()


def divergence(process, logits, clean, noisy, t, steps):
    """Return T KL(q(x_s | x_t, x_0) || p(x_s | x_t)) with s = t - 1/T: the bound of T steps."""
    s = t - 1 / steps
    truth = bridge(process, one_hot(clean, process.vocab_size), noisy, t, s)
    model = posterior(process, logits, noisy, t, s)
    return steps * torch.where(truth > 0, truth * (truth.log() - model.log()), 0).sum(-1)


def test_uniform_posteriors_equal_the_published_ones():
    published, process = load("uniform"), Uniform(Linear(), MASK + 1)
    model = posterior(process, IN.with_mask_logit, IN.uniform, IN.t, IN.t - 0.1)
    truth = bridge(process, one_hot(IN.clean, MASK + 1), IN.uniform, IN.t, IN.t - 0.1)
    for ours, name in ((model, "q_xs_given_xt_xtheta"), (truth, "q_xs_given_xt_x0")):
        torch.testing.assert_close(ours[:, :-1], flat(published[name]), rtol=1e-9, atol=1e-12)
        assert (ours[:, -1] == 0).all()


def test_ancestral_steps_of_masks_equal_the_published_ones():
    model = posterior(Mask(Linear(), MASK), IN.logits, IN.masked, IN.t, IN.t - 0.1)
    published = flat(load("masked")["ancestral_s_is_t_minus_0.1"])
    torch.testing.assert_close(model, published, rtol=1e-9, atol=1e-12)


def test_a_thousand_steps_of_masks_equal_mdlms_discrete_loss():
    process = Mask(Linear(), MASK)
    loss = divergence(process, IN.logits, IN.clean, IN.masked, IN.t, 1000)
    published = flat(load("masked")["mdlm_subs_T1000_loglinear"]["loss_tokens"])
    torch.testing.assert_close(loss, published, rtol=1e-9, atol=1e-9)


def test_two_million_steps_of_uniform_noise_equal_the_brute_force():
    process = Uniform(Linear(), MASK + 1)
    arguments = process, IN.with_mask_logit, IN.clean, IN.uniform, IN.t
    published = flat(load("uniform")["brute_force_T2e6"])
    loss = divergence(*arguments, 2_000_000)
    torch.testing.assert_close(loss, published, rtol=2e-6, atol=1e-6)


@KINDS
def test_the_elbo_is_the_limit_of_many_steps(process):
    # Nothing of rates or weights enters here: Bayes' rule and a KL divergence only.
    generator = np.random.default_rng(0)
    clean = torch.from_numpy(generator.integers(6, size=(1, 200)))
    t = torch.from_numpy(generator.uniform(0.05, 0.95, (1, 200)))
    noisy = torch.from_numpy(process.corrupt(clean.numpy(), t.numpy(), generator))[0]
    logits = torch.from_numpy(generator.normal(size=(200, 6)))
    limit = divergence(process, logits, clean[0], noisy, t[0], 1e6)
    loss = elbo(process, logits, clean[0], noisy, t[0])
    torch.testing.assert_close(limit, loss, rtol=1e-3, atol=1e-4)


@given(ANY, st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_steps_back_keep_the_marginals(process, one, other, clean):
    s, t = sorted((one, other))
    if t - s < 1e-9:
        return

    def marginal(time):
        keep, mask, rest = process.marginal(time)
        values = torch.full((7,), float(rest), dtype=torch.float64)
        values[clean] += keep
        values[6] = mask
        return values

    noisy = torch.arange(7)
    rows = one_hot(torch.full((7,), clean), 6)
    steps = bridge(process, rows, noisy, t, s)
    torch.testing.assert_close(steps.sum(1), torch.ones(7, dtype=torch.float64))
    assert (steps >= 0).all()
    torch.testing.assert_close(marginal(t) @ steps, marginal(s), rtol=1e-6, atol=1e-9)


@KINDS
def test_the_last_step_leaves_no_noise_and_the_first_starts_from_nothing_but_noise(process):
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(50, 6)))
    start = torch.from_numpy(
        process.corrupt(np.zeros((1, 50), dtype=np.int64), np.ones(1), generator)
    )[0]
    last = posterior(process, logits, start, 1.0, 0.0)
    torch.testing.assert_close(last[:, :6], logits.softmax(-1), rtol=1e-9, atol=1e-12)
    assert (last[:, 6] == 0).all()


def test_masks_copy_what_is_not_masked_even_if_the_model_calls_it_impossible():
    logits = torch.tensor([[0.0, -1000.0], [0.0, -1000.0]])
    step = posterior(Mask(Linear(), 2), logits, torch.tensor([1, 2]), 0.5, 0.25)
    assert step.tolist() == [[0, 1, 0], [pytest.approx(0.5), 0, pytest.approx(0.5)]]


def test_logits_of_another_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"\[M, 6\] are needed"):
        posterior(Mask(Linear(), 6), torch.zeros(2, 7), torch.tensor([0, 1]), 0.5, 0.25)
