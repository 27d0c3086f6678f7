import math
from itertools import product

import numpy as np
import pytest
import torch
from peers import load
from toy import TableDenoiser, markov_pair, unigram

from quokka_ray.diffusion.build import build_objective
from quokka_ray.diffusion.likelihood import (
    Likelihood,
    evaluator_id,
    paired_stderr,
    validation_loss,
    validation_nelbo,
    validation_places,
)
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import EvaluationConfig, ModelConfig, fit_to_kernel
from quokka_ray.study.diffusion import DiffusionConfig

UNIGRAM = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02]
JOINT = np.array([[0.30, 0.05, 0.05], [0.02, 0.20, 0.08], [0.10, 0.02, 0.18]])


def test_bound_of_an_independent_source_is_its_entropy():
    # Windows that hold each symbol in exact proportion; every position masked once per window
    # and length would be exact, so the sampled bound must agree within its own error.
    text = np.repeat(np.arange(7), [40, 25, 15, 10, 5, 3, 2])
    windows = np.stack([np.random.default_rng(i).permutation(text) for i in range(200)])
    result = validation_nelbo(unigram(UNIGRAM), windows, EvaluationConfig(draws=8), 7)
    assert result.loss == pytest.approx(1.561140200767783, abs=3 * result.stderr)
    assert result.stderr < 0.01


def test_bound_of_a_dependent_source_under_its_exact_conditionals_is_its_entropy():
    entropy = -(JOINT * np.log(JOINT)).sum()
    pairs = np.array(list(product(range(3), repeat=2)))
    repeats = np.round(JOINT.ravel() * 2000).astype(int)
    windows = np.repeat(pairs, repeats, axis=0)
    result = validation_nelbo(markov_pair(JOINT), windows, EvaluationConfig(draws=8), 3)
    # Nats per token: half of the pair's.
    assert result.loss == pytest.approx(entropy / 2, abs=3 * result.stderr)
    assert result.stderr < 0.02


def test_bound_of_a_wrong_model_is_the_oracles_two_token_value():
    toy = load("closed_forms")["two_token"]
    none, given = np.array(toy["none"]), np.array(toy["given_other"])

    def table(tokens):
        rows = [
            [none[i] if row[1 - i] == 3 else given[i][row[1 - i]] for i in (0, 1)]
            for row in tokens
        ]
        return torch.tensor(np.array(rows)).log()

    for text, expected in toy["exact"]:
        windows = np.tile(np.array(text), (600, 1))
        evaluation = EvaluationConfig(draws=4)
        result = validation_nelbo(TableDenoiser(3, table), windows, evaluation, 3)
        # A text's masks: k = 2 once in two (exact), else one of two positions (the noise).
        assert 2 * result.loss == pytest.approx(expected, abs=8 * result.stderr + 1e-9)


def small_model(seed):
    model = ModelConfig(seq_len=32, head_dim=8, ffn_multiple=8, init_std=0.3)
    module = DiffusionTransformer(make_shape(16, 2, model), model, 11)
    module.initialise(model, seed)
    return module


def test_every_model_is_asked_the_same_questions():
    windows = np.random.default_rng(0).integers(0, 11, (64, 32))
    evaluation = EvaluationConfig(sequences=64, draws=4)
    first = validation_nelbo(small_model(0), windows, evaluation, 11)
    again = validation_nelbo(small_model(0), windows, evaluation, 11)
    assert first.loss == again.loss
    assert (first.per_sequence == again.per_sequence).all()
    nearby = small_model(0)
    with torch.no_grad():
        nearby.embedding.weight.mul_(1.01)
    other = validation_nelbo(nearby, windows, evaluation, 11)
    assert other.loss != first.loss
    assert paired_stderr(first.per_sequence, other.per_sequence) < 0.2 * first.stderr


def test_the_result_does_not_depend_on_how_sequences_are_batched(monkeypatch):
    windows = np.random.default_rng(0).integers(0, 11, (50, 32))
    evaluation = EvaluationConfig(sequences=50, draws=2)
    whole = validation_nelbo(small_model(0), windows, evaluation, 11)
    monkeypatch.setattr("quokka_ray.diffusion.shares._ROWS_OF_TOKENS", 7 * 32)
    parts = validation_nelbo(small_model(0), windows, evaluation, 11)
    np.testing.assert_allclose(whole.per_sequence, parts.per_sequence, rtol=1e-5)


