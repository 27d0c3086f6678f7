"""Which tokens are masked: exact counts in antithetic pairs, or each token by itself.

Substituting the mask rate for time, the ELBO of masked diffusion does not depend on the schedule.
Drawing the number k of masked tokens uniformly from 1..L and weighting by L / k is an unbiased
estimator of it without any cut-off near t = 0. Rows come in pairs with k and L + 1 - k masked
tokens, so that every batch of B rows has exactly B (L + 1) / 2: the head's rows have a static
shape, and the batch's noise level is balanced.

A noise schedule other than the linear one is another density of mask rates. Counts are then drawn
with the probabilities P(k) that it gives to the rates between (k - 1) / L and k / L, in pairs of
opposite quantiles, and weighted by 1 / (k P(k)): unbiased as well, but the batch's total is no
longer fixed.

Masks are drawn on the CPU from Philox generators whose counter is the step: they depend on the
seed and the step alone, not on what was drawn before, on the device, or on how a batch is split.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quokka_ray.diffusion.schedules import NoiseSchedule
from quokka_ray.diffusion.times import antithetic

_KEPT = 1 << 21
"""Tokens of all draws whose masks are kept: 8 MiB of positions."""

TRAINING, VALIDATION, DROPOUT = 1, 2, 3
"""Purposes of a stream: two purposes never share random numbers under one seed."""


def stream(seed: int, purpose: int, *position: int) -> np.random.Generator:
    """Return the generator of one position (up to three numbers) of a seeded stream."""
    low_bits = (1 << 64) - 1
    counter = [0, *position, *[0] * (3 - len(position))]
    key = np.array([seed & low_bits, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


@dataclass(frozen=True)
class Masks:
    """The masks of a batch of B sequences of L tokens.

    Attributes:
        counts: int64 [B], masked tokens k of each row.
        flat: int64 [M], positions in the flattened batch [B * L], row by row.
    """

    counts: np.ndarray
    flat: np.ndarray

    def weights(self, seq_len: int, power: float = 1.0) -> np.ndarray:
        """Return float32 [M]: (L / k) ** power of each masked position's row."""
        per_row = (seq_len / self.counts) ** power
        return np.repeat(per_row, self.counts).astype(np.float32)


def place(generator: np.random.Generator, counts: np.ndarray, seq_len: int) -> Masks:
    """Mask `counts[i]` positions of row i, every subset of that size being equally likely."""
    return first_of(generator.random((len(counts), seq_len), dtype=np.float32), counts)


def first_of(noise: np.ndarray, counts: np.ndarray) -> Masks:
    """Mask the positions of each row's `counts[i]` lowest numbers of `noise` (float32 [B, L])."""
    rows, seq_len = noise.shape
    order = noise.argsort(axis=1)
    order += np.arange(0, rows * seq_len, seq_len)[:, None]
    return Masks(counts, order[np.arange(seq_len) < counts[:, None]])


