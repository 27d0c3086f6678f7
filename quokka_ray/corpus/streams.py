"""Bytes of files and pipes: counted, hashed, and decompressed by what their name or head says."""

import bz2
import gzip
import hashlib
import io
import lzma
from pathlib import Path
from typing import BinaryIO, cast

from quokka_ray.errors import ConfigurationError

COMPRESSIONS = {".gz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
_MAGIC = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_BUFFER = 1 << 20


class Counted(io.RawIOBase):
    """A binary stream that counts, and hashes where asked to, what is read from it.

    Attributes:
        count: Bytes so far.
        digest: Hash of them; None: not asked for.
    """

    def __init__(self, stream: BinaryIO, hashed: bool = False) -> None:
        self.count = 0
        self.digest = hashlib.blake2b() if hashed else None
        self._stream = stream

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer` and return how many bytes."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self.count += len(content)
        if self.digest is not None:
            self.digest.update(content)
        return len(content)


def compression_of(path: Path) -> str:
    """Return `gz`, `bz2`, `xz`, `zst`, or nothing where the ending says none."""
    return COMPRESSIONS.get(path.suffix.lower(), "")


def compression_by_head(head: bytes) -> str:
    """Return the compression that a stream's first bytes show, or nothing."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def decompressed(stream: io.RawIOBase | io.BufferedReader, compression: str) -> io.BufferedReader:
    """Return a buffered stream of what `stream` holds once decompressed.

    What is not whole or not of its format raises EOFError, OSError, ValueError or LZMAError while
    it is read: `DAMAGED`.
    """
    readable = cast(BinaryIO, stream)
    if compression == "gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=readable), _BUFFER)
    if compression == "bz2":
        return io.BufferedReader(bz2.BZ2File(readable), _BUFFER)
    if compression == "xz":
        return io.BufferedReader(lzma.LZMAFile(readable), _BUFFER)
    if compression == "zst":
        import pyarrow as pa

        inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
        return io.BufferedReader(_Arrow(inner), _BUFFER)
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(stream, _BUFFER)


DAMAGED = (EOFError, lzma.LZMAError, gzip.BadGzipFile)


class _Arrow(io.RawIOBase):
    """pyarrow's stream as Python's; its own has no end that `io` would see."""

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._stream.read(len(buffer))  # type: ignore[attr-defined]
        buffer[: len(content)] = content
        return len(content)


def content_hash(path: Path) -> str:
    """Return a hash of a file's bytes.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"corpus: {path} cannot be read: {error.strerror}") from None
