import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import TableDenoiser, markov_pair, unigram

from quokka_ray.diffusion.likelihood import evaluator_id, paired_stderr, validation_nelbo
from quokka_ray.model.shapes import make_shape
from quokka_ray.model.transformer import DiffusionTransformer
from quokka_ray.study.config import EvaluationConfig, ModelConfig

ORACLES = Path(__file__).parents[3] / "shared" / "oracles" / "closed_forms.json"
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
    if not ORACLES.exists():
        pytest.skip("needs ../shared/oracles/closed_forms.json")
    toy = json.loads(ORACLES.read_text())["two_token"]
    none, given = np.array(toy["denoiser_none"]), np.array(toy["denoiser_given_other"])

    def table(tokens):
        rows = [
            [none[i] if row[1 - i] == 3 else given[i][row[1 - i]] for i in (0, 1)]
            for row in tokens
        ]
        return torch.tensor(np.array(rows)).log()

    for case in toy["per_x"]:
        windows = np.tile(np.array(case["x"]), (600, 1))
        evaluation = EvaluationConfig(draws=4)
        result = validation_nelbo(TableDenoiser(3, table), windows, evaluation, 3)
        # A text's masks: k = 2 once in two (exact), else one of two positions (the noise).
        assert 2 * result.loss == pytest.approx(case["exact_nelbo"], abs=8 * result.stderr + 1e-9)


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
    monkeypatch.setattr("quokka_ray.diffusion.likelihood._ROWS_OF_TOKENS", 7 * 32)
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
