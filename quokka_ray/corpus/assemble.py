"""Chunks to a corpus: duplicates dropped, sides and orders decided, tokens written.

In each chunk the documents of a side stand in the order of their places, so a block of the final
order takes one contiguous read from each chunk. Memory holds 33 bytes a document and some for
sorting, and one block of tokens.
"""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.chunks import RECORD
from quokka_ray.corpus.minhash import FUNCTIONS, clusters
from quokka_ray.corpus.pieces import HashedWriter

SIDES = ("train", "validation")
_BLOCK_TOKENS = 1 << 24


class Assembly:
    """All documents of a preparation.

    Args:
        folder: Where the chunks are.
        notes: The chunks' notes, in order.
        dtype: Type of a token.
        near_duplicates: Smallest similarity of near duplicates; None: they are kept.

    Attributes:
        counts: How many documents were dropped, by reason.
        sides: The documents of each side, by number, in their final order.
    """

    def __init__(
        self,
        folder: Path,
        notes: list[dict[str, Any]],
        dtype: np.dtype[np.unsignedinteger],
        near_duplicates: float | None,
    ) -> None:
        self._folder = folder
        self._dtype = dtype
        self._firsts = np.cumsum([0, *(note["documents"] for note in notes)])
        self._records = np.empty(self._firsts[-1], dtype=RECORD)
        for number, (first, last) in enumerate(itertools.pairwise(self._firsts)):
            self._records[first:last] = np.fromfile(folder / f"{number:06d}.npy", dtype=RECORD)
        self.counts: Counter[str] = Counter()
        kept = self._without_copies(self._records["normal"], "duplicate")
        if near_duplicates is not None:
            kept = self._without_near_copies(kept, near_duplicates)
        self.sides = {
            side: self._ordered(kept[self._records["held_out"][kept] == held_out])
            for side, held_out in (("train", False), ("validation", True))
        }

    @property
    def documents(self) -> int:
        """Documents of all chunks."""
        return len(self._records)

    def _priority(self) -> NDArray[np.int64]:
        """Return each document's rank: validation first, then by place. Ranks differ."""
        rank = np.empty(len(self._records), dtype=np.int64)
        order = np.lexsort((self._records["place"], ~self._records["held_out"]))
        rank[order] = np.arange(len(order))
        return rank

    def _without_copies(self, key: NDArray[np.uint64], reason: str) -> NDArray[np.int64]:
        """Return the documents that are first of their key, a validation document before all."""
        order = np.lexsort((self._priority(), key))
        starts = np.concatenate([[True], np.diff(key[order]) != 0])[: len(order)]
        stands_for = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        self._count(order[~starts], stands_for[~starts], reason)
        return np.sort(order[starts])

    def _without_near_copies(self, kept: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
        signatures = np.empty((len(kept), FUNCTIONS), dtype=np.uint32)
        path = self._folder / "signatures"
        if len(kept):
            signatures = np.memmap(path, dtype=np.uint32, mode="w+", shape=signatures.shape)
            for number, (first, last) in enumerate(itertools.pairwise(self._firsts)):
                low, high = np.searchsorted(kept, (first, last))
                chunk = np.fromfile(self._folder / f"{number:06d}.minhash", dtype=np.uint32)
                signatures[low:high] = chunk.reshape(-1, FUNCTIONS)[kept[low:high] - first]
        roots = clusters(signatures, self._priority()[kept], threshold)
        dropped = roots != np.arange(len(kept))
        self._count(kept[dropped], kept[roots[dropped]], "near_duplicate")
        return kept[~dropped]

    def _count(
        self, dropped: NDArray[np.int64], stands_for: NDArray[np.int64], reason: str
    ) -> None:
        held_out = self._records["held_out"]
        across = ~held_out[dropped] & held_out[stands_for]
        self.counts[f"{reason}s"] += len(dropped)
        self.counts[f"{reason}s_of_validation_in_training"] += int(across.sum())

    def _ordered(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        return chosen[np.argsort(self._records["place"][chosen], kind="stable")]

    def tokens_of(self, side: str) -> int:
        """Return the tokens of a side, ends of documents counted."""
        return int(self._records["tokens"][self.sides[side]].sum())

    def bytes_of(self, side: str) -> int:
        """Return the UTF-8 bytes of a side."""
        return int(self._records["bytes"][self.sides[side]].sum())

    def write(self, side: str, folder: Path) -> dict[str, Any]:
        """Write a side's tokens, document index and document hashes; return the files' entries.

        Raises:
            OSError: the folder cannot be written.
        """
        chosen = self.sides[side]
        lengths = self._records["tokens"]
        ends = np.cumsum(lengths[chosen])
        with HashedWriter(folder / f"{side}.bin") as tokens:
            # Where each document begins in its chunk.
            starts = np.concatenate([[0], np.cumsum(lengths)])
            begins = starts[self._firsts[:-1]]
            starts = starts[:-1] - np.repeat(begins, np.diff(self._firsts))
            first = 0
            while first < len(chosen):
                before = ends[first - 1] if first else 0
                last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_TOKENS)))
                tokens.write(self._block(chosen[first:last], starts))
                first = last
        with HashedWriter(folder / f"{side}.npy") as index:
            np.save(index, np.concatenate([[0], ends]))
        with HashedWriter(folder / f"{side}.hashes") as hashes:
            hashes.write(np.sort(self._records["normal"][chosen]))
        return {one.path.name: one.entry for one in (tokens, index, hashes)}

    def _block(
        self, chosen: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> NDArray[np.unsignedinteger]:
        """Return the tokens of documents, in this order one after the other."""
        lengths = self._records["tokens"]
        pieces: dict[int, NDArray[np.unsignedinteger]] = {}
        numbers = np.sort(chosen)
        chunks = np.searchsorted(self._firsts, numbers, side="right") - 1
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(chunks)) + 1, [len(numbers)]])
        for low, high in itertools.pairwise(bounds.tolist()):
            own = numbers[low:high]
            begin = int(starts[own[0]])
            count = int(starts[own[-1]] + lengths[own[-1]]) - begin
            read = np.fromfile(
                self._folder / f"{chunks[low]:06d}.bin",
                dtype=self._dtype,
                count=count,
                offset=begin * self._dtype.itemsize,
            )
            for number in own.tolist():
                place = int(starts[number]) - begin
                pieces[number] = read[place : place + int(lengths[number])]
        return np.concatenate([pieces[number] for number in chosen.tolist()])
