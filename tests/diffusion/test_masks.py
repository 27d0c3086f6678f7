import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markov import entropy_per_token, masked_losses, sample

from quokka_ray.diffusion.masked import MaskSampler
from quokka_ray.diffusion.masks import (
    VALIDATION,
    antithetic_masks,
    at_least_one,
    count_probabilities,
    independent_masks,
    place,
    scheduled_masks,
    stream,
    validation_masks,
)
from quokka_ray.diffusion.schedules import Cosine, Geometric, Linear, Poly, SigmaLinear
from quokka_ray.diffusion.times import TimeSampler


@pytest.mark.parametrize(("batch", "seq_len"), [(8, 64), (2, 9), (6, 7), (256, 16), (4, 2)])
def test_every_batch_masks_exactly_half_of_its_tokens_and_a_bit(batch, seq_len):
    for step in range(50):
        masks = antithetic_masks(3, step, batch, seq_len)
        assert len(masks.flat) == batch * (seq_len + 1) // 2
        assert (masks.counts[0::2] + masks.counts[1::2] == seq_len + 1).all()
        rows = np.bincount(masks.flat // seq_len, minlength=batch)
        assert (rows == masks.counts).all()
        assert len(np.unique(masks.flat)) == len(masks.flat)


@pytest.mark.parametrize("seq_len", [8, 7])
def test_counts_are_uniform_from_one_to_the_length(seq_len):
    counts = np.concatenate([antithetic_masks(0, s, 6, seq_len).counts for s in range(7000)])
    seen = np.bincount(counts, minlength=seq_len + 1)[1:]
    assert len(seen) == seq_len
    np.testing.assert_allclose(seen / len(counts), 1 / seq_len, rtol=0.05)


def test_counts_of_a_batch_are_stratified():
    for step in range(20):
        counts = np.sort(antithetic_masks(0, step, 8, 64).counts)
        assert ((counts - 1) // 8 == np.arange(8)).all()


def test_masked_positions_are_uniform_given_their_count():
    generator = stream(0, 9, 0)
    counts = np.full(20_000, 3)
    flat = place(generator, counts, 5).flat
    np.testing.assert_allclose(np.bincount(flat % 5) / 20_000, 3 / 5, rtol=0.03)


def test_masks_depend_on_seed_and_step_and_nothing_else():
    first = antithetic_masks(1, 7, 8, 64)
    antithetic_masks(1, 8, 8, 64)
    again = antithetic_masks(1, 7, 8, 64)
    assert (first.flat == again.flat).all()
    for other in (antithetic_masks(1, 8, 8, 64), antithetic_masks(2, 7, 8, 64)):
        assert not np.array_equal(first.flat, other.flat)


def test_a_validation_sequence_has_a_stream_of_its_own_for_each_draw():
    for draw, masks in enumerate(validation_masks(3, sequences=5, draws=2, seq_len=16)):
        parts = np.split(masks.flat, masks.counts.cumsum()[:-1])
        for row, flat in enumerate(parts):
            own = place(stream(3, VALIDATION, 1 + row, draw), masks.counts[row, None], 16)
            assert np.array_equal(flat, own.flat + 16 * row)


def test_validation_masks_are_kept_for_the_next_model_and_cannot_be_written_to():
    first = validation_masks(0, sequences=32, draws=4, seq_len=64)
    assert validation_masks(0, sequences=32, draws=4, seq_len=64) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0].flat += 1


def test_validation_masks_are_stratified_within_a_sequence_and_over_all():
    masks = validation_masks(0, sequences=32, draws=4, seq_len=64)
    counts = np.stack([m.counts for m in masks], axis=1)
    assert ((counts - 1) // 16 == np.arange(4)).all()
    assert (np.bincount(counts.ravel(), minlength=65)[1:] == 2).all()
    for m in masks:
        assert (np.bincount(m.flat // 64, minlength=32) == m.counts).all()


def test_weights_are_a_power_of_the_inverse_mask_rate():
    masks = antithetic_masks(0, 0, 2, 4)
    expected = np.repeat((4 / masks.counts) ** 0.5, masks.counts)
    np.testing.assert_allclose(masks.weights(4, 0.5), expected, rtol=1e-6)
    assert (masks.weights(4, 0.0) == 1).all()


PUBLISHED = SigmaLinear(0.1, 20.0, spanning=False)  # Leaves out the lowest rates.
SCHEDULES = [Cosine(), Poly(2.0), Poly(0.5), Geometric(), SigmaLinear(), PUBLISHED]


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(seq_len=st.integers(2, 300))
def test_counts_of_a_schedule_have_probabilities_and_can_all_occur(schedule, seq_len):
    probabilities = count_probabilities(schedule, seq_len)
    assert probabilities.shape == (seq_len,)
    assert (probabilities > 0).all()
    assert probabilities.sum() == pytest.approx(1, rel=1e-12)


def test_counts_of_the_linear_schedule_are_uniform():
    np.testing.assert_allclose(count_probabilities(Linear(), 64), 1 / 64, rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weighted_counts_of_a_schedule_give_the_mean_over_uniform_counts(schedule):
    # For any function of the count: what exact-k averages, L / k under uniform counts.
    length = 24
    sampler = MaskSampler(schedule, length, None, 1)
    summed = np.zeros(length)
    total = 0
    for step in range(800):
        drawn = sampler.draw(0, step, 32)
        summed += np.bincount(drawn.masks.counts - 1, drawn.weights, length)
        total += 32
    counts = np.arange(1, length + 1)
    probabilities = count_probabilities(schedule, length)
    expected = 1 / counts
    spread = expected * np.sqrt((1 / probabilities - 1) / total)
    assert (np.abs(summed / total - expected) < 5 * spread).all()


def test_counts_of_a_schedule_are_stratified_in_opposite_pairs():
    probabilities = count_probabilities(Cosine(), 64)
    cumulative = probabilities.cumsum()
    for step in range(20):
        counts = scheduled_masks(0, step, 8, probabilities).counts
        middle = (cumulative[counts - 1] + np.r_[0, cumulative][counts - 1]) / 2
        assert np.abs(np.sort(middle) - (np.arange(8) + 0.5) / 8).max() < 1 / 8
        assert (np.abs(middle[0::2] + middle[1::2] - 1) < 0.1).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.integers(2, 20), st.integers(0, 99))
def test_masks_drawn_by_themselves_are_counted_exactly(rates, seq_len, seed):
    generator = stream(seed, 9, 0)
    masks = independent_masks(generator, np.array(rates), seq_len)
    some = at_least_one(generator, masks, seq_len)
    for drawn in (masks, some):
        assert (np.bincount(drawn.flat // seq_len, minlength=len(rates)) == drawn.counts).all()
        assert len(np.unique(drawn.flat)) == len(drawn.flat)
    assert (some.counts >= 1).all()
    assert (some.counts[masks.counts > 0] == masks.counts[masks.counts > 0]).all()


def estimates(sampler, texts, steps=1250, rows=16):
    """Return batch estimates [steps] of the NELBO per token of `texts(step)`, int64 [rows, 64]."""
    length, found = 64, []
    for first in range(0, steps, 250):
        drawn = [sampler.draw(3, step, rows) for step in range(first, first + 250)]
        masked = np.zeros((250, rows * length), dtype=bool)
        for row, one in zip(masked, drawn, strict=True):
            row[one.masks.flat] = True
        tokens = np.concatenate([texts(step) for step in range(first, first + 250)])
        masked = masked.reshape(-1, length)
        sums = (masked_losses(tokens, masked) * masked).sum(1)
        weights = np.concatenate([one.weights * one.correction for one in drawn])
        found.append((sums * weights / length).reshape(250, rows).mean(1))
    return np.concatenate(found)


@pytest.mark.parametrize("fixed", [False, True])
def test_antithetic_counts_are_unbiased_and_much_less_noisy_than_masks_by_themselves(fixed):
    data = np.random.default_rng(1)
    text = sample(data, 16, 64)

    def texts(step):
        return data.permutation(text) if fixed else sample(data, 16, 64)

    exact = estimates(MaskSampler(Linear(), 64, None, 1), texts)
    bernoulli = MaskSampler(Linear(), 64, TimeSampler("independent"), 10**6)
    free = estimates(bernoulli, texts)
    assert exact.std() < 0.85 * free.std()
    error = np.hypot(exact.std(), free.std()) / np.sqrt(len(exact))
    assert exact.mean() == pytest.approx(free.mean(), abs=4 * error)
    if not fixed:
        error = exact.std() / np.sqrt(len(exact))
        assert exact.mean() == pytest.approx(entropy_per_token(64), abs=4 * error)
        # Published for 400 such batches, each known to about 4 %.
        assert exact.std() == pytest.approx(0.0442, rel=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_the_bound_does_not_depend_on_the_schedule(schedule):
    data = np.random.default_rng(2)
    sampler = MaskSampler(schedule, 64, None, 1)
    found = estimates(sampler, lambda step: sample(data, 16, 64), steps=750)
    error = found.std() / np.sqrt(len(found))
    assert found.mean() == pytest.approx(entropy_per_token(64), abs=4 * error)
    assert error < 0.005