def test_reported_error_is_that_of_redrawn_sequences_and_masks():
    model = small_model(0)
    losses, errors = [], []
    for seed in range(40):
        windows = np.random.default_rng(seed).integers(0, 11, (32, 32))
        result = validation_nelbo(model, windows, EvaluationConfig(draws=2, seed=seed), 11)
        losses.append(result.loss)
        errors.append(result.stderr)
    # Stratification over sequences makes the true error smaller than the reported one, never
    # larger by more than the sampling error of forty draws.
    assert np.std(losses) < 1.4 * np.mean(errors)
    assert np.std(losses) > 0.2 * np.mean(errors)


def test_identity_names_data_and_bound_apart():
    base = ("hash", "bytes-v1", 64)
    one = evaluator_id(*base, EvaluationConfig(sequences=512, draws=4, seed=0))
    data, bound = one.split("/")
    assert bound == "exactk4-s0-v1"
    more_draws = evaluator_id(*base, EvaluationConfig(sequences=512, draws=8, seed=0))
    assert more_draws.split("/") == [data, "exactk8-s0-v1"]
    for other in (
        evaluator_id("other", "bytes-v1", 64, EvaluationConfig()),
        evaluator_id("hash", "other", 64, EvaluationConfig()),
        evaluator_id("hash", "bytes-v1", 128, EvaluationConfig()),
        evaluator_id(*base, EvaluationConfig(sequences=100)),
        evaluator_id(*base, EvaluationConfig(seed=1)),
    ):
        assert other.split("/")[0] != data


