"""A prepared corpus on disk: flat token files, memory-mapped, with a document index.

corpus.json                        sizes, hashes, identities and the card
README.md                          the card for people
train.bin, validation.bin          tokens, little-endian, documents one after the other
train.npy, validation.npy          where each document begins; one more entry: the end
train.hashes, validation.hashes    a 64-bit hash of each document's text, sorted
tokenizer.json                     the tokenizer, unless it has no file
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.assemble import SIDES
from quokka_ray.corpus.pieces import altered_pieces
from quokka_ray.corpus.shuffle import seeded
from quokka_ray.corpus.tokenizers import Tokenizer, load_saved, token_dtype
from quokka_ray.corpus.windows import WindowOrder, Windows
from quokka_ray.errors import ConfigurationError

FORMAT = 2
META = "corpus.json"
# Keeps the draw of validation windows apart from other draws of the same seed.
_VALIDATION = 0x76616C


class TokenCorpus:
    """Tokens of one prepared corpus. Made by `TokenCorpus.open`.

    Attributes:
        path: Its folder.
        hash: Content address: of the source, the tokenizer, the split and the order.
        tokenizer_id: Identity of the tokenizer.
        vocab_size: Real tokens, the end of a document among them.
        train_tokens: Tokens of training, ends of documents counted.
        validation_tokens: Tokens of validation.
        bytes_per_token: UTF-8 bytes over tokens of the validation documents: a loss in nats per
            token is loss / ln 2 / bytes_per_token in bits per byte. NaN where the tokenizer is
            not at hand.
        documents: How many documents each side has.
        validation_hash: Hash of the validation tokens.
        card: All of it and what was skipped, flat, for people.
        train: Training tokens, [train_tokens], uint16 or uint32, read-only.
        validation: Validation tokens, [validation_tokens].
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self._describe(path, meta)
        dtype = token_dtype(self.vocab_size)
        self.train = np.memmap(path / "train.bin", dtype=dtype, mode="r")
        self.validation = np.memmap(path / "validation.bin", dtype=dtype, mode="r")

    def _describe(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.hash: str = meta["hash"]
        self.tokenizer_id: str = meta["tokenizer"]
        self.vocab_size: int = meta["vocab_size"]
        self.train_tokens: int = meta["train_tokens"]
        self.validation_tokens: int = meta["validation_tokens"]
        self.bytes_per_token: float = meta["bytes_per_token"] or math.nan
        self.documents = {side: int(meta[f"{side}_documents"]) for side in SIDES}
        self.validation_hash: str = meta["validation_hash"]
        self.card = {name: value for name, value in meta.items() if name != "files"}
        self._files: dict[str, Any] = meta["files"]

    @staticmethod
    def open(path: str | Path) -> "TokenCorpus":
        """Open a prepared corpus, held against the sizes that it was published with.

        Bytes that were altered in place are found by `verify`.

        Raises:
            ConfigurationError: there is none, or it is not whole: it has to be prepared again.
        """
        path = Path(path)
        meta = TokenCorpus.check(path)
        with _damage(path):
            if "mixture" in meta:
                from quokka_ray.corpus.mixture import MixtureCorpus

                return MixtureCorpus(path, meta)
            return TokenCorpus(path, meta)

    @staticmethod
    def check(path: Path) -> dict[str, Any]:
        """Return what corpus.json says, once the files beside it have the sizes that it says.

        Raises:
            ConfigurationError: they have not, or it cannot be read.
        """
        with _damage(path):
            meta: dict[str, Any] = json.loads((path / META).read_text(encoding="utf-8"))
            if meta["format"] != FORMAT:
                raise ConfigurationError(
                    f"corpus {path} has format {meta['format']}, not {FORMAT}: {_AGAIN}"
                )
            for name, entry in meta["files"].items():
                size, expected = (path / name).stat().st_size, entry["bytes"]
                if size != expected:
                    raise ConfigurationError(
                        f"corpus {path} is damaged: {name} has {size:,} bytes instead of "
                        f"{expected:,}; {_AGAIN}"
                    )
            return meta

    @staticmethod
    def parts_of(path: Path) -> list[str]:
        """Return the folders of a mixture's parts that lie beside it; none for other corpora."""
        folders = [one["folder"] for one in TokenCorpus.check(path).get("mixture", ())]
        return [folder for folder in folders if not Path(folder).is_absolute()]

    def verify(self, largest: int | None = None) -> None:
        """Read every byte and hold it against the hashes that the corpus was published with.

        Args:
            largest: Bytes of the largest file that is read; None: all are.

        Raises:
            ConfigurationError: a file was altered; it names the file and which of its bytes.
        """
        for name, entry in self._files.items():
            if largest is not None and entry["bytes"] > largest:
                continue
            for number in altered_pieces(self.path / name, entry):
                first = number * entry["piece_bytes"]
                last = min(first + entry["piece_bytes"], entry["bytes"])
                raise ConfigurationError(
                    f"corpus {self.path} is damaged: {name} was altered between bytes {first:,} "
                    f"and {last:,} (its hash is another); remove the folder and prepare it again"
                )

    def reweighted(self, weights: Sequence[float]) -> "TokenCorpus":
        """Return the parts of a mixture at other training weights.

        Raises:
            ConfigurationError: it is no mixture.
        """
        raise ConfigurationError(f"corpus {self.path} is no mixture: it has no weights to change")

    def window_order(self, unique_tokens: int, seq_len: int, seed: int) -> Windows:
        """Return the order in which a run reads the first `unique_tokens` training tokens.

        Documents lie in a seeded random order, so a prefix is a fair sample of the text, and a
        shorter prefix is part of every longer one.

        Raises:
            ConfigurationError: there are fewer training tokens, or they make no window.
        """
        if unique_tokens > self.train_tokens:
            raise ConfigurationError(
                f"{unique_tokens:,} unique tokens were asked for, and the corpus has "
                f"{self.train_tokens:,} for training; lower search.unique_tokens or give more text"
            )
        if unique_tokens < seq_len:
            raise ConfigurationError(
                f"{unique_tokens:,} unique tokens make no window of {seq_len:,}; "
                "raise search.unique_tokens, give more text, or lower model.seq_len"
            )
        return WindowOrder(self.train[:unique_tokens], seq_len, seed)

    def validation_windows(self, seq_len: int, count: int, seed: int) -> NDArray[np.int64]:
        """Return `count` different windows of the validation tokens, [count, seq_len].

        The same for every caller with the same arguments; a smaller count gives the first ones.

        Raises:
            ConfigurationError: the validation tokens hold fewer windows.
        """
        windows = self.validation_tokens // seq_len
        if count > windows:
            raise ConfigurationError(
                f"the validation split is too short: {self.validation_tokens:,} tokens make "
                f"{windows:,} windows of {seq_len:,}, and evaluation.sequences is {count:,}; "
                "lower it, raise corpus.validation_fraction, or give more text"
            )
        rows = self.validation[: windows * seq_len].reshape(windows, seq_len)
        chosen = seeded(seed, _VALIDATION).permutation(windows)[:count]
        return rows[chosen].astype(np.int64)

    def document_offsets(self, side: str = "train") -> NDArray[np.int64]:
        """Return where each document begins, and the end, [documents + 1]."""
        offsets: NDArray[np.int64] = np.load(self.path / f"{side}.npy", mmap_mode="r")
        return offsets

    def document_hashes(self, side: str) -> NDArray[np.uint64]:
        """Return a hash of each document that equal ones share, sorted, [documents]."""
        return np.memmap(self.path / f"{side}.hashes", dtype="<u8", mode="r")

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that the corpus was made with."""
        return load_saved(self.path, self.tokenizer_id)


_AGAIN = "prepare it again (quokka-ray prepare STUDY)"


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say of what cannot be read that it has to be prepared again."""
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is no prepared corpus, or not a whole one "
            f"({Path(error.filename).name} is missing); {_AGAIN}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"corpus {path} is damaged: {META} cannot be read ({error}); {_AGAIN}"
        ) from None
