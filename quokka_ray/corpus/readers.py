"""Documents out of streams: text by file, line or paragraph; rows of JSON lines and Parquet."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from quokka_ray.corpus.documents import Document
from quokka_ray.errors import ConfigurationError

_BATCH_ROWS = 256
_LARGEST = 1 << 30


class Reader:
    """Turns the bytes of one file after the other into documents.

    Args:
        document: What one document of a text file is.
        text_column: Column of the text in JSON lines and Parquet.
        group_column: Column that keeps rows on one side of the split; None: none.
        undecodable: What happens to a document that is not UTF-8.
        skipped: Counts what is left out, by reason.

    Raises:
        ConfigurationError: while reading: a document is not UTF-8, a row not of its format, a
            column missing, or one document too large for the memory.
    """

    def __init__(
        self,
        document: Literal["file", "line", "blank_line"],
        text_column: str,
        group_column: str | None,
        undecodable: Literal["error", "skip"],
        skipped: Counter[str],
    ) -> None:
        self._document = document
        self._text_column = text_column
        self._group_column = group_column
        self._undecodable = undecodable
        self._skipped = skipped

    def text(self, stream: io.BufferedReader, name: str) -> Iterator[Document]:
        """Yield the documents of a text file."""
        if self._document == "file":
            content = stream.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ConfigurationError(
                    f"corpus: {name} is one document of more than 1 GB; set corpus.document to "
                    "line or blank_line"
                )
            yield from self._decoded(content, name, 0, 1)
            return
        number, offset = 1, 0
        for content, lines in self._pieces(stream):
            yield from self._decoded(content, name, offset, number)
            number += lines
            offset += len(content)

    def _pieces(self, stream: io.BufferedReader) -> Iterator[tuple[bytes, int]]:
        """Yield the bytes of each piece with how many lines they are."""
        if self._document == "line":
            for line in stream:
                yield line, 1
            return
        piece: list[bytes] = []
        for line in stream:
            piece.append(line)
            if not line.strip():
                yield b"".join(piece), len(piece)
                piece = []
        if piece:
            yield b"".join(piece), len(piece)

    def jsonl(self, stream: io.BufferedReader, name: str) -> Iterator[Document]:
        """Yield the documents of JSON lines."""
        offset = 0
        for number, line in enumerate(stream, start=1):
            where = f"{name}, line {number}"
            for text, *_ in self._decoded(line, name, offset, number, whole=True):
                if text.strip():
                    yield from self._json_row(text, where)
            offset += len(line)

    def _json_row(self, text: str, where: str) -> Iterator[Document]:
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"corpus: {where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigurationError(f"corpus: {where}: a row is an object of columns")
        require_columns(row, self.columns, where)
        # Only an escape can bring half a character in.
        if "\\ud" in text.lower():
            for name in self.columns:
                try:
                    str(row[name]).encode("utf-8")
                except UnicodeEncodeError as error:
                    if self._undecodable == "skip":
                        self._skipped["not UTF-8"] += 1
                        return
                    raise ConfigurationError(
                        f"corpus: {where} is not UTF-8: half a character at {error.start} of "
                        f"{name!r}; {_REMEDY}"
                    ) from None
        yield from self.row(row[self._text_column], self._group(row), where)

    def parquet(self, table: Any, name: str) -> Iterator[Document]:
        """Yield the documents of a `pyarrow.parquet.ParquetFile`."""
        require_columns(table.schema_arrow.names, self.columns, name)
        number = 0
        for batch in table.iter_batches(_BATCH_ROWS, columns=self.columns):
            texts = batch.column(self._text_column)
            groups = batch.column(self._group_column) if self._group_column else None
            for index in range(batch.num_rows):
                where = f"{name}, row {number}"
                number += 1
                try:
                    text = texts[index].as_py()
                    group = groups[index].as_py() if groups is not None else None
                except UnicodeDecodeError as error:
                    if self._undecodable == "skip":
                        self._skipped["not UTF-8"] += 1
                        continue
                    raise ConfigurationError(
                        f"corpus: {where} is not UTF-8 at byte {error.start} of its text; "
                        f"{_REMEDY}"
                    ) from None
                yield from self.row(text, group, where)

    def row(self, text: object, group: object, where: str) -> Iterator[Document]:
        """Yield the document of one row, or nothing where its text is null.

        Raises:
            ConfigurationError: the column holds no text.
        """
        if text is None:
            self._skipped["no text"] += 1
            return
        if not isinstance(text, str):
            raise ConfigurationError(
                f"corpus: {where}: column {self._text_column!r} holds {type(text).__name__}, not "
                "text; set corpus.text_column"
            )
        yield Document(text, None if group is None else str(group))

    def _group(self, row: dict[str, object]) -> object:
        return row[self._group_column] if self._group_column else None

    @property
    def columns(self) -> list[str]:
        """The columns that are read: the text's first."""
        return [name for name in (self._text_column, self._group_column) if name]

    def _decoded(
        self, content: bytes, name: str, offset: int, line: int, whole: bool = False
    ) -> Iterator[Document]:
        """Yield `content` as text; it begins at byte `offset`, in line `line`, of its file."""
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            if self._undecodable == "skip":
                self._skipped["not UTF-8"] += 1
                return
            line += content.count(b"\n", 0, error.start)
            marked = content.startswith(_UTF16) and not offset
            raise ConfigurationError(
                f"corpus: {name} is not UTF-8 at byte {offset + error.start} (line {line}, byte "
                f"0x{content[error.start]:02x}{', it begins as UTF-16 does' if marked else ''}); "
                f"{_REMEDY}"
            ) from None
        if offset == 0:
            text = text.removeprefix("\ufeff")
        if not whole and self._document != "file":
            text = text.rstrip("\r\n")
        yield Document(text)


_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_REMEDY = "convert it, leave it out, or set corpus.undecodable: skip"


def require_columns(have: Sequence[str] | dict[str, object], need: list[str], where: str) -> None:
    """Raise where a column that is needed is missing: the text's first, then the group's."""
    for name in need:
        if name not in have:
            key = "text_column" if name == need[0] else "group_column"
            raise ConfigurationError(
                f"corpus: {where}: there is no column {name!r}; the columns are "
                f"{', '.join(have)} (set corpus.{key})"
            )
