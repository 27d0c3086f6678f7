"""Near duplicates: MinHash signatures of word shingles, and who shares a band of them.

A signature holds, for each of 128 random hash functions, the smallest hash of a document's
shingles; two documents agree in a function with the probability of the Jaccard similarity of
their shingle sets (Broder 1997). Documents that agree in all of a band's functions are candidates;
the share of functions in which candidates agree estimates their similarity, with a standard error
of at most .044.
"""

import itertools
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.shuffle import seeded

FUNCTIONS = 128
_SHINGLE = 5
# Scripts without spaces have no words: each of their characters is one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]")
# Candidates of a band that more documents share are compared with its first and with neighbours.
_ALL_PAIRS = 32

_SEED = 0x6D696E
_MULTIPLIERS = seeded(_SEED, 0).integers(2**64, size=FUNCTIONS, dtype=np.uint64) | np.uint64(1)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def signature(document: Document) -> NDArray[np.uint32]:
    """Return the signature of a document, [FUNCTIONS].

    Words are compared without case and punctuation; tokens stand for words where a document has
    no text. A document of fewer than five words is one shingle.
    """
    if document.tokens is not None:
        words = document.tokens.astype(np.uint64) * _MIX
    else:
        found = _WORDS.findall(document.text.lower())
        words = np.fromiter(map(_word_hash, found), dtype=np.uint64, count=len(found))
    size = max(1, min(_SHINGLE, len(words)))
    shingles = np.zeros(max(1, len(words) - size + 1), dtype=np.uint64)
    for place in range(size if len(words) else 0):
        shingles = (shingles ^ words[place : place + len(shingles)]) * _MIX
        shingles ^= shingles >> _HALF
    shingles = np.unique(shingles)
    smallest = np.full(FUNCTIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    # A thousand shingles at a time stay in the cache.
    for first in range(0, len(shingles), 1024):
        part = shingles[first : first + 1024]
        hashes = ((part[None, :] * _MULTIPLIERS[:, None]) >> _HALF).astype(np.uint32)
        np.minimum(smallest, hashes.min(axis=1), out=smallest)
    return smallest


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big")


def rows_of_band(threshold: float) -> int:
    """Return how many functions make a band: the most with which a pair at the threshold is
    found with a probability of .99."""
    rows = 1
    while 1 - (1 - threshold ** (rows + 1)) ** (FUNCTIONS // (rows + 1)) > 0.99:
        rows += 1
    return rows


def clusters(
    signatures: NDArray[np.uint32], priority: NDArray[np.int64], threshold: float
) -> NDArray[np.int64]:
    """Return for each document the one that stands for its cluster, [documents].

    A cluster is what pairs of at least `threshold` connect; the document of the lowest priority
    number stands for it. Pairs just above the threshold are missed with a probability below .01,
    and pairs below it are taken with that of the estimate's error.

    Args:
        signatures: [documents, FUNCTIONS], memory-mapped or not; read by bands.
        priority: Rank of each document, [documents], all different.
        threshold: Smallest Jaccard similarity of near duplicates.
    """
    parents = np.arange(len(signatures))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = int(parents[number])
        return number

    for one, other in _candidates(signatures, priority, rows_of_band(threshold)):
        a, b = root(one), root(other)
        if a != b and (signatures[one] == signatures[other]).mean() >= threshold:
            first, last = (a, b) if priority[a] < priority[b] else (b, a)
            parents[last] = first
    return np.array([root(number) for number in range(len(parents))], dtype=np.int64)


def _candidates(
    signatures: NDArray[np.uint32], priority: NDArray[np.int64], rows: int
) -> Iterator[tuple[int, int]]:
    for first in range(0, FUNCTIONS - rows + 1, rows):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(first, first + rows):
            keys = (keys ^ signatures[:, column].astype(np.uint64)) * _MIX
            keys ^= keys >> _HALF
        order = np.lexsort((priority, keys))
        bounds = np.flatnonzero(np.diff(keys[order])) + 1
        starts = np.concatenate([[0], bounds])
        ends = np.concatenate([bounds, [len(order)]])
        for start, end in zip(
            *(edges[ends - starts > 1] for edges in (starts, ends)), strict=True
        ):
            members = order[start:end].tolist()
            if len(members) <= _ALL_PAIRS:
                for place, one in enumerate(members):
                    yield from ((one, other) for other in members[place + 1 :])
            else:
                yield from ((members[0], other) for other in members[1:])
                yield from itertools.pairwise(members[1:])
