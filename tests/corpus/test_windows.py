"""The order of windows: prefixes nest, epochs are whole, and any place can be asked for."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quokka_ray.corpus import TokenCorpus, WindowOrder, prepare
from quokka_ray.corpus.shuffle import TABLE_LIMIT, Feistel, permutation, seeded
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import CorpusConfig

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 300)).map(lambda t: (t[0], sum(t)))
"""(seq_len, tokens), at least one window."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    folder = tmp_path_factory.mktemp("windows")
    for index in range(60):
        (folder / f"{index}.txt").write_text(f"document number {index} " * 20)
    return TokenCorpus.open(
        prepare(
            CorpusConfig(
                source="files", paths=(str(folder),), cache=folder / "c", validation_fraction=0.3
            )
        )
    )


@given(SHAPES, st.integers(0, 6), st.integers(-3, 3))
def test_an_epoch_reads_all_but_less_than_a_window_and_nothing_twice(
    shape: tuple[int, int], epoch: int, seed: int
) -> None:
    seq_len, size = shape
    order = WindowOrder(np.arange(size, dtype=np.uint16), seq_len, seed)
    seen = order.batch(epoch * order.windows, order.windows)
    assert seen.dtype == np.int64
    assert seen.shape == (size // seq_len, seq_len)
    assert len(np.unique(seen)) == seen.size > size - seq_len
    # Each window is a run of the text, but for the one that lies over the seam.
    np.testing.assert_array_equal(
        (seen - seen[:, :1]) % size, np.tile(np.arange(seq_len), (len(seen), 1))
    )


def test_the_first_epoch_is_cut_at_the_beginning_and_ordered_as_it_always_was() -> None:
    order = WindowOrder(np.arange(1003), 8, seed=3)
    expected = np.random.default_rng([3, 0]).permutation(125)
    np.testing.assert_array_equal(order.batch(0, 125)[:, 0], 8 * expected)


def test_every_epoch_is_cut_elsewhere_and_every_token_has_its_turn() -> None:
    size, seq_len, epochs = 1003, 50, 400
    order = WindowOrder(np.arange(size), seq_len, seed=0)
    firsts = order.starts(0, order.windows * epochs).reshape(epochs, -1)
    offsets = {tuple(np.sort(row)) for row in firsts}
    assert len(offsets) > 0.8 * size * (1 - np.exp(-epochs / size))
    counts = np.bincount(order.batch(0, order.windows * epochs).ravel(), minlength=size)
    # 3 tokens are left out an epoch, anywhere: a token misses 3/1003 of the epochs.
    assert counts.max() <= epochs
    assert counts.min() > epochs - 10


@settings(max_examples=50)
@given(SHAPES, st.integers(0, 500), st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6]), st.data())
def test_a_resume_at_any_step_and_any_world_size_reads_the_same_stream(
    shape: tuple[int, int], first: int, steps: int, world: int, data: st.DataObject
) -> None:
    seq_len, size = shape
    tokens = np.arange(size)
    straight = WindowOrder(tokens, seq_len, 5).batch(first, steps * 12)
    resumed_at = data.draw(st.integers(0, steps))
    read = []
    for step in range(steps):
        # A resume is another process: it knows the place alone.
        if step in (0, resumed_at):
            workers = [WindowOrder(tokens, seq_len, 5) for _ in range(world)]
        share = 12 // world
        for rank, worker in enumerate(workers):
            read.append(worker.batch(first + step * 12 + rank * share, share))
    np.testing.assert_array_equal(np.concatenate(read), straight)


def test_seeds_differ_and_may_be_negative() -> None:
    tokens = np.arange(800)
    one = WindowOrder(tokens, 8, seed=0).batch(0, 100)
    assert not np.array_equal(one, WindowOrder(tokens, 8, seed=1).batch(0, 100))
    WindowOrder(tokens, 8, seed=-1).batch(100, 1)


@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_the_network_is_a_bijection_of_any_count(count: int, seed: int) -> None:
    seen = Feistel(count, seeded(seed))(np.arange(count))
    np.testing.assert_array_equal(np.sort(seen), np.arange(count))


def test_the_network_is_a_bijection_of_a_large_count_in_parts() -> None:
    count = TABLE_LIMIT + 12_345
    order = permutation(count, 7, 1)
    assert isinstance(order, Feistel)
    parts = [order(np.arange(low, min(low + 100_000, count))) for low in range(0, count, 100_000)]
    np.testing.assert_array_equal(np.bincount(np.concatenate(parts)), np.ones(count))
    np.testing.assert_array_equal(order(np.arange(500_000, 500_003)), parts[5][:3])


