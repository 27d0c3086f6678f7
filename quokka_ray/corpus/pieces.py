"""Files as pieces of fixed size, each with a hash: what is stored, sent and checked."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PIECE_BYTES = 64 << 20


class HashedWriter:
    """A file that is hashed while it is written.

    Attributes:
        path: Where it is.
        entry: Once closed: its bytes, the hash of the whole (16 hexadecimal digits), the size of
            a piece and the hash of each.
    """

    def __init__(self, path: Path, piece_bytes: int = PIECE_BYTES) -> None:
        self.path = path
        self.entry: dict[str, Any] = {}
        self._stream = path.open("wb")
        self._size = 0
        self._piece_bytes = piece_bytes
        self._whole = hashlib.blake2b(digest_size=8)
        self._piece = hashlib.blake2b(digest_size=16)
        self._room = piece_bytes
        self._hashes: list[str] = []

    def write(self, content: Any) -> int:
        """Write the bytes of `content`, which has a buffer, and return how many."""
        view = memoryview(content).cast("B")
        self._stream.write(view)
        self._whole.update(view)
        self._size += len(view)
        done = 0
        while done < len(view):
            part = view[done : done + self._room]
            self._piece.update(part)
            done += len(part)
            self._room -= len(part)
            if not self._room:
                self._end_piece()
        return len(view)

    def _end_piece(self) -> None:
        self._hashes.append(self._piece.hexdigest())
        self._piece = hashlib.blake2b(digest_size=16)
        self._room = self._piece_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        if self._room < self._piece_bytes:
            self._end_piece()
        self.entry = {
            "bytes": self._size,
            "hash": self._whole.hexdigest(),
            "piece_bytes": self._piece_bytes,
            "pieces": self._hashes,
        }


def piece_hash(content: bytes | memoryview) -> str:
    """Return the hash of one piece."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def altered_pieces(path: Path, entry: dict[str, Any]) -> Iterator[int]:
    """Yield the numbers of the pieces of a file that are not what `entry` says."""
    with path.open("rb") as stream:
        for number, expected in enumerate(entry["pieces"]):
            if piece_hash(stream.read(entry["piece_bytes"])) != expected:
                yield number


def entry_of(path: Path) -> dict[str, Any]:
    """Return the entry of a file that lies there."""
    whole = hashlib.blake2b(digest_size=8)
    hashes = []
    with path.open("rb") as stream:
        while content := stream.read(PIECE_BYTES):
            whole.update(content)
            hashes.append(piece_hash(content))
    return {
        "bytes": path.stat().st_size,
        "hash": whole.hexdigest(),
        "piece_bytes": PIECE_BYTES,
        "pieces": hashes,
    }
