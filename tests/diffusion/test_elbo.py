import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import (
    EPS,
    MASK,
    MDLM,
    ROW,
    SCHEDULES,
    Inputs,
    flat,
    load,
    processes,
    reachable,
    reference_elbo,
)

from quokka_ray.diffusion import elbo as module
from quokka_ray.diffusion.elbo import elbo, general_elbo, position_weight
from quokka_ray.diffusion.processes import Hybrid, LogSnrHybrid, Mask, Uniform
from quokka_ray.diffusion.schedules import Cosine, Linear, Poly

IN = Inputs()
BOTH = pytest.mark.parametrize("function", [elbo, general_elbo])


def close(ours, published, **tolerance):
    wanted = torch.as_tensor(published, dtype=torch.float64).flatten()
    torch.testing.assert_close(ours, wanted, **tolerance)


# ------------------------------------------------------------------------------ published losses


@BOTH
@pytest.mark.parametrize("name", MDLM)
def test_masks_equal_mdlm_under_its_five_noises(function, name):
    loss = function(Mask(MDLM[name], MASK), IN.logits, IN.clean, IN.masked, IN.t)
    published = load("masked")[name]
    close(loss, published["loss_tokens"], rtol=1e-9, atol=1e-9)
    assert loss.mean().item() == pytest.approx(published["loss_mean"], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("scaling_dllms_mdlm_lowvar_False", 1e-9), ("gidd_mdlm_eps1e-4", 1e-6)],
)
def test_masks_equal_scaling_dllms_and_gidds_mdlm(name, tolerance):
    loss = elbo(Mask(Linear(), MASK), IN.logits, IN.clean, IN.masked, IN.t)
    close(loss, load("masked")[name]["loss_tokens"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["smdm_eps1e-3_same_xt", "smdm_own_forward_process_seed0"])
def test_smdm_is_the_linear_schedule_at_its_mask_rate(name):
    published = load("masked")[name]
    rate = torch.tensor(published["p_mask"], dtype=torch.float64).repeat_interleave(ROW)
    noisy = flat(published["xt"], torch.int64) if "xt" in published else IN.masked
    loss = elbo(Mask(Linear(), MASK), IN.logits, IN.clean, noisy, rate)
    assert loss.mean().item() == pytest.approx(published["loss_mean"], rel=1e-9)
    if "xt" not in published:
        torch.testing.assert_close(rate, (1 - EPS) * IN.t + EPS)


def test_llada_is_the_linear_schedule_at_the_realised_rate_with_the_masks_logit_left_in():
    noisy = torch.where(IN.masked == MASK, MASK + 1, IN.masked)
    rate = (IN.masked == MASK).double().view(-1, ROW).mean(1).repeat_interleave(ROW)
    loss = elbo(Mask(Linear(), MASK + 1), IN.with_mask_logit, IN.clean, noisy, rate)
    close(
        -loss.view(-1, ROW).sum(1), load("masked")["llada_same_xt"]["loglik_per_seq"], rtol=1e-6,
        atol=0,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "schedule"), [("Linear", Linear()), ("Cosine", Cosine())])
def test_dllm_leaves_the_masks_logit_in_and_adds_to_a_denominator(name, schedule):
    published = load("masked")[f"dllm_{name}AlphaScheduler"]
    noisy = torch.where(IN.masked == MASK, MASK + 1, IN.masked)
    loss = elbo(Mask(schedule, MASK + 1), IN.with_mask_logit, IN.clean, noisy, IN.t)
    rate = schedule.log1m_alpha(IN.t).exp()
    close(loss * rate / (rate + 1e-6), published["loss_tokens"], rtol=1e-5, atol=1e-9)


def test_sedds_score_entropy_is_the_elbo_and_a_penalty_on_the_scores_sum():
    published = load("masked")
    score = flat(published["sedd_log_score"])[:, :MASK]
    process = Mask(MDLM["mdlm_loglinear_eps1e-3"], MASK)
    loss = elbo(process, score, IN.clean, IN.masked, IN.t)
    alpha = process.schedule.alpha(IN.t)
    ratio = score.logsumexp(-1) - (alpha / (1 - alpha)).log()
    weight = process.schedule.weight(IN.t) * (IN.masked == MASK)
    loss = loss + weight * (ratio.expm1() - ratio)
    close(loss, published["sedd_loss_tokens"], rtol=1e-9, atol=1e-9)