def test_the_network_shuffles_as_a_drawn_permutation_does() -> None:
    """Statistics of permutations against their exact means and variances, within 4.5 sigma."""
    count, seeds = 3000, 200  # no power of two: cycles are walked
    orders = np.stack([Feistel(count, seeded(seed, 0))(np.arange(count)) for seed in range(seeds)])
    # Fixed points: mean and variance 1 each.
    fixed = (orders == np.arange(count)).sum()
    assert abs(fixed - seeds) < 4.5 * np.sqrt(seeds)
    # Rises: mean (n - 1) / 2, variance (n + 1) / 12.
    rises = (np.diff(orders, axis=1) > 0).sum()
    assert abs(rises - seeds * (count - 1) / 2) < 4.5 * np.sqrt(seeds * (count + 1) / 12)
    # Neighbours that stay neighbours, as a weak shuffle leaves them: mean 2 (n - 1) / n.
    together = (np.abs(np.diff(orders, axis=1)) == 1).sum()
    assert abs(together - 2 * seeds) < 4.5 * np.sqrt(2 * seeds)
    # Where a number goes: chi-square over 30 bins, by place mod 30 and by tenth of the range.
    for places in (np.arange(count) % 30, np.arange(count) // 100):
        table = np.zeros((30, 30))
        for order in orders:
            np.add.at(table, (places, order // 100), 1)
        chi = ((table - seeds * 10 / 3) ** 2 / (seeds * 10 / 3)).sum()
        assert abs(chi - 29**2) < 4.5 * np.sqrt(2 * 29**2)
    # The same place under neighbouring seeds: no correlation.
    correlation = np.corrcoef(orders[:-1].ravel(), orders[1:].ravel())[0, 1]
    assert abs(correlation) < 4.5 / np.sqrt(orders.size)


def test_an_epoch_of_a_hundred_billion_tokens_starts_at_once_and_holds_no_table() -> None:
    tokens = np.broadcast_to(np.zeros(1, dtype=np.uint16), (10**11,))
    order = WindowOrder(tokens, 2048, seed=0)
    begun = time.process_time()
    starts = order.starts(3 * order.windows - 5, 256)
    assert time.process_time() - begun < 0.1
    assert len(np.unique(starts)) == 256
    assert starts.max() > 10**10


def test_a_smaller_set_is_part_of_a_larger_one(corpus: TokenCorpus) -> None:
    def windows(unique_tokens: int) -> set[bytes]:
        order = corpus.window_order(unique_tokens, 16, seed=0)
        rows = order.batch(0, order.windows)
        np.testing.assert_array_equal(
            np.sort(rows.ravel()), np.sort(corpus.train[: order.windows * 16])
        )
        return {row.tobytes() for row in rows}

    assert windows(500) <= windows(2000) <= windows(corpus.train_tokens)


def test_a_prefix_is_exact_to_the_token(corpus: TokenCorpus) -> None:
    order = corpus.window_order(501, 16, seed=0)
    read = order.batch(0, 50 * order.windows)
    expected = np.bincount(corpus.train[:501])
    # 5 tokens are left out in each of the 50 epochs, and none beyond the prefix come in.
    assert read.size == 50 * 496
    assert (np.bincount(read.ravel(), minlength=len(expected)) <= 50 * expected).all()


def test_validation_windows_are_fixed_distinct_and_of_validation(corpus: TokenCorpus) -> None:
    windows = corpus.validation_windows(16, 50, seed=0)
    np.testing.assert_array_equal(windows, corpus.validation_windows(16, 50, seed=0))
    np.testing.assert_array_equal(windows[:20], corpus.validation_windows(16, 20, seed=0))
    assert not np.array_equal(windows, corpus.validation_windows(16, 50, seed=1))
    usable = corpus.validation_tokens // 16
    everything = corpus.validation_windows(16, usable, seed=0)
    np.testing.assert_array_equal(
        np.sort(everything.ravel()), np.sort(corpus.validation[: usable * 16])
    )


def test_asking_for_more_than_there_is_says_what_to_change(corpus: TokenCorpus) -> None:
    with pytest.raises(ConfigurationError, match=r"search\.unique_tokens"):
        corpus.window_order(corpus.train_tokens + 1, 16, 0)
    with pytest.raises(ConfigurationError, match=r"model\.seq_len"):
        corpus.window_order(10, 16, 0)
    with pytest.raises(ConfigurationError, match=r"evaluation\.sequences is 100,000"):
        corpus.validation_windows(16, 100_000, 0)


def test_the_stored_tokens_cannot_be_written(corpus: TokenCorpus, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        corpus.train[0] = 1
