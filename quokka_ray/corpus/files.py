"""The `files` source: text, JSON lines and Parquet, from paths, folders, globs and stdin.

Rows are streamed, and so are texts that are cut by line or paragraph, so memory holds one
document or one batch of rows at a time. Compressed files are read as they are.
"""

import glob
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from quokka_ray.corpus import streams
from quokka_ray.corpus.documents import Document
from quokka_ray.corpus.readers import Reader
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.corpus import CorpusConfig

_JSONL = {".jsonl", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
# What is read from a folder. A file that is named, or that a glob matches, may end in anything.
_ENDINGS = """
    .txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .css .csv .tsv .json .yaml .yml
    .toml .ini .cfg .sql .sh .py .pyi .ipynb .js .ts .jsx .tsx .c .h .cc .cpp .hpp .cu .java .kt
    .scala .go .rs .rb .pl .php .swift .lua .r .jl .hs .ml .lisp .el .m .f90 .log
"""
_TEXT = frozenset(_ENDINGS.split())


class FilesSource:
    """Documents of files.

    Args:
        config: Its paths, how they are read, and columns.

    Raises:
        ConfigurationError: a path matches nothing; or, while reading: a file is not UTF-8 or not
            of its format, or a column is missing.
    """

    rereadable = True

    def __init__(self, config: CorpusConfig) -> None:
        self.description = ", ".join(config.paths)
        self.skipped: Counter[str] = Counter()
        self._format = config.format
        self._reader = Reader(
            config.document,
            config.text_column,
            config.group_column,
            config.undecodable,
            self.skipped,
        )
        self._validation_files = _expand(config.validation_paths)
        held_out = {path.resolve() for path in self._validation_files}
        self._files = [path for path in _expand(config.paths) if path.resolve() not in held_out]
        if not self._files:
            raise ConfigurationError("corpus: every file of paths is in validation_paths too")
        self.size: int | None = sum(
            path.stat().st_size for path in (*self._files, *self._validation_files)
        )
        self.done = 0

    def fingerprint(self) -> str:
        """Return a hash of the files' contents, wherever they lie and whatever they are called."""
        return _fingerprint(
            [f"{self._tag(path)}:{streams.content_hash(path)}" for path in files]
            for files in (self._files, self._validation_files)
        )

    def documents(self) -> Iterator[Document]:
        """Yield the documents of `paths`, file by file."""
        self.skipped.clear()
        self.done = 0
        for path in self._files:
            yield from self._read(path)

    def validation_documents(self) -> Iterator[Document]:
        """Yield the documents of `validation_paths`."""
        for path in self._validation_files:
            yield from self._read(path)

    def _kind(self, path: Path) -> str:
        if self._format != "auto":
            return self._format
        if streams.compression_of(path):
            path = path.with_suffix("")
        suffix = path.suffix.lower()
        return "jsonl" if suffix in _JSONL else "parquet" if suffix in _PARQUET else "text"

    def _tag(self, path: Path) -> str:
        return self._kind(path) + streams.compression_of(path)

    def _read(self, path: Path) -> Iterator[Document]:
        kind, before = self._kind(path), self.done
        try:
            if kind == "parquet":
                yield from self._read_parquet(path)
            else:
                with path.open("rb") as raw:
                    counted = streams.Counted(raw)
                    stream = streams.decompressed(counted, streams.compression_of(path))
                    read = self._reader.jsonl if kind == "jsonl" else self._reader.text
                    for document in read(stream, str(path)):
                        self.done = before + counted.count
                        yield document
        except streams.DAMAGED as error:
            raise ConfigurationError(
                f"corpus: {path} is damaged or not of the compression that its name says: {error}"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"corpus: {path} cannot be read: {error.strerror or error}"
            ) from None
        self.done = before + path.stat().st_size

    def _read_parquet(self, path: Path) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        before, size = self.done, path.stat().st_size
        try:
            with pq.ParquetFile(path) as table:
                rows = max(1, table.metadata.num_rows)
                for number, document in enumerate(self._reader.parquet(table, str(path))):
                    self.done = before + size * number // rows
                    yield document
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"corpus: {path} cannot be read as Parquet: {str(error).splitlines()[0]}"
            ) from None


class StdinSource:
    """Documents of a pipe: JSON lines or text, compressed or not, told by its first bytes.

    The same bytes in a file that is called so make the same corpus.

    Args:
        config: How it is read, and columns.
        stream: The pipe; None: stdin.

    Raises:
        ConfigurationError: while reading: as for files; or it is Parquet, which is read from its
            end.
    """

    rereadable = False

    def __init__(self, config: CorpusConfig, stream: BinaryIO | None = None) -> None:
        self.description = "stdin"
        self.skipped: Counter[str] = Counter()
        self.size: int | None = None
        self._stream = stream
        self._counted: streams.Counted | None = None
        self._tag = ""
        self._format = config.format
        self._reader = Reader(
            "blank_line" if config.document == "blank_line" else "line",
            config.text_column,
            config.group_column,
            config.undecodable,
            self.skipped,
        )

    @property
    def done(self) -> int:
        """Bytes read so far."""
        return self._counted.count if self._counted is not None else 0

    def fingerprint(self) -> str:
        """Return what a file of the same bytes has."""
        assert self._counted is not None, "a pipe has no fingerprint before it was read"
        assert self._counted.digest is not None
        return _fingerprint([[f"{self._tag}:{self._counted.digest.hexdigest()}"], []])

    def documents(self) -> Iterator[Document]:
        """Yield the documents of the pipe."""
        self._counted = streams.Counted(self._stream or sys.stdin.buffer, hashed=True)
        raw = streams.decompressed(self._counted, "")
        compression = streams.compression_by_head(raw.peek(6))
        stream = streams.decompressed(raw, compression)
        head = stream.peek(4096)
        if head.startswith(b"PAR1") or self._format == "parquet":
            raise ConfigurationError("corpus: Parquet cannot come through stdin: name the file")
        by_head = "jsonl" if head.lstrip().startswith(b"{") else "text"
        kind = by_head if self._format == "auto" else self._format
        self._tag = kind + compression
        read = self._reader.jsonl if kind == "jsonl" else self._reader.text
        try:
            yield from read(stream, "stdin")
        except (*streams.DAMAGED, OSError) as error:
            raise ConfigurationError(f"corpus: stdin cannot be read: {error}") from None

    def validation_documents(self) -> Iterator[Document]:
        """Yield nothing: the split sets documents apart."""
        return iter(())


def _fingerprint(sides: Iterable[list[str]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for contents in sides:
        digest.update(json.dumps(sorted(contents)).encode())
    return digest.hexdigest()


def _expand(patterns: Sequence[str]) -> list[Path]:
    """Return the files that the patterns mean, each once, sorted."""
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            files = [inner for inner in path.rglob("*") if _wanted(inner, path)]
            if not files:
                raise ConfigurationError(
                    f"corpus: no text, jsonl or parquet file in the folder {pattern}"
                )
        elif path.is_file():
            files = [path]
        else:
            # Path.glob takes no absolute patterns.
            matches = glob.glob(str(path), recursive=True)  # noqa: PTH207
            files = [Path(match) for match in matches if Path(match).is_file()]
            if not files:
                raise ConfigurationError(f"corpus: no file matches {pattern}")
        found.update(files)
    return sorted(found)


def _wanted(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    inner = path.with_suffix("") if streams.compression_of(path) else path
    known = inner.suffix.lower() in _TEXT | _JSONL | _PARQUET
    return known and not hidden and path.is_file()