@BOTH
def test_uniform_noise_equals_duo_and_udlm(function):
    process = Uniform(Linear(), MASK + 1)
    loss = function(process, IN.with_mask_logit, IN.clean, IN.uniform, IN.t)
    for name in ("duo", "udlm"):
        close(loss, load("uniform")[name], rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("p_uniform", ["0.0", "0.1", "0.2"])
def test_hybrid_noise_equals_gidd(function, p_uniform):
    published = load("gidd")[p_uniform]
    process = Hybrid(Linear(), MASK, p_uniform=float(p_uniform) or 1 / (1 + math.exp(20)))
    loss = function(process, IN.logits, IN.clean, IN.hybrid, IN.t)
    close(loss, published["elbo"], rtol=1e-6, atol=1e-9)
    if "exact" in published:
        close(loss, published["exact"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("p_uniform", ["0.0", "0.1", "0.2"])
def test_gidds_training_losses_are_the_elbo_with_other_weights(p_uniform):
    published = load("gidd")[p_uniform]
    p = float(p_uniform) or 1 / (1 + math.exp(20))
    process = Hybrid(Linear(), MASK, p_uniform=p)
    loss = elbo(process, IN.logits, IN.clean, IN.hybrid, IN.t)
    weight = position_weight(process, IN.clean, IN.hybrid, IN.t)
    close(loss / weight * weight.clamp(max=2), published["clip"], rtol=1e-6, atol=1e-9)
    # What it calls dynamic, with the logistic function where a logarithm of the ratio is meant.
    kept = 2 * p / (1 - p) / (MASK + 1) * torch.exp(torch.sigmoid(-IN.t) / 2)
    dynamic = torch.where(IN.hybrid == IN.clean, kept, 1.0)
    dynamic[IN.hybrid == MASK] = 2.0
    close(loss / weight * dynamic, published["dynamic"], rtol=1e-6, atol=1e-9)


@BOTH
@pytest.mark.parametrize("shift", ["-1000", "-2", "0", "2", "1000"])
def test_log_snr_mixtures_equal_gidd_easydel(function, shift):
    published = load("log_snr")[shift]
    process = LogSnrHybrid(Linear(), MASK, shift=float(shift))
    noisy = torch.tensor(published["noisy"]).flatten()
    loss = function(process, IN.logits, IN.clean, noisy, IN.t)
    close(loss, published["elbo"], rtol=2e-4, atol=2e-4)
    # It trains on the integrand by the log signal-to-noise ratio instead of by time.
    close(loss * IN.t * (1 - IN.t), published["train"], rtol=2e-4, atol=2e-4)


# -------------------------------------------------------------------- one formula, several paths

RANDOM = st.integers(0, 10_000)
ALL_TIMES = [0.0, 1e-30, 1e-9, 1e-4, 0.03, 0.3, 0.6, 0.97, 1 - 1e-4, 1 - 1e-9, 1.0]


@st.composite
def any_process(draw):
    schedule = draw(st.sampled_from(list(SCHEDULES.values())))
    size = draw(st.integers(2, 40))
    kind = draw(st.sampled_from(["mask", "uniform", "hybrid", "log_snr"]))
    if kind == "mask":
        return Mask(schedule, size)
    if kind == "uniform":
        return Uniform(schedule, size)
    if kind == "hybrid":
        p, gamma = draw(st.floats(0.001, 0.95)), draw(st.floats(0.1, 2))
        return Hybrid(schedule, size, p_uniform=p, gamma=gamma)
    shift, scale = draw(st.floats(-4, 4)), draw(st.floats(-1, 1))
    return LogSnrHybrid(schedule, size, shift=shift, scale=scale)


def positions(process, times, seed, spread=3.0):
    """Return logits, clean, noisy and t: at each time every token that noise can make."""
    generator = np.random.default_rng(seed)
    rows = []
    for t in times:
        clean = int(generator.integers(process.vocab_size))
        noisy = np.flatnonzero(reachable(process, clean))
        rows += [(clean, int(z), t) for z in generator.permutation(noisy)[:4]]
        rows.append((clean, clean, t))
    clean, noisy, t = zip(*rows, strict=True)
    logits = torch.from_numpy(generator.normal(size=(len(rows), process.vocab_size)) * spread)
    return logits, torch.tensor(clean), torch.tensor(noisy), torch.tensor(t).double()


def loss_and_gradient(function, process, logits, clean, noisy, t):
    leaf = logits.clone().requires_grad_()
    loss = function(process, leaf, clean, noisy, t)
    slopes = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype)
    (gradient,) = torch.autograd.grad(loss, leaf, slopes)
    return loss.detach(), gradient


@settings(max_examples=40)
@given(any_process(), RANDOM)
def test_the_fast_paths_equal_the_general_formula_and_so_do_their_gradients(process, seed):
    arguments = positions(process, ALL_TIMES[2:-2], seed)
    loss, gradient = loss_and_gradient(elbo, process, *arguments)
    expected, slope = loss_and_gradient(general_elbo, process, *arguments)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    # A gradient's rounding is that of its row's largest entry: weights reach 1e9 here.
    scale = slope.abs().amax(1, keepdim=True) + 1
    torch.testing.assert_close(gradient / scale, slope / scale, rtol=0, atol=1e-9)


@settings(max_examples=40)
@given(any_process(), RANDOM)
def test_the_elbo_equals_dense_distributions_with_differentiated_rates(process, seed):
    arguments = positions(process, [0.03, 0.2, 0.5, 0.7, 0.95], seed)
    expected = reference_elbo(process, *arguments)
    loss = elbo(process, *arguments)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    assert (loss >= -1e-9).all()


@settings(max_examples=40)
@given(any_process(), RANDOM)
def test_bf16_logits_give_finite_losses_and_gradients_at_every_time(process, seed):
    logits, clean, noisy, t = positions(process, ALL_TIMES, seed, spread=30.0)
    logits = logits.bfloat16().float()
    loss, gradient = loss_and_gradient(elbo, process, logits, clean, noisy, t.float())
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    # Beside float64 with the same bf16 logits: the rounding of float32, times the weight.
    exact, slope = loss_and_gradient(
        elbo, process, logits.double(), clean, noisy, t.float().double()
    )
    scale = 1 + position_weight(process, clean, noisy, t.float())
    error = (loss - exact).abs() / (exact.abs() + scale)
    assert error.max() < 1e-5
    error = (gradient - slope).abs() / (slope.abs().amax(1) + scale)[:, None]
    assert error.max() < 1e-5


@pytest.mark.parametrize("process", processes(Poly(), 5))
def test_gradients_are_those_of_finite_differences(process):
    logits, clean, noisy, t = positions(process, [0.1, 0.6, 0.9], 0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: elbo(process, x, clean, noisy, t), logits, fast_mode=True
    )


def test_logits_of_half_precision_are_widened_and_their_gradient_is_narrow():
    process = Uniform(Linear(), 6)
    logits, clean, noisy, t = positions(process, [0.2, 0.8], 0)
    narrow = logits.bfloat16()
    loss, gradient = loss_and_gradient(elbo, process, narrow, clean, noisy, t)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    same, _ = loss_and_gradient(elbo, process, narrow.float(), clean, noisy, t)
    torch.testing.assert_close(loss, same, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("process", processes(Linear(), 30)[1:])
def test_how_rows_are_cut_and_ordered_changes_no_loss(process, monkeypatch):
    arguments = positions(process, np.linspace(0.05, 0.95, 9), 1)
    loss, gradient = loss_and_gradient(elbo, process, *arguments)
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", 100)
    pieces, slope = loss_and_gradient(elbo, process, *arguments)
    torch.testing.assert_close(pieces, loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-12, atol=1e-12)
    order = torch.randperm(len(loss), generator=torch.Generator().manual_seed(0))
    shuffled = elbo(process, *(x[order] for x in arguments))
    torch.testing.assert_close(shuffled, loss[order], rtol=1e-12, atol=1e-12)


def test_positions_that_are_not_masked_may_be_left_out():
    process = Mask(Cosine(), MASK)
    loss = elbo(process, IN.logits, IN.clean, IN.masked, IN.t)
    masked = IN.masked == MASK
    assert (loss[~masked] == 0).all()
    kept = elbo(process, *(x[masked] for x in (IN.logits, IN.clean, IN.masked, IN.t)))
    assert (kept == loss[masked]).all()


def test_a_confident_and_right_model_loses_nothing():
    for process in processes(Linear(), 5):
        _, clean, noisy, t = positions(process, [0.1, 0.5, 0.9], 0)
        logits = torch.nn.functional.one_hot(clean, 5) * 60.0
        loss = elbo(process, logits, clean, noisy, t)
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-5)


def test_shapes_that_disagree_are_refused():
    process = Mask(Linear(), MASK)
    with pytest.raises(ValueError, match=r"\[M, 10\] are needed"):
        elbo(process, IN.with_mask_logit, IN.clean, IN.masked, IN.t)
    with pytest.raises(ValueError, match="32 rows of logits"):
        elbo(process, IN.logits, IN.clean, IN.masked, IN.t[:4])