def antithetic_masks(seed: int, step: int, batch: int, seq_len: int) -> Masks:
    """Draw the training masks of one step: B (L + 1) / 2 masked tokens in all.

    Row 2p has k masked tokens and row 2p + 1 has L + 1 - k. The pairs' k are stratified over the
    lower half of 1..L and so their partners' over the upper half, which makes each row's k
    uniform on 1..L on average over the rows.

    Args:
        seed: The run's seed.
        step: The optimiser step that the masks are for.
        batch: Rows B, even.
        seq_len: Tokens L of a row.
    """
    pairs = batch // 2
    generator = stream(seed, TRAINING, step)
    rate = (np.arange(pairs) + generator.random(pairs)) / batch
    counts = np.empty(batch, dtype=np.int64)
    counts[0::2] = np.minimum(1 + (rate * seq_len).astype(np.int64), (seq_len + 1) // 2)
    counts[1::2] = seq_len + 1 - counts[0::2]
    return place(generator, counts, seq_len)


def count_probabilities(schedule: NoiseSchedule, seq_len: int) -> np.ndarray:
    """Return float64 [L]: the probability of k = 1..L masked tokens under a noise schedule.

    P(k) is the time that the schedule spends at mask rates from (k - 1) / L to k / L. A schedule
    that leaves out the lowest or highest rates would never draw some counts, and no weight makes
    up for that: then a hundredth of the draws is spread over all of them.
    """
    edges = schedule.inverse(np.arange(1, seq_len) / seq_len)
    edges = np.concatenate(([0.0], np.clip(edges, 0.0, 1.0), [1.0]))
    probabilities = np.diff(edges)
    if (probabilities <= 0).any():
        probabilities = 0.99 * probabilities + 0.01 / seq_len
    return probabilities / probabilities.sum()


def scheduled_masks(seed: int, step: int, batch: int, probabilities: np.ndarray) -> Masks:
    """Draw the training masks of one step, counts k = 1..L having `probabilities` (float64 [L]).

    Rows 2p and 2p + 1 take opposite quantiles of the counts, stratified over the pairs.
    """
    generator = stream(seed, TRAINING, step)
    quantiles = antithetic(generator, batch)
    counts = 1 + np.searchsorted(probabilities.cumsum(), quantiles, side="right")
    return place(generator, np.minimum(counts, len(probabilities)), len(probabilities))


def independent_masks(generator: np.random.Generator, rates: np.ndarray, seq_len: int) -> Masks:
    """Mask each token of row i by itself with probability `rates[i]` (float64 [B]).

    A row may be left without a mask.
    """
    masked = generator.random((len(rates), seq_len)) < rates[:, None]
    return Masks(masked.sum(1), masked.ravel().nonzero()[0])


def at_least_one(generator: np.random.Generator, masks: Masks, seq_len: int) -> Masks:
    """Return `masks` with one token, drawn uniformly, masked in each row that has none."""
    empty = (masks.counts == 0).nonzero()[0]
    added = empty * seq_len + generator.integers(0, seq_len, len(empty))
    flat = np.sort(np.concatenate((masks.flat, added)))
    return Masks(np.maximum(masks.counts, 1), flat)


def validation_masks(seed: int, sequences: int, draws: int, seq_len: int) -> tuple[Masks, ...]:
    """Return `draws` masks of every validation sequence, the same for every model.

    Small ones are kept: drawing them takes as long as a tiny model needs to read them, and the
    next trial of the process wants the same. Nobody writes to them.

    The counts k are stratified twice: a sequence's draws fall in different parts of 1..L, and all
    sequences' draws together cover it evenly. Positions depend on the seed, the sequence and the
    draw alone.

    Returns:
        For each draw, the masks of all sequences in order.
    """
    few = sequences * draws * seq_len <= _KEPT
    drawn = _drawn_before if few else _drawn
    return drawn(seed, sequences, draws, seq_len)


def _drawn(seed: int, sequences: int, draws: int, seq_len: int) -> tuple[Masks, ...]:
    total = sequences * draws
    generator = stream(seed, VALIDATION)
    state = generator.bit_generator.state
    noise = np.empty((sequences, seq_len), dtype=np.float32)
    masks = []
    for draw in range(draws):
        shared = stream(seed, VALIDATION, 0, draw)
        cell = draw * sequences + shared.permutation(sequences)
        rate = (cell + shared.random(sequences)) / total
        counts = np.minimum(1 + (rate * seq_len).astype(np.int64), seq_len)
        for sequence, row in enumerate(noise):
            # One generator that is told its place, in the place of one made for each row.
            state["state"]["counter"] = np.array([0, 1 + sequence, draw, 0], dtype=np.uint64)
            generator.bit_generator.state = state
            generator.random(dtype=np.float32, out=row)
        flat = first_of(noise, counts).flat
        for array in (counts, flat):
            array.flags.writeable = False
        masks.append(Masks(counts, flat))
    return tuple(masks)


_drawn_before = lru_cache(maxsize=2)(_drawn)
