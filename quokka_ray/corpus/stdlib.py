"""The default source: the sources of the interpreter's own library. On every machine, offline."""

import hashlib
import io
import platform
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from quokka_ray.corpus.documents import Document
from quokka_ray.errors import MachineError

_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}


class StdlibSource:
    """Every `.py` file of the standard library, one document each, in the order of their paths.

    A few of its test files are not UTF-8 on purpose, and say so or fail to decode: they are
    skipped and counted.

    Raises:
        MachineError: this interpreter was installed without its sources.
    """

    rereadable = True

    def __init__(self) -> None:
        self.description = f"standard library of Python {platform.python_version()}"
        self.skipped: Counter[str] = Counter()
        self._root = Path(sysconfig.get_paths()["stdlib"])
        self._files = sorted(
            path
            for path in self._root.rglob("*.py")
            if not _LEFT_OUT & set(path.relative_to(self._root).parts)
        )
        if not self._files:
            raise MachineError(
                f"this Python has no library sources under {self._root}; "
                "name other text with --set corpus=PATH"
            )

        self.size: int | None = sum(path.stat().st_size for path in self._files)
        self.done = 0

    def fingerprint(self) -> str:
        """Return a hash of every file's name and content."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files:
            digest.update(path.relative_to(self._root).as_posix().encode())
            digest.update(hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield each file's text."""
        self.skipped.clear()
        self.done = 0
        for path in self._files:
            content = path.read_bytes()
            self.done += len(content)
            try:
                encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
                text = content.decode(encoding) if encoding.startswith("utf-8") else None
            except (SyntaxError, UnicodeDecodeError):
                text = None
            if text is None:
                self.skipped["not utf8"] += 1
            else:
                yield Document(text)

    def validation_documents(self) -> Iterator[Document]:
        """Yield nothing: the split sets files apart."""
        return iter(())
