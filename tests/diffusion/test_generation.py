"""Text written by denoisers that know what it should be: samplers, prompts, calls, seeds."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import TableDenoiser, markov_pair, unigram

from quokka_ray.diffusion.canvas import Canvas
from quokka_ray.diffusion.generation import generate
from quokka_ray.diffusion.noised import own_logit
from quokka_ray.diffusion.processes import Hybrid, LogSnrHybrid, Mask, Uniform
from quokka_ray.diffusion.samplers import SAMPLERS, Sampling
from quokka_ray.diffusion.schedules import Cosine, Geometric, Linear, Poly
from quokka_ray.errors import ConfigurationError

ORACLE = json.loads((Path(__file__).parent / "data" / "sampling.json").read_text())
PERIOD = 10


class Periodic:
    """Knows a text that repeats 0..9: one visible token tells all others, wherever it stands."""

    mask_id = PERIOD

    def __init__(self, seq_len=64, causal=False):
        self.seq_len, self.causal = seq_len, causal
        self.calls = 0

    def __call__(self, tokens, time=None):
        self.calls += 1
        assert tokens.shape[1] <= self.seq_len
        place = torch.arange(tokens.shape[1])
        phase = torch.full((len(tokens), tokens.shape[1]), -1)
        for row, text in enumerate(tokens):
            seen = (text < PERIOD).nonzero()[:, 0]
            if len(seen):
                phase[row] = (text[seen[-1]] - seen[-1] + place + self.causal) % PERIOD
        known = torch.nn.functional.one_hot(phase.clamp(min=0), PERIOD) * 40.0
        return known * (phase >= 0)[..., None]

    def logits(self, rows):
        return rows


class Timed:
    """A denoiser that is told the time and does not need it."""

    def __init__(self, model):
        self.mask_id, self.logits, self._model = model.mask_id, model.logits, model

    def __call__(self, tokens, time=None):
        return self._model(tokens)


def hole_canvas(tokens, holes):
    return Canvas(np.array(tokens, dtype=np.int64), np.array(holes, dtype=bool))


def periodic_canvas(before, hole, after=0, phase=3):
    text = (phase + np.arange(before + hole + after)) % PERIOD
    holes = np.zeros(len(text), dtype=bool)
    holes[before : before + hole] = True
    return Canvas(np.where(holes, 0, text), holes), text


def last(drafts):
    *_, final = drafts
    return final


def mask(vocab_size=PERIOD, schedule=None):
    return Mask(schedule or Linear(), vocab_size)


def oracle_toy():
    weights = torch.tensor(ORACLE["toy"]["W"], dtype=torch.float64)
    bias = torch.tensor(ORACLE["toy"]["pos_bias"], dtype=torch.float64)
    return TableDenoiser(
        ORACLE["toy"]["mask_id"], lambda x: (bias + weights[x].mean(1, keepdim=True))[..., :10]
    )


@pytest.mark.parametrize("name", ORACLE["traces"])
def test_confidence_and_blocks_follow_llada_step_by_step(name):
    block, steps = (int(part) for part in name.removeprefix("block").split("_steps"))
    case, prompt, length = ORACLE["traces"][name], ORACLE["toy"]["prompt"][0], 8
    canvas = hole_canvas(prompt + [0] * length, [False] * len(prompt) + [True] * length)
    sampler = "confidence" if block == length else "blocks"
    # LLaDA spends `steps` in all and splits them evenly over the blocks.
    sampling = Sampling(steps=steps, sampler=sampler, block=block, temperature=0)
    drafts = list(generate(oracle_toy(), canvas, mask(), sampling, seq_len=12))
    assert [draft.tokens[0].tolist() for draft in drafts[:-1]] == case["trace"]
    assert drafts[-1].tokens[0].tolist() == case["output"]


def test_an_ancestral_step_has_the_published_probabilities():
    case = ORACLE["ancestral"]
    logits = torch.tensor(case["logits"], dtype=torch.float64)[3, :, :10]  # a row of masks only
    texts = 20_000
    canvas = hole_canvas([0] * 8, [True] * 8)
    # Of 20 even steps from t = 1 the first goes from 1 to s with s / t = 0.95.
    drafts = generate(
        TableDenoiser(10, lambda x: logits.expand(len(x), -1, -1)),
        canvas, mask(), Sampling(steps=20), seq_len=8, count=texts,
    )  # fmt: skip
    next(drafts)
    tokens = next(drafts).tokens
    published = np.array(case["law"])[3]  # its s / t is 0.85 / 0.95
    law = published[:, :10] / published[:, :10].sum(1, keepdims=True)
    law = np.concatenate((0.05 * law, np.full((8, 1), 0.95)), axis=1)
    counts = np.stack([np.bincount(tokens[:, i], minlength=11) for i in range(8)])
    error = (counts - texts * law) / np.sqrt(texts * law * (1 - law) + 1)
    assert np.abs(error).max() < 5


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Poly(2.0), Geometric()])
def test_ancestral_texts_have_the_models_joint_law(schedule):
    joint = np.array([[0.40, 0.05, 0.05], [0.02, 0.20, 0.03], [0.05, 0.05, 0.15]])
    canvas = hole_canvas([0, 0], [True, True])
    final = last(
        generate(
            markov_pair(joint), canvas, mask(3, schedule), Sampling(steps=32),
            seq_len=2, count=1500,
        )
    )  # fmt: skip
    counts = np.zeros((3, 3))
    np.add.at(counts, (final.tokens[:, 0], final.tokens[:, 1]), 1)
    assert np.abs(counts / 1500 - joint).max() < 5 * np.sqrt(0.24 / 1500)
    assert abs(np.trace(counts) / 1500 - np.trace(joint)) < 5 * np.sqrt(0.19 / 1500)


@pytest.mark.parametrize(
    "process",
    [
        Uniform(Linear(), 4), Uniform(Cosine(), 4), Hybrid(Linear(), 4, p_uniform=0.3),
        LogSnrHybrid(Linear(), 4, shift=1.0), Mask(Geometric(spanning=False), 4),
    ],
    ids=lambda process: f"{type(process).__name__}-{type(process.schedule).__name__}",
)  # fmt: skip
@pytest.mark.parametrize("steps", [1, 7])
def test_every_noise_gives_an_independent_source_back(process, steps):
    law = np.array([0.5, 0.3, 0.15, 0.05])
    model = Timed(unigram(law))
    canvas = hole_canvas([0] * 10, [True] * 10)
    final = last(generate(model, canvas, process, Sampling(steps=steps), seq_len=10, count=800))
    counts = np.bincount(final.tokens.ravel(), minlength=5)
    assert counts[4] == 0
    assert np.abs(counts[:4] / 8000 - law).max() < 5 * np.sqrt(0.25 / 8000)


def test_what_a_token_adds_to_its_own_logit_is_taken_off_before_a_step():
    process, law = Uniform(Cosine(), 4), np.array([0.5, 0.3, 0.15, 0.05])

    class Noticing(TableDenoiser):
        def __call__(self, tokens, time):
            own = torch.from_numpy(own_logit(process, time.double().numpy()))
            own_token = torch.nn.functional.one_hot(tokens, 4) * own[:, None, None]
            return super().__call__(tokens) + own_token

    model = Noticing(4, lambda x: torch.tensor(law).log().expand(*x.shape, -1))
    canvas = hole_canvas([0] * 10, [True] * 10)
    shares = {}
    for notices_own in (True, False):
        final = last(
            generate(
                model, canvas, process, Sampling(steps=7), seq_len=10, count=800,
                notices_own=notices_own,
            )
        )  # fmt: skip
        shares[notices_own] = np.bincount(final.tokens.ravel(), minlength=4) / 8000
    assert np.abs(shares[True] - law).max() < 5 * np.sqrt(0.25 / 8000)
    assert np.abs(shares[False] - law).max() > 10 * np.sqrt(0.25 / 8000)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("after", [0, 20])
def test_a_known_text_is_written_out(sampler, after):
    canvas, text = periodic_canvas(5, 30, after)
    sampling = Sampling(steps=15, sampler=sampler, block=8)
    assert last(generate(Periodic(), canvas, mask(), sampling, seq_len=64)).tokens[0].tolist() == (
        text.tolist()
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("after", [0, 9])
def test_a_text_longer_than_the_sequence_is_written_through_a_sliding_window(sampler, after):
    canvas, text = periodic_canvas(7, 300, after)
    model = Periodic(seq_len=32)
    sampling = Sampling(steps=60, sampler=sampler, block=12)
    final = last(generate(model, canvas, mask(), sampling, seq_len=32))
    assert final.tokens[0].tolist() == text.tolist()
    assert model.calls == final.model_calls <= 60


def test_uniform_noise_is_denoised_in_blocks_through_a_window():
    class Oracle(Periodic):
        def __call__(self, tokens, time):
            # The leftmost tokens are given or done: noise beyond the block is not shown.
            place = torch.arange(tokens.shape[1])
            return torch.nn.functional.one_hot((tokens[:, :1] + place) % PERIOD, PERIOD) * 40.0

    canvas, text = periodic_canvas(7, 100)
    process = Uniform(Linear(), PERIOD)
    final = last(generate(Oracle(), canvas, process, Sampling(steps=40, block=8), seq_len=32))
    assert final.tokens[0].tolist() == text.tolist()
    assert final.settled.all()


def test_a_causal_model_continues_a_text_beyond_its_sequence():
    canvas, text = periodic_canvas(5, 60)
    drafts = list(generate(Periodic(16, causal=True), canvas, None, Sampling(), seq_len=16))
    assert drafts[-1].tokens[0].tolist() == text.tolist()
    assert drafts[-1].model_calls == 60
    assert len(drafts) == 61


def test_a_causal_model_starts_from_the_start_token():
    canvas, _ = periodic_canvas(0, 12)
    model = Periodic(16, causal=True)
    final = last(generate(model, canvas, None, Sampling(), seq_len=16, start_token=6))
    assert final.tokens[0].tolist() == [(7 + i) % PERIOD for i in range(12)]


def test_256_tokens_in_64_steps_cost_64_calls_or_fewer():
    for sampler in SAMPLERS:
        for seq_len in (64, 512):
            model = Periodic(seq_len)
            canvas, _ = periodic_canvas(0, 256)
            sampling = Sampling(steps=64, sampler=sampler)
            final = last(generate(model, canvas, mask(), sampling, seq_len=seq_len))
            assert model.calls == final.model_calls <= 64
            assert final.steps == 64


def test_steps_in_which_nothing_settles_cost_no_call():
    for sampler in SAMPLERS:
        model = Periodic()
        canvas, _ = periodic_canvas(3, 16)
        last(generate(model, canvas, mask(), Sampling(steps=500, sampler=sampler), seq_len=64))
        assert model.calls <= 16


def test_a_model_that_is_told_no_time_is_not_asked_twice_about_the_same_text():
    class Sure(Periodic):
        def __call__(self, tokens, time=None):
            self.calls += 1
            return torch.zeros(*tokens.shape, PERIOD).index_fill(-1, torch.tensor([4]), 90.0)

    canvas, _ = periodic_canvas(3, 16)
    calls = {}
    for needs_time in (False, True):
        model, process = Sure(), Uniform(Linear(), PERIOD, needs_time=needs_time)
        last(generate(model, canvas, process, Sampling(steps=300), seq_len=64))
        calls[needs_time] = model.calls
    assert calls[True] == 300
    assert calls[False] < 100


def test_equal_seeds_write_equal_texts_however_many_are_made_beside_them():
    model = unigram([0.25] * 4)
    canvas = hole_canvas([0] * 12, [True] * 12)

    def texts(seed, **which):
        sampling = Sampling(steps=6, seed=seed)
        return last(generate(model, canvas, mask(4), sampling, seq_len=12, **which)).tokens

    three = texts(5, count=3)
    assert (texts(5, count=3) == three).all()
    assert (texts(5, count=1, first=2)[0] == three[2]).all()
    assert len({tuple(row) for row in three}) == 3
    assert (texts(6, count=3) != three).any()


def test_at_temperature_0_the_surest_text_does_not_depend_on_the_seed():
    for sampler in ("confidence", "blocks"):
        canvas = hole_canvas([1, 2] + [0] * 10, [False] * 2 + [True] * 10)
        drafts = []
        for seed in range(4):
            sampling = Sampling(steps=5, sampler=sampler, temperature=0, seed=seed)
            final = last(generate(oracle_toy(), canvas, mask(), sampling, seq_len=12))
            drafts.append(final.tokens.tolist())
        assert all(draft == drafts[0] for draft in drafts)


def test_a_low_temperature_and_top_p_leave_the_probable_tokens():
    model, canvas = unigram([0.5, 0.3, 0.15, 0.05]), hole_canvas([0] * 200, [True] * 200)

    def share(**how):
        drafts = generate(model, canvas, mask(4), Sampling(**how), seq_len=200, count=10)
        tokens = last(drafts).tokens
        return np.bincount(tokens.ravel(), minlength=4) / tokens.size

    assert np.allclose(share(top_p=0.79), [0.625, 0.375, 0, 0], atol=0.06)
    cold = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    assert np.allclose(share(temperature=0.5), cold / cold.sum(), atol=0.06)
    assert share(temperature=0)[0] == 1


def test_noise_removal_by_argmax_settles_the_rest_at_once():
    model, canvas = unigram([0.4, 0.35, 0.25]), hole_canvas([0] * 50, [True] * 50)
    final = last(
        generate(model, canvas, mask(3), Sampling(steps=1, noise_removal="argmax"), seq_len=50)
    )
    assert (final.tokens == 0).all()


@st.composite
def canvases(draw, vocab_size=4):
    size = draw(st.integers(1, 24))
    tokens = draw(st.lists(st.integers(0, vocab_size - 1), min_size=size, max_size=size))
    holes = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return hole_canvas(tokens, [*holes[:-1], True])


@settings(deadline=None, max_examples=150)
@given(
    canvas=canvases(),
    sampler=st.sampled_from(SAMPLERS),
    noise=st.sampled_from([Mask, Uniform, Hybrid, None]),
    steps=st.integers(24, 40),
    block=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([0.5, 1.0]),
    seq_len=st.integers(25, 30) | st.integers(8, 16),
)
def test_prompts_are_never_altered_and_what_is_settled_stays(
    canvas, sampler, noise, steps, block, temperature, top_p, seq_len
):
    process = None if noise is None else noise(Linear(), 4, needs_time=False)
    sampling = Sampling(
        steps=steps, sampler=sampler, block=block, temperature=temperature, top_p=top_p
    )
    drafts = []
    try:
        model = unigram([0.4, 0.3, 0.2, 0.1])
        drafts += generate(model, canvas, process, sampling, seq_len=seq_len, count=2)
    except ConfigurationError as error:
        assert not drafts
        text = str(error)
        assert ("prompt" in text) == (canvas.given >= seq_len)
        return
    for before, after in itertools.pairwise(drafts):
        assert (after.settled >= before.settled).all()
        assert (after.tokens == before.tokens)[before.settled].all()
        assert after.step > before.step
    final = drafts[-1]
    assert (final.tokens[:, ~canvas.holes] == canvas.tokens[~canvas.holes]).all()
    assert final.settled.all()
    assert final.tokens.max() < 4
    assert final.step == final.steps
    assert final.model_calls <= final.steps


def test_misfits_are_refused():
    canvas, _ = periodic_canvas(5, 5, 5)

    def refusal(process, seq_len=64, canvas=canvas, **how):
        with pytest.raises(ConfigurationError) as raised:
            list(generate(Periodic(), canvas, process, Sampling(**how), seq_len=seq_len))
        return str(raised.value)

    assert "prompt has 10 tokens, and the model reads 10" in refusal(mask(), seq_len=10)
    assert "before given text" in refusal(None)
    assert "uniform noise" in refusal(Uniform(Linear(), 10), sampler="confidence")
    assert "2 steps are too few for 3 blocks" in refusal(
        mask(), sampler="blocks", block=2, steps=2
    )
    for wrong in (
        {"steps": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0},
        {"top_p": 1.1}, {"block": 0}, {"sampler": "beam"}, {"noise_removal": "none"},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=next(iter(wrong)).replace("_", ".")):
            Sampling(**wrong)


def test_texts_differ_as_the_model_is_unsure():
    canvas = hole_canvas([0] * 4, [True] * 4)
    final = last(
        generate(unigram([0.5, 0.5]), canvas, mask(2), Sampling(steps=4), seq_len=4, count=200)
    )
    assert len(Counter(map(tuple, final.tokens.tolist()))) == 16
