"""Chunks of a preparation: some megabytes of documents, tokenized and kept until all are there.

A chunk is cut from the stream of documents by its text alone, so the same source gives the same
chunks whatever the number of processes. Its files appear whole or not at all, the note last:

    000012.bin         tokens, documents in the order of (side, place)
    000012.npy         a record for each document, in the same order
    000012.minhash     signatures in the same order, where near duplicates are looked for
    000012.json        how many documents, what was skipped, and a hash of the text

A preparation that goes on after a kill makes the chunks that have no note.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.documents import Document, Source
from quokka_ray.corpus.draws import Draws, content_of, digest_of, normal_hash
from quokka_ray.corpus.minhash import FUNCTIONS, signature
from quokka_ray.corpus.tokenizers import OpaqueTokenizer, Tokenizer, token_dtype

RECORD = np.dtype(
    [
        ("place", "<u8"),
        ("normal", "<u8"),
        ("tokens", "<i8"),
        ("bytes", "<i8"),
        ("held_out", "?"),
    ]
)
"""What is kept of a document: its place, the hash that duplicates share, its tokens with the end
counted, its UTF-8 bytes, and its side."""

CHUNK_CHARACTERS = 8 << 20
_CHUNK_DOCUMENTS = 1 << 16
# Encodings of the tokenizers library take some hundred bytes a token while they live.
_BATCH_CHARACTERS = 1 << 20


@dataclass
class Chunk:
    """Documents of one chunk.

    Attributes:
        number: Its place in the stream.
        documents: Each with whether it is validation by decree.
        digest: Hash of the text; empty where the source's fingerprint answers for it.
    """

    number: int
    documents: list[tuple[Document, bool]] = field(default_factory=list)
    digest: str = ""


def chunks_of(source: Source) -> Iterator[Chunk]:
    """Yield the documents of a source, chunk by chunk; at least one, perhaps empty, chunk."""
    chunk, characters, digest = Chunk(0), 0, hashlib.blake2b(digest_size=16)
    for document, decreed in _marked(source):
        chunk.documents.append((document, decreed))
        size = len(document.text) if document.tokens is None else 4 * len(document.tokens)
        characters += size
        if not source.rereadable:
            digest.update(document.text.encode("utf-8") + b"\0")
            chunk.digest = digest.hexdigest()
        if characters >= CHUNK_CHARACTERS or len(chunk.documents) >= _CHUNK_DOCUMENTS:
            yield chunk
            chunk, characters = Chunk(chunk.number + 1), 0
    if chunk.documents or not chunk.number:
        yield chunk


def _marked(source: Source) -> Iterator[tuple[Document, bool]]:
    for document in source.documents():
        yield document, False
    for document in source.validation_documents():
        yield document, True


class Encoder:
    """Writes chunks. One of them lives in each process.

    Args:
        folder: Where the chunks are kept.
        tokenizer: Makes the tokens.
        draws: Say where documents belong.
        signatures: Whether near duplicates will be looked for.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, draws: Draws, signatures: bool) -> None:
        self.folder = folder
        self._tokenizer = tokenizer
        self._draws = draws
        self._signatures = signatures
        self._dtype = token_dtype(tokenizer.vocab_size)

    def note(self, chunk: Chunk) -> dict[str, Any] | None:
        """Return the note of a chunk that is there already, or None."""
        path = self.folder / f"{chunk.number:06d}.json"
        try:
            note: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        whole = path.with_suffix(".bin").stat().st_size == note["tokens"] * self._dtype.itemsize
        return note if whole and note["digest"] == chunk.digest else None

    def encode(self, chunk: Chunk) -> dict[str, Any]:
        """Tokenize a chunk, write its files, and return its note.

        Raises:
            OSError: the folder cannot be written; the chunk is not there.
        """
        kept = [entry for entry in chunk.documents if _has_text(entry[0])]
        skipped = Counter({"empty": len(chunk.documents) - len(kept)})
        records = np.empty(len(kept), dtype=RECORD)
        for record, (document, decreed) in zip(records, kept, strict=True):
            content = content_of(document)
            digest = digest_of(content)
            record["place"] = self._draws.place(digest)
            record["normal"] = normal_hash(document, content)
            record["bytes"] = len(content)
            record["held_out"] = decreed or self._draws.held_out(document, digest)
        tokens = self._tokens([document for document, _ in kept], records)
        order = np.lexsort((records["place"], records["held_out"]))
        records = records[order]
        note = {
            "documents": len(records),
            "tokens": int(records["tokens"].sum()),
            "bytes": int(records["bytes"].sum()),
            "skipped": dict(skipped),
            "digest": chunk.digest,
        }
        end = np.array([self._tokenizer.end_of_document], dtype=self._dtype)
        pieces = [piece for number in order for piece in (tokens[number], end)]
        joined = np.concatenate(pieces, dtype=self._dtype, casting="unsafe") if pieces else end[:0]
        self._write(chunk, "bin", joined)
        self._write(chunk, "npy", records)
        if self._signatures:
            rows = [signature(kept[number][0]) for number in order]
            empty = np.empty((0, FUNCTIONS), dtype=np.uint32)
            self._write(chunk, "minhash", np.stack(rows) if rows else empty)
        self._write(chunk, "json", np.frombuffer(json.dumps(note).encode(), dtype=np.uint8))
        return note

    def _tokens(
        self, documents: Sequence[Document], records: NDArray[np.void]
    ) -> list[NDArray[np.integer]]:
        """Return the tokens of documents without their ends; fill in what records say of them."""
        tokens: list[NDArray[np.integer]] = []
        batch: list[str] = []
        size = 0
        for document in documents:
            if document.tokens is not None:
                tokens.append(document.tokens)
                continue
            batch.append(document.text)
            size += len(document.text)
            if size >= _BATCH_CHARACTERS:
                tokens += self._tokenizer.encode_batch(batch)
                batch, size = [], 0
        if batch:
            tokens += self._tokenizer.encode_batch(batch)
        records["tokens"] = [len(ids) + 1 for ids in tokens]
        for number, document in enumerate(documents):
            if document.tokens is not None:
                records["bytes"][number] = self._bytes_of(document.tokens)
        return tokens

    def _bytes_of(self, tokens: NDArray[np.integer]) -> int:
        if isinstance(self._tokenizer, OpaqueTokenizer):
            return 0
        return len(self._tokenizer.decode(tokens).encode("utf-8"))

    def _write(self, chunk: Chunk, suffix: str, content: NDArray[Any]) -> None:
        path = self.folder / f"{chunk.number:06d}.{suffix}"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with draft.open("wb") as stream:
                stream.write(content.view(np.uint8).data)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _has_text(document: Document) -> bool:
    return len(document.tokens) > 0 if document.tokens is not None else bool(document.text.strip())
