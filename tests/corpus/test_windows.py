"""The order of windows: prefixes nest, epochs are whole, and any place can be asked for."""

from pathlib import Path

import numpy as np
import pytest

from quokka_ray.corpus import TokenCorpus, WindowOrder, prepare
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.config import CorpusConfig


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


@pytest.mark.parametrize(("tokens", "seq_len"), [(1000, 8), (1001, 7), (8, 8), (15, 8)])
def test_every_window_is_seen_once_in_every_epoch(tokens: int, seq_len: int) -> None:
    order = WindowOrder(np.arange(tokens, dtype=np.uint16), seq_len, seed=3)
    windows = tokens // seq_len
    expected = np.arange(windows * seq_len).reshape(windows, seq_len)
    assert order.windows == windows
    for epoch in range(3):
        seen = order.batch(epoch * windows, windows)
        assert seen.dtype == np.int64
        np.testing.assert_array_equal(seen[np.argsort(seen[:, 0])], expected)


def test_epochs_and_seeds_differ() -> None:
    tokens = np.arange(800)
    order = WindowOrder(tokens, 8, seed=0)
    assert not np.array_equal(order.batch(0, 100), order.batch(100, 100))
    assert not np.array_equal(order.batch(0, 100), WindowOrder(tokens, 8, seed=1).batch(0, 100))
    np.testing.assert_array_equal(
        order.batch(0, 100), WindowOrder(tokens, 8, seed=0).batch(0, 100)
    )
    WindowOrder(tokens, 8, seed=-1).batch(0, 1)


@pytest.mark.parametrize("split", [1, 3, 7, 100])
def test_a_stream_does_not_depend_on_how_it_is_cut(split: int) -> None:
    order = WindowOrder(np.arange(90), 8, seed=5)
    whole = order.batch(4, 100)  # ten epochs, begun in the middle of one
    parts = [order.batch(4 + first, min(split, 100 - first)) for first in range(0, 100, split)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(order.batch(60, 5), whole[56:61])  # random access, backwards


def test_a_smaller_set_is_part_of_a_larger_one(corpus: TokenCorpus) -> None:
    def windows(unique_tokens: int) -> set[bytes]:
        order = corpus.window_order(unique_tokens, 16, seed=0)
        rows = order.batch(0, order.windows)
        np.testing.assert_array_equal(
            np.sort(rows.ravel()), np.sort(corpus.train[: order.windows * 16])
        )
        return {row.tobytes() for row in rows}

    assert windows(500) <= windows(2000) <= windows(corpus.train_tokens)


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
