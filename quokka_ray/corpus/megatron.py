"""The `megatron` source: tokens that Megatron-LM's preprocessing made, `.bin` with its `.idx`.

The index (Megatron core, `IndexedDataset`): nine bytes `MMIDIDX\\0\\0`, version 1 (u64), a code of
the tokens' type (u8), sequences (u64), documents + 1 (u64); then each sequence's length (i32),
each one's byte offset (i64), and for each document the number of its first sequence (i64).
"""

import hashlib
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus import streams
from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.tokenizers import Tokenizer
from quokka_ray.errors import ConfigurationError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class MegatronSource:
    """Documents of Megatron datasets, tokenized as they are.

    Args:
        paths: Prefixes, with or without `.bin` or `.idx`.
        tokenizer: What the tokens were made with.

    Raises:
        ConfigurationError: a file is missing, no Megatron index, or the two do not belong
            together; while reading: a token that the tokenizer does not have.
    """

    rereadable = True

    def __init__(self, paths: tuple[str, ...], tokenizer: Tokenizer) -> None:
        self.description = ", ".join(paths)
        self.skipped: Counter[str] = Counter()
        self.done = 0
        self._tokenizer = tokenizer
        self._parts = [_Part(Path(path).expanduser()) for path in paths]
        self.size: int | None = sum(part.bin.stat().st_size for part in self._parts)

    def fingerprint(self) -> str:
        """Return a hash of the files' contents."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts:
            digest.update(streams.content_hash(part.bin).encode())
            digest.update(streams.content_hash(part.idx).encode())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield each document; an end of document that Megatron wrote is taken off."""
        self.skipped.clear()
        self.done = 0
        for part in self._parts:
            for number, tokens in enumerate(part.documents()):
                self.done += tokens.nbytes
                outside = np.flatnonzero((tokens < 0) | (tokens >= self._tokenizer.vocab_size))
                if len(outside):
                    raise ConfigurationError(
                        f"corpus: {part.bin}, document {number}: token {tokens[outside[0]]} at "
                        f"{outside[0]} is none of the tokenizer's {self._tokenizer.vocab_size:,}: "
                        "the data were made with another one; set corpus.tokenizer or "
                        "corpus.vocab_size"
                    )
                if len(tokens) and tokens[-1] == self._tokenizer.end_of_document:
                    tokens = tokens[:-1]
                yield Document("", None, tokens)

    def validation_documents(self) -> Iterator[Document]:
        """Yield nothing: the split sets documents apart."""
        return iter(())


class _Part:
    """One pair of files."""

    def __init__(self, path: Path) -> None:
        prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
        self.bin = prefix.with_name(prefix.name + ".bin")
        self.idx = prefix.with_name(prefix.name + ".idx")
        try:
            content = self.idx.read_bytes()
            size = self.bin.stat().st_size
        except OSError as error:
            raise ConfigurationError(
                f"corpus: {error.filename} cannot be read: {error.strerror}; a Megatron dataset "
                "is a .bin with its .idx"
            ) from None
        try:
            magic, version, code, sequences, documents = _HEADER.unpack_from(content)
            if magic != _MAGIC or version != 1:
                raise ValueError("no Megatron index of version 1")
            self._dtype = np.dtype(_TYPES[code])
            place = _HEADER.size
            self._lengths = np.frombuffer(content, "<i4", sequences, place)
            place += 4 * sequences
            self._offsets = np.frombuffer(content, "<i8", sequences, place)
            place += 8 * sequences
            self._firsts = np.frombuffer(content, "<i8", documents, place)
        except (struct.error, ValueError, KeyError) as error:
            raise ConfigurationError(
                f"corpus: {self.idx} cannot be read as a Megatron index ({error}); was it copied "
                "whole?"
            ) from None
        ends = self._offsets + self._lengths.astype(np.int64) * self._dtype.itemsize
        if sequences and int(ends.max()) > size:
            raise ConfigurationError(
                f"corpus: {self.bin} has {size:,} bytes and its index asks for "
                f"{int(ends.max()):,}: the two do not belong together, or it was cut short"
            )

    def documents(self) -> Iterator[NDArray[np.integer]]:
        """Yield the tokens of each document; its sequences are joined."""
        with self.bin.open("rb") as stream:
            for first, last in zip(self._firsts[:-1], self._firsts[1:], strict=True):
                pieces = []
                for sequence in range(first, last):
                    stream.seek(self._offsets[sequence])
                    count = int(self._lengths[sequence]) * self._dtype.itemsize
                    pieces.append(np.frombuffer(stream.read(count), self._dtype))
                yield np.concatenate(pieces) if pieces else np.empty(0, self._dtype)
