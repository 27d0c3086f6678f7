"""Preparation: documents to a published corpus, once, whole or not at all.

Documents stream through the tokenizer into chunks (`chunks.py`), by many processes; once all are
there, duplicates are dropped and both sides are written in their final order (`assemble.py`).
What a kill or a full disk leaves are whole chunks, and the next preparation goes on from them.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from quokka_ray.atomic import sync_folder
from quokka_ray.corpus.bpe import train_tokenizer
from quokka_ray.corpus.build import build
from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.draws import Draws
from quokka_ray.corpus.sources import address_of, build_source, named_tokenizer
from quokka_ray.corpus.store import FORMAT, TokenCorpus
from quokka_ray.corpus.tokenizers import Tokenizer, build_tokenizer
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.corpus import CorpusConfig

DEFAULT_CACHE = Path("~/.cache/quokka-ray/corpora")

# What a killed preparation left is kept so long for one that goes on.
_KEPT_SECONDS = 7 * 24 * 3600

Progress = Callable[[str], None]


def prepare(
    config: CorpusConfig, *, progress: Progress | None = None, passing: Progress | None = None
) -> Path:
    """Return the folder of the prepared corpus, made now unless it is there already.

    The folder's name is a hash of the source's content and of every setting that decides the
    tokens, so a changed text or setting is another corpus. Several processes may prepare at
    once: one does the work, the others wait for it.

    Args:
        config: The corpus.
        progress: Told a line at a time what goes on.
        passing: Told where the work stands, a line that replaces the one before.

    Raises:
        ConfigurationError: the text cannot be used: nothing there, not UTF-8, a column missing,
            or too few documents to set any apart for validation.
        MachineError: the cache cannot be written, or the hub cannot be reached. What is done is
            kept, and the next call goes on from there.
    """
    say = progress or (lambda line: None)
    cache = (config.cache or DEFAULT_CACHE).expanduser()
    tokenizer = named_tokenizer(config)
    source = build_source(config, tokenizer, cache)
    # A pipe's content is known once it was read: until then its settings name the work.
    content = source.fingerprint() if source.rereadable else "stdin"
    address = address_of(config, content, tokenizer, FORMAT)
    target = cache / f"{config.source}-{address}"
    if source.rereadable and is_whole(target):
        return target
    with _locked(cache, address, say):
        _sweep(cache, address)
        if source.rereadable and is_whole(target):
            return target
        work = cache / f".preparing-{address}"
        try:
            with _cache_errors(cache, work):
                (work / "chunks").mkdir(parents=True, exist_ok=True)
                os.utime(work)
                say(f"preparing the corpus: {source.description}")
                draws = Draws(
                    config.seed, 0.0 if config.validation_paths else config.validation_fraction
                )
                tokenizer = tokenizer or _trained(config, source, draws, work, say)
                meta = build(config, source, tokenizer, draws, work, passing)
                if not source.rereadable:
                    content = source.fingerprint()
                    address = address_of(config, content, named_tokenizer(config), FORMAT)
                    target = cache / f"{config.source}-{address}"
                publish(work / "out", target, {"format": FORMAT, "hash": address, **meta})
        except ConfigurationError:
            # No second attempt would end otherwise.
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
    say(f"prepared {target}")
    return target


def is_whole(target: Path) -> bool:
    """Return whether a corpus lies in `target`, held against its files' sizes."""
    if not target.exists():
        return False
    try:
        TokenCorpus.open(target)
    except ConfigurationError:
        return False
    return True


def publish(made: Path, target: Path, meta: dict[str, object]) -> None:
    """Write `meta` as the corpus's, and move the folder to where it is found.

    Raises:
        OSError: the disk is full, or the folders cannot be written; nothing is published.
    """
    with (made / "corpus.json").open("w", encoding="utf-8") as stream:
        json.dump(meta, stream, indent=1)
    for path in made.iterdir():
        with path.open("rb") as stored:
            os.fsync(stored.fileno())
    sync_folder(made)
    if is_whole(target):  # a pipe that was read before
        return
    if target.exists():  # damaged, or it would have been taken as it is
        aside = made.parent / "damaged"
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    made.replace(target)
    sync_folder(target.parent)


def _trained(
    config: CorpusConfig, source: Source, draws: Draws, work: Path, say: Progress
) -> Tokenizer:
    """Return the tokenizer that `config` asks to train; kept for an attempt that goes on."""
    assert not isinstance(config.tokenizer, str)
    path = work / "tokenizer.json"
    if not source.rereadable:
        raise ConfigurationError(
            "corpus.tokenizer: a tokenizer cannot be trained on stdin, which is read once: put "
            "the text into a file, or name a tokenizer"
        )
    if not path.exists():
        say(f"training a tokenizer of {config.tokenizer.vocab_size:,} tokens")
        draft = path.with_suffix(".draft")
        draft.write_bytes(train_tokenizer(source, config.tokenizer, draws))
        draft.replace(path)
    return build_tokenizer(path)


@contextlib.contextmanager
def _locked(cache: Path, address: str, say: Progress) -> Iterator[None]:
    with _cache_errors(cache, None):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f".{address}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another process is preparing this corpus; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sweep(cache: Path, address: str) -> None:
    """Remove what preparations of other corpora left long ago."""
    for left in cache.glob(".preparing-*"):
        other = left.name.split("-")[1]
        if other == address or time.time() - left.stat().st_mtime < _KEPT_SECONDS:
            continue
        lock = FileLock(cache / f".{other}.lock", thread_local=False)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            shutil.rmtree(left, ignore_errors=True)
            lock.release()


@contextlib.contextmanager
def _cache_errors(cache: Path, work: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        kept = ""
        if work is not None and work.exists():
            kept = (
                f". Nothing was published; what is done is kept in {work}, and the same command "
                "goes on from there"
            )
        raise MachineError(
            f"the corpus cache {cache} cannot be written: {reason}; make room or set "
            f"corpus.cache{kept}"
        ) from None