KERNELS = {
    "uniform": DiffusionConfig(kernel="uniform"),
    "hybrid": DiffusionConfig(kernel="hybrid", hybrid_p_uniform=0.2),
    "log_snr_hybrid": DiffusionConfig(kernel="log_snr_hybrid"),
    "none": DiffusionConfig(kernel="none", objective="next_token"),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_bound_of_an_independent_source_is_its_entropy(kernel):
    # What leaves a token's own noisy value out knows nothing of it: the source itself is optimal.
    text = np.repeat(np.arange(7), [40, 25, 15, 10, 5, 3, 2])
    windows = np.stack([np.random.default_rng(i).permutation(text) for i in range(200)])
    evaluation, denoiser = EvaluationConfig(draws=8), unigram(UNIGRAM)
    result = validation_loss(denoiser, windows, evaluation, 7, "cpu", KERNELS[kernel])
    assert result.loss == pytest.approx(1.561140200767783, abs=3 * result.stderr + 1e-12)
    assert result.stderr < 0.025


def test_levels_are_stratified_within_a_sequence_and_over_all():
    places = validation_places(0, sequences=32, draws=4)
    assert ((places * 4).astype(int) == np.arange(4)[:, None]).all()
    assert sorted((places * 128).astype(int).ravel()) == list(range(128))


def timed_model(diffusion):
    model = ModelConfig(seq_len=32, head_dim=8, ffn_multiple=8, init_std=0.3)
    model = fit_to_kernel(model, diffusion)
    module = DiffusionTransformer(make_shape(16, 2, model), model, 11)
    module.initialise(model, 0)
    return module


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_bound_depends_on_how_sequences_are_batched_or_ordered(kernel, monkeypatch):
    windows = np.random.default_rng(0).integers(0, 11, (50, 32))
    evaluation, diffusion = EvaluationConfig(sequences=50, draws=2), KERNELS[kernel]
    module = timed_model(diffusion)
    whole = validation_loss(module, windows, evaluation, 11, "cpu", diffusion)
    again = validation_loss(module, windows, evaluation, 11, "cpu", diffusion)
    assert (whole.per_sequence == again.per_sequence).all()
    monkeypatch.setattr("quokka_ray.diffusion.shares._ROWS_OF_TOKENS", 7 * 32)
    monkeypatch.setattr("quokka_ray.diffusion.head._LOGITS_AT_ONCE", 11 * 50)
    parts = validation_loss(module, windows, evaluation, 11, "cpu", diffusion)
    np.testing.assert_allclose(whole.per_sequence, parts.per_sequence, rtol=1e-5)


def test_the_bound_of_uniform_noise_does_not_depend_on_the_schedule_of_training():
    # The levels are the same; only what the model is told of them is its own time.
    told = []

    class Recorder(TableDenoiser):
        def __call__(self, tokens, time=None):
            told.append(time)
            return super().__call__(tokens)

    denoiser = Recorder(11, unigram([1 / 11] * 11))
    windows = np.random.default_rng(0).integers(0, 11, (40, 32))
    losses = []
    for name in ("linear", "cosine"):
        diffusion = DiffusionConfig(kernel="uniform", noise_schedule=name)
        evaluation = EvaluationConfig(sequences=40, draws=1)
        result = validation_loss(denoiser, windows, evaluation, 11, "cpu", diffusion)
        losses.append(result.loss)
    assert losses[0] == losses[1]
    linear, cosine = (time.double() for time in told)
    torch.testing.assert_close((torch.pi / 2 * cosine).sin(), linear, rtol=1e-5, atol=1e-6)


def test_bounds_of_different_noise_share_their_data_and_nothing_else():
    ids = {
        evaluator_id("hash", "bytes-v1", 64, EvaluationConfig(), diffusion)
        for diffusion in (
            *KERNELS.values(),
            DiffusionConfig(),
            DiffusionConfig(kernel="hybrid", hybrid_p_uniform=0.1),
            DiffusionConfig(kernel="hybrid", hybrid_gamma=2),
            DiffusionConfig(kernel="log_snr_hybrid", hybrid_shift=2),
        )
    }
    assert len(ids) == 8
    assert len({one.split("/")[0] for one in ids}) == 1
    # How a model was trained is no part of how it is evaluated.
    same = DiffusionConfig(objective="maskgit", noise_schedule="cosine")
    assert evaluator_id("hash", "bytes-v1", 64, EvaluationConfig(), same) in ids


def test_perplexity_and_bits_per_byte_follow_from_the_loss():
    result = Likelihood(3.2, 0.1, np.array([3.2]))
    assert result.perplexity == pytest.approx(24.532530197109352)
    assert result.bits_per_byte(1000, 4200) == pytest.approx(1.0991962216296864)


@pytest.mark.parametrize("kernel", ["uniform", "hybrid"])
def test_the_error_of_a_bound_of_replaced_tokens_is_that_of_redrawn_noise(kernel):
    denoiser, diffusion = unigram(UNIGRAM), KERNELS[kernel]
    losses, errors = [], []
    for seed in range(40):
        windows = np.random.default_rng(seed).choice(7, (64, 32), p=UNIGRAM)
        evaluation = EvaluationConfig(sequences=64, draws=4, seed=seed)
        result = validation_loss(denoiser, windows, evaluation, 7, "cpu", diffusion)
        assert result.per_sequence.mean() == pytest.approx(result.loss, rel=1e-12)
        losses.append(result.loss)
        errors.append(result.stderr)
    # The spread of forty draws is known to a ninth; its tails are heavy.
    assert np.std(losses) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.4)
    assert np.mean(losses) == pytest.approx(1.561140200767783, abs=3 * np.std(losses) / 40**0.5)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_best_model_under_the_papers_uniform_loss_is_read_as_the_entropy(schedule):
    # Its optimum takes notice of a token's own noisy value, which the bound must not.
    diffusion = DiffusionConfig(
        kernel="uniform", objective="quokka_uniform", noise_schedule=schedule
    )

    class Best(TableDenoiser):
        def __call__(self, tokens, time):
            slope = torch.ones_like(time.double())
            if schedule == "cosine":
                slope = math.pi / 2 * (math.pi / 2 * time.double()).cos()
            logits = torch.tensor(UNIGRAM, dtype=torch.float64).log().expand(*tokens.shape, 7)
            own = torch.log(7 / slope)[:, None].expand(tokens.shape)
            return logits + own[..., None] * torch.nn.functional.one_hot(tokens, 7)

    text = np.repeat(np.arange(7), [40, 25, 15, 10, 5, 3, 2])
    windows = np.stack([np.random.default_rng(i).permutation(text) for i in range(200)])
    best = Best(7, None)
    result = validation_loss(best, windows, EvaluationConfig(draws=8), 7, "cpu", diffusion)
    assert result.loss == pytest.approx(1.561140200767783, abs=3 * result.stderr)
    unread = diffusion.model_copy(update={"objective": "elbo"})
    assert validation_loss(best, windows, EvaluationConfig(), 7, "cpu", unread).loss > 1.8


def test_the_papers_uniform_loss_is_least_where_its_own_value_has_that_much_more():
    # Over draws of the objective itself: moving the own logit either way raises the loss.
    objective = build_objective(
        DiffusionConfig(kernel="uniform", objective="quokka_uniform"), 7, 64, 100
    )
    tokens = np.random.default_rng(0).choice(7, (256, 64), p=UNIGRAM)
    logits = torch.tensor(UNIGRAM, dtype=torch.float64).log()
    losses = []
    for own in (math.log(7) - 0.3, math.log(7), math.log(7) + 0.3):

        def table(noisy, own=own):
            return logits + own * torch.nn.functional.one_hot(noisy, 7)

        draws = [objective.draw(0, step, tokens).map(torch.from_numpy) for step in range(20)]
        model = TableDenoiser(7, table)
        losses.append(
            sum(objective.loss(model, torch.from_numpy(tokens), one).item() for one in draws)
        )
    assert losses[1] < min(losses[0], losses[2])
