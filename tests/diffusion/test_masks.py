import numpy as np
import pytest

from quokka_ray.diffusion.masks import antithetic_masks, place, stream, validation_masks


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
