"""Where a document belongs: drawn from its own content and the seed, and from nothing else.

So adding text moves no document to the other side or to another place, and two corpora of one
seed and one fraction agree on the side of every document that they share.
"""

import hashlib
import unicodedata

from quokka_ray.corpus.documents import Document


class Draws:
    """The draws of one corpus.

    Args:
        seed: Of the split and of the order.
        validation_fraction: Share of the groups that are set apart.
    """

    def __init__(self, seed: int, validation_fraction: float) -> None:
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
        self._threshold = int(validation_fraction * 2**64)

    def held_out(self, document: Document, digest: bytes) -> bool:
        """Return whether a document with this digest is set apart for validation."""
        group = digest
        if document.group is not None:
            group = document.group.encode("utf-8", "replace")
        return self._draw(b"split", group) < self._threshold

    def place(self, digest: bytes) -> int:
        """Return the place of a digest in the order of its side, 64 bits."""
        # The zeros told copies apart while they were kept; without them orders would change.
        return self._draw(b"order", digest + bytes(8))

    def sample(self, digest: bytes) -> int:
        """Return how early a digest is taken to train a tokenizer, 64 bits."""
        return self._draw(b"tokenizer", digest)

    def _draw(self, purpose: bytes, content: bytes) -> int:
        digest = hashlib.blake2b(content, digest_size=8, key=self._key, person=purpose)
        return int.from_bytes(digest.digest(), "big")


def content_of(document: Document) -> bytes:
    """Return what a document is hashed by: its UTF-8 bytes, or its tokens in four bytes each."""
    if document.tokens is not None:
        return document.tokens.astype("<u4").tobytes()
    return document.text.encode("utf-8")


def digest_of(content: bytes) -> bytes:
    """Return the 16-byte hash that a content's draws are made from."""
    return hashlib.blake2b(content, digest_size=16).digest()


def normal_hash(document: Document, content: bytes) -> int:
    """Return a 64-bit hash that equal documents share, whatever their white space.

    Texts are taken in Unicode's composed form and without ASCII's white space. Among a billion
    documents the expected number that are taken for another by chance is .03.
    """
    if document.tokens is None:
        if not unicodedata.is_normalized("NFC", document.text):
            content = unicodedata.normalize("NFC", document.text).encode("utf-8")
        content = content.translate(None, b" \t\n\r\v\f")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
