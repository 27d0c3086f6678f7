"""The spool of a preparation: tokens as they come, and for each document where it belongs.

A document's side and place are properties of its own content and of the seed, never of the file
that it stood in or of how many others there are. So adding text moves no document to the other
side, and equal documents are never on both.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.tokenizers import Tokenizer, token_dtype
from quokka_ray.errors import ConfigurationError

_NAME = "spool.bin"


class Spool:
    """Tokens of all documents in the order in which they came.

    Args:
        folder: Where the spool and the sides are written.
        tokenizer: Makes the tokens.
        seed: Of the split and of the order.
        validation_fraction: Share of the groups that are set apart.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, seed: int, validation_fraction: float
    ) -> None:
        self.bytes = 0
        self.batches = 0
        self.duplicates = 0
        self.skipped: Counter[str] = Counter()
        self._folder = folder
        self._tokenizer = tokenizer
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
        self._threshold = int(validation_fraction * 2**64)
        self._stream = (folder / _NAME).open("wb")
        self._lengths: list[int] = []
        self._sizes: list[int] = []
        self._held_out: list[bool] = []
        self._places: list[int] = []
        self._contents: list[bytes] = []
        self._seen: Counter[bytes] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        (self._folder / _NAME).unlink(missing_ok=True)

    @property
    def documents(self) -> int:
        """Documents so far."""
        return len(self._lengths)

    def add(self, batch: Sequence[tuple[Document, bool]]) -> None:
        """Tokenize documents and note where they belong.

        Args:
            batch: Documents, each with whether it is validation by decree.

        Raises:
            ConfigurationError: a text holds half a character, as `\\ud800` in JSON can be.
        """
        kept = [(document, decreed) for document, decreed in batch if document.text.strip()]
        self.skipped["empty"] += len(batch) - len(kept)
        self.batches += 1
        encoded = []
        for document, _ in kept:
            try:
                encoded.append(document.text.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise ConfigurationError(
                    f"corpus: a document is not UTF-8: half a character at {error.start}, after "
                    f"{document.text[max(0, error.start - 30) : error.start]!r}"
                ) from None
        tokens = self._tokenizer.encode_batch([document.text for document, _ in kept])
        end = np.array([self._tokenizer.end_of_document], dtype=self._dtype)
        for (document, decreed), content, ids in zip(kept, encoded, tokens, strict=True):
            self._note(document, decreed, content, len(ids) + 1)
            self._stream.write(ids.astype(self._dtype, copy=False).tobytes())
            self._stream.write(end.tobytes())

    def _note(self, document: Document, decreed: bool, content: bytes, length: int) -> None:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        copies = self._seen[digest]
        self._seen[digest] += 1
        self.duplicates += copies > 0
        group = digest if document.group is None else document.group.encode("utf-8", "replace")
        self._lengths.append(length)
        self._sizes.append(len(content))
        self._contents.append(digest)
        self._held_out.append(decreed or self._draw(b"split", group) < self._threshold)
        # Copies of one text get different places: else they would stand side by side.
        self._places.append(self._draw(b"order", digest + copies.to_bytes(8, "big")))
        self.bytes += len(content)

    def _draw(self, purpose: bytes, content: bytes) -> int:
        digest = hashlib.blake2b(content, digest_size=8, key=self._key, person=purpose)
        return int.from_bytes(digest.digest(), "big")

    def sides(self) -> dict[str, NDArray[np.int64]]:
        """Return the documents of each side, by number, in their final order."""
        self._stream.flush()
        held_out = np.array(self._held_out, dtype=bool)
        in_validation = {self._contents[index] for index in np.flatnonzero(held_out)}
        training = ~held_out
        for index in np.flatnonzero(training):
            # By group or by decree a copy can stand on both sides: validation keeps it.
            if self._contents[index] in in_validation:
                training[index] = False
                self.skipped["in validation too"] += 1
        places = np.array(self._places, dtype=np.uint64)
        return {
            side: chosen[np.argsort(places[chosen], kind="stable")]
            for side, chosen in (
                ("train", np.flatnonzero(training)),
                ("validation", np.flatnonzero(held_out)),
            )
        }

    def write_side(self, side: str, chosen: NDArray[np.int64]) -> dict[str, int]:
        """Write the documents `chosen` in this order, with their index; return its figures."""
        lengths = np.array(self._lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        spool = np.memmap(self._folder / _NAME, dtype=self._dtype, mode="r")
        with (self._folder / f"{side}.bin").open("wb") as stream:
            for index in chosen:
                stream.write(spool[starts[index] : starts[index + 1]].data)
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
        np.save(self._folder / f"{side}.npy", offsets)
        return {
            f"{side}_documents": len(chosen),
            f"{side}_tokens": self.tokens_of(chosen),
            f"{side}_bytes": self.bytes_of(chosen),
        }

    def tokens_of(self, chosen: NDArray[np.int64]) -> int:
        """Return the tokens of documents, their ends counted."""
        return int(np.array(self._lengths, dtype=np.int64)[chosen].sum())

    def bytes_of(self, chosen: NDArray[np.int64]) -> int:
        """Return the UTF-8 bytes of documents."""
        return int(np.array(self._sizes, dtype=np.int64)[chosen].sum())
