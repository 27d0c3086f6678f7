"""Duplicates: exact ones always, near ones on request, and none of validation in training."""

import itertools
import random
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from corpus.making import config, stored, words, write
from hypothesis import given, settings
from hypothesis import strategies as st

from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.minhash import clusters, rows_of_band, signature

VOCABULARY = [f"word{number}" for number in range(4000)]


def normal(text: str) -> str:
    return re.sub(r"[ \t\n\r\v\f]", "", unicodedata.normalize("NFC", text))


def shingles(text: str) -> set[tuple[str, ...]]:
    found = text.lower().split()
    return {tuple(found[place : place + 5]) for place in range(max(1, len(found) - 4))}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def edited(text: str, changes: int, rng: random.Random) -> str:
    found = text.split()
    for _ in range(changes):
        found[rng.randrange(len(found))] = rng.choice(VOCABULARY)
    return " ".join(found)


def test_copies_are_dropped_whatever_their_spacing_and_composition(tmp_path: Path) -> None:
    documents = [f"{text} naïve" for text in words(100)]
    copies = [
        *(text.replace(" ", "\n ") for text in documents[:30]),
        *(unicodedata.normalize("NFD", text) for text in documents[30:40]),
        *documents[40:60],
    ]
    path = write(tmp_path / "a.jsonl", documents + copies)
    corpus = TokenCorpus.open(prepare(config(tmp_path, path)))
    kept = stored(corpus, "train") + stored(corpus, "validation")
    assert sorted(map(normal, kept)) == sorted(map(normal, documents))
    assert corpus.card["duplicates"] == 60


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab cé\n"), st.integers(0, 9), st.integers(0, 3)), min_size=30
    ),
    st.integers(0, 5),
)
def test_no_document_of_validation_is_in_training(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, int, int]],
    seed: int,
) -> None:
    """Groups, decrees and spacing may put copies on both sides; training loses them."""
    folder = tmp_path_factory.mktemp("sides")
    documents = [f"{letter} {number} text{letter}" for letter, number, _ in drawn] + words(60)
    groups: list[object] = [f"g{group}" for *_, group in drawn] + list(range(60))
    path = write(folder / "a.jsonl", documents, book=groups)
    made = config(folder, path, group_column="book", seed=seed, validation_fraction=0.3)
    corpus = TokenCorpus.open(prepare(made))
    sides = [set(map(normal, stored(corpus, side))) for side in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(map(normal, documents))
    for side, found in zip(("train", "validation"), sides, strict=True):
        assert len(found) == corpus.documents[side]


def test_the_estimate_is_the_similarity_within_its_error() -> None:
    rng = random.Random(1)
    errors = []
    for changes in (1, 3, 8, 15, 25) * 8:
        one = " ".join(rng.choices(VOCABULARY, k=200))
        other = edited(one, changes, rng)
        signatures = [signature(Document(text)) for text in (one, other)]
        truth = jaccard(one, other)
        estimate = (signatures[0] == signatures[1]).mean()
        errors.append((estimate - truth) / np.sqrt(truth * (1 - truth) / 128))
    assert abs(np.mean(errors)) < 3.5 / np.sqrt(len(errors))
    assert 0.7 < np.std(errors) < 1.4


def test_words_are_those_of_any_script() -> None:
    japanese = signature(Document("これは長い文書です。" * 3 + "終わり"))
    same = signature(Document("これは長い文書です " * 3 + "終わり!"))
    other = signature(Document("それは短い手紙でした。" * 3))
    assert (japanese == same).all()
    assert (japanese == other).mean() < 0.2
    assert (signature(Document("Ein Satz.")) == signature(Document("ein SATZ"))).all()
    tokens = np.arange(50)
    assert (
        signature(Document("", None, tokens)) == signature(Document("", None, tokens.copy()))
    ).all()


def test_bands_find_pairs_at_the_threshold() -> None:
    for threshold in (0.3, 0.5, 0.8, 0.95):
        rows = rows_of_band(threshold)
        assert 1 - (1 - threshold**rows) ** (128 // rows) > 0.99
    assert rows_of_band(0.8) > rows_of_band(0.5)


def test_clusters_are_those_of_every_pair_compared() -> None:
    rng = random.Random(2)
    originals = [" ".join(rng.choices(VOCABULARY, k=150)) for _ in range(60)]
    texts = originals + [edited(text, 1, rng) for text in originals[:20] for _ in range(2)]
    texts += [originals[0]] * 50  # more than a band compares with one another
    signatures = np.stack([signature(Document(text)) for text in texts])
    priority = np.array(random.Random(3).sample(range(len(texts)), len(texts)))
    found = clusters(signatures, priority, 0.8)
    # The slow way: connect all pairs, and let the first of each component stand for it.
    expected = np.arange(len(texts))
    for one, other in itertools.combinations(range(len(texts)), 2):
        if (signatures[one] == signatures[other]).mean() >= 0.8:
            expected[expected == expected[other]] = expected[one]
    for label in set(expected):
        members = np.flatnonzero(expected == label)
        first = members[np.argmin(priority[members])]
        assert (found[members] == first).all()
    assert len(set(found)) == 60


def test_near_copies_are_dropped_on_request_and_validation_keeps_its_own(tmp_path: Path) -> None:
    rng = random.Random(4)
    originals = [" ".join(rng.choices(VOCABULARY, k=120)) for _ in range(150)]
    near = [edited(text, 1, rng) for text in originals[:100]]
    assert min(map(jaccard, originals, near)) > 0.9
    path = write(tmp_path / "a.jsonl", originals + near)
    plain = TokenCorpus.open(prepare(config(tmp_path, path, validation_fraction=0.3)))
    assert sum(plain.documents.values()) == 250
    made = config(tmp_path, path, validation_fraction=0.3, near_duplicates=0.8)
    corpus = TokenCorpus.open(prepare(made))
    assert sum(corpus.documents.values()) == 150
    assert corpus.card["near_duplicates"] == 100
    train, validation = stored(corpus, "train"), stored(corpus, "validation")
    assert max(jaccard(*pair) for pair in itertools.product(train, validation)) < 0.5
    assert set(validation) <= set(stored(plain, "validation"))
    across = corpus.card["near_duplicates_of_validation_in_training"]
    assert 20 < across < 70
