"""The `files` source: text, JSON lines and Parquet, from paths, folders and globs.

A text file is one document; a row of JSON lines or Parquet is one. Rows are streamed, so memory
holds one text file or one batch of rows at a time.
"""

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from quokka_ray.corpus.documents import Document
from quokka_ray.errors import ConfigurationError

Format = Literal["auto", "text", "jsonl", "parquet"]

_BATCH_ROWS = 256
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
        paths: Files, folders or globs.
        validation_paths: The same, for validation.
        file_format: How to read them; `auto`: by each file's ending.
        text_column: Column of the text in JSON lines and Parquet.
        group_column: Column that keeps rows on one side of the split; None: none.

    Raises:
        ConfigurationError: a path matches nothing; or, while reading: a file is not UTF-8 or not
            of its format, or a column is missing.
    """

    def __init__(
        self,
        paths: Sequence[str],
        validation_paths: Sequence[str] = (),
        file_format: Format = "auto",
        text_column: str = "text",
        group_column: str | None = None,
    ) -> None:
        self.description = ", ".join(paths)
        self.skipped: Counter[str] = Counter()
        self._format = file_format
        self._text_column = text_column
        self._group_column = group_column
        self._validation_files = _expand(validation_paths)
        held_out = {path.resolve() for path in self._validation_files}
        self._files = [path for path in _expand(paths) if path.resolve() not in held_out]
        if not self._files:
            raise ConfigurationError("corpus: every file of paths is in validation_paths too")

    def fingerprint(self) -> str:
        """Return a hash of the files' contents, wherever they lie and whatever they are called."""
        digest = hashlib.blake2b(digest_size=16)
        for files in (self._files, self._validation_files):
            contents = sorted(f"{self._kind(path)}:{_content_hash(path)}" for path in files)
            digest.update(json.dumps(contents).encode())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield the documents of `paths`, file by file."""
        self.skipped.clear()
        for path in self._files:
            yield from self._read(path)

    def validation_documents(self) -> Iterator[Document]:
        """Yield the documents of `validation_paths`."""
        for path in self._validation_files:
            yield from self._read(path)

    def _kind(self, path: Path) -> str:
        if self._format != "auto":
            return self._format
        suffix = path.suffix.lower()
        return "jsonl" if suffix in _JSONL else "parquet" if suffix in _PARQUET else "text"

    def _read(self, path: Path) -> Iterator[Document]:
        kind = self._kind(path)
        try:
            if kind == "parquet":
                yield from self._read_parquet(path)
            elif kind == "jsonl":
                yield from self._read_jsonl(path)
            else:
                yield Document(_decode(path.read_bytes(), path, 0))
        except OSError as error:
            raise ConfigurationError(
                f"corpus: {path} cannot be read: {error.strerror or error}"
            ) from None

    def _read_jsonl(self, path: Path) -> Iterator[Document]:
        offset = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                text = _decode(line, path, offset)
                offset += len(line)
                if not text.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise ConfigurationError(f"corpus: {where}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ConfigurationError(f"corpus: {where}: a row is an object of columns")
                _require_columns(row, self._columns(), where)
                yield from self._document(
                    row[self._text_column],
                    row[self._group_column] if self._group_column else None,
                    where,
                )

    def _read_parquet(self, path: Path) -> Iterator[Document]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as table:
                _require_columns(table.schema_arrow.names, self._columns(), str(path))
                row = 0
                for batch in table.iter_batches(_BATCH_ROWS, columns=self._columns()):
                    texts = batch.column(self._text_column)
                    groups = batch.column(self._group_column) if self._group_column else None
                    for index in range(batch.num_rows):
                        where = f"{path}, row {row}"
                        try:
                            text = texts[index].as_py()
                        except UnicodeDecodeError as error:
                            raise ConfigurationError(
                                f"corpus: {where}: not UTF-8 at byte {error.start} of its text"
                            ) from None
                        group = groups[index].as_py() if groups is not None else None
                        yield from self._document(text, group, where)
                        row += 1
        except pa.ArrowException as error:
            raise ConfigurationError(
                f"corpus: {path} cannot be read as Parquet: {str(error).splitlines()[0]}"
            ) from None

    def _columns(self) -> list[str]:
        return [name for name in (self._text_column, self._group_column) if name]

    def _document(self, text: object, group: object, where: str) -> Iterator[Document]:
        yield from row_document(text, group, where, self._text_column, self.skipped)


def row_document(
    text: object, group: object, where: str, text_column: str, skipped: Counter[str]
) -> Iterator[Document]:
    """Yield the document of one row, or nothing where its text is null.

    Raises:
        ConfigurationError: the column holds no text.
    """
    if text is None:
        skipped["no text"] += 1
        return
    if not isinstance(text, str):
        raise ConfigurationError(
            f"corpus: {where}: column {text_column!r} holds {type(text).__name__}, not text; "
            "set corpus.text_column"
        )
    yield Document(text, None if group is None else str(group))


def _require_columns(have: Sequence[str] | dict[str, object], need: list[str], where: str) -> None:
    for name in need:
        if name not in have:
            key = "text_column" if name == need[0] else "group_column"
            raise ConfigurationError(
                f"corpus: {where}: there is no column {name!r}; the columns are "
                f"{', '.join(have)} (set corpus.{key})"
            )


def _decode(content: bytes, path: Path, offset: int) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"corpus: {path} is not UTF-8 at byte {offset + error.start}; convert it, "
            "or leave it out"
        ) from None
    return text.removeprefix("\ufeff") if offset == 0 else text


def _content_hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"corpus: {path} cannot be read: {error.strerror}") from None


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
    known = path.suffix.lower() in _TEXT | _JSONL | _PARQUET
    return known and not hidden and path.is_file()
