"""Text to token ids and back: bytes, or any tokenizer of the `tokenizers` library."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quokka_ray.errors import ConfigurationError

Tokens = NDArray[np.integer]

# Names under which tokenizers carry a token that ends a document, the most telling first.
_END_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|endofdocument|>",
    "<|eod|>",
    "[EOD]",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "[SEP]",
)


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer.

    Attributes:
        id: Identity that stays the same between machines; equal ids tokenize equally.
        vocab_size: Token ids are 0 to vocab_size - 1, the end of a document among them.
        end_of_document: Id that the preparation puts after each document.
    """

    id: str
    vocab_size: int
    end_of_document: int

    def encode(self, text: str) -> Tokens:
        """Return the ids of `text`, without an end of document."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the ids of each text."""
        ...

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """Return the text of `ids`; the end of a document has none."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_saved` needs into `folder`."""
        ...


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """Return the type of one stored token: two bytes where the vocabulary fits, else four."""
    return np.dtype("<u2") if vocab_size <= 65_535 else np.dtype("<u4")


class ByteTokenizer:
    """UTF-8 bytes as tokens 0 to 255, and 256 for the end of a document."""

    id = "bytes-v1"
    vocab_size = 257
    end_of_document = 256

    def encode(self, text: str) -> Tokens:
        """Return the bytes of `text`."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the bytes of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """Return the text; bytes that are no UTF-8, as at a window's edge, show as a sign."""
        array = np.asarray(ids)
        return array[array < 256].astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write nothing: there is nothing to remember."""


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library, from its JSON.

    Special tokens are never read out of the text, and none are added around it. Where the
    vocabulary has no token that ends a document, one is added at its end.

    Raises:
        ConfigurationError: the file cannot be read as a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as Backend

        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"corpus.tokenizer: {path} cannot be read: {error.strerror}; "
                "write `bytes` or the path of a tokenizers JSON file"
            ) from None
        try:
            self._backend = Backend.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ConfigurationError(
                f"corpus.tokenizer: {path} is no tokenizers JSON file: {error}"
            ) from None
        self._content = content
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self.id = f"tokenizers-{hashlib.blake2b(content, digest_size=8).hexdigest()}"
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise ConfigurationError(f"corpus.tokenizer: {path} has an empty vocabulary")
        self.vocab_size = max(vocabulary.values()) + 1
        ends = [vocabulary[name] for name in _END_NAMES if name in vocabulary]
        self.end_of_document: int = ends[0] if ends else self.vocab_size
        self.vocab_size += not ends

    def encode(self, text: str) -> Tokens:
        """Return the ids of `text`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the ids of each text; the library spreads a batch over the cores."""
        encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        dtype = token_dtype(self.vocab_size)
        return [np.array(one.ids, dtype=dtype) for one in encoded]

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """Return the text of `ids`."""
        kept = [int(one) for one in ids if one != self.end_of_document]
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Keep a copy of the JSON, byte for byte."""
        (folder / "tokenizer.json").write_bytes(self._content)


class OpaqueTokenizer:
    """Stands for a tokenizer that made the tokens and is not at hand: its size is all we know.

    Args:
        vocab_size: Token ids are 0 to vocab_size - 1.
        end_of_document: The id that ends documents; None: one more than there are.
    """

    def __init__(self, vocab_size: int, end_of_document: int | None = None) -> None:
        self.end_of_document = vocab_size if end_of_document is None else end_of_document
        self.vocab_size = max(vocab_size, self.end_of_document + 1)
        self.id = f"vocabulary-{self.vocab_size}-{self.end_of_document}"

    def encode(self, text: str) -> Tokens:
        """Raise: nothing can be tokenized."""
        raise ConfigurationError(
            f"text cannot be tokenized: of the corpus's tokenizer ({self.id}) only the size is "
            "known; prepare the corpus with corpus.tokenizer set to its JSON file"
        )

    def encode_batch(self, texts: Sequence[str]) -> list[Tokens]:
        """Raise for any text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """Return the ids as numbers, a space between them."""
        return " ".join(str(int(one)) for one in ids if one != self.end_of_document)

    def save(self, folder: Path) -> None:
        """Write nothing: the identity says all."""


def known_by_identity(identity: str) -> Tokenizer | None:
    """Return the tokenizer that `identity` describes by itself; None: it has a file."""
    if identity == ByteTokenizer.id:
        return ByteTokenizer()
    opaque = re.fullmatch(r"vocabulary-(\d+)-(\d+)", identity)
    return OpaqueTokenizer(int(opaque[1]), int(opaque[2])) if opaque else None


def text_bytes(tokenizer: Tokenizer, windows: NDArray[np.integer]) -> int:
    """Return the UTF-8 bytes that windows of tokens stand for, [count, seq_len].

    Ends of documents have none. A character that a window's edge cuts counts as one byte. 0 where
    the tokenizer is not at hand.
    """
    if isinstance(tokenizer, OpaqueTokenizer):
        return 0
    if isinstance(tokenizer, ByteTokenizer):
        return int((windows < 256).sum())
    return sum(len(tokenizer.decode(row).replace("\ufffd", "?").encode()) for row in windows)


def build_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Return the byte tokenizer for `bytes`, else the tokenizer of a JSON file.

    Raises:
        ConfigurationError: there is no such file, or it is no tokenizer.
    """
    if str(name_or_path) == "bytes":
        return ByteTokenizer()
    return JsonTokenizer(Path(name_or_path).expanduser())


def load_saved(folder: Path, identity: str) -> Tokenizer:
    """Return the tokenizer that a prepared corpus was made with.

    Raises:
        ConfigurationError: its file is missing, or another tokenizer's.
    """
    known = known_by_identity(identity)
    if known is not None:
        return known
    found = build_tokenizer(folder / "tokenizer.json")
    if found.id != identity:
        raise ConfigurationError(
            f"{folder} was made with tokenizer {identity}, and its tokenizer.json is {found.id}: "
            "the file was changed; prepare the corpus again"
        )
    return found
