"""Preparation: documents to a published corpus, once, whole or not at all.

Documents stream through the tokenizer into a spool in the order in which they come; then both
sides are written in their final order from the memory-mapped spool. Memory holds a batch of
documents and some 100 bytes a document; the disk holds the tokens twice for a moment.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from quokka_ray.atomic import sync_folder
from quokka_ray.corpus.documents import Document, Source
from quokka_ray.corpus.spool import Spool
from quokka_ray.corpus.store import FORMAT, META, SIDES, TokenCorpus
from quokka_ray.corpus.tokenizers import Tokenizer, build_tokenizer
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig

DEFAULT_CACHE = Path("~/.cache/quokka-ray/corpora")

_BATCH_CHARACTERS = 1 << 20

Progress = Callable[[str], None]


def prepare(config: CorpusConfig, *, progress: Progress | None = None) -> Path:
    """Return the folder of the prepared corpus, made now unless it is there already.

    The folder's name is a hash of the source's content and of every setting that decides the
    tokens, so a changed text or setting is another corpus. Several processes may prepare at
    once: one does the work, the others wait for it.

    Args:
        config: The corpus.
        progress: Told a line at a time what goes on.

    Raises:
        ConfigurationError: the text cannot be used: nothing there, not UTF-8, a column missing,
            or too few documents to set any apart for validation.
        MachineError: the cache cannot be written, or the hub cannot be reached.
    """
    say = progress or (lambda line: None)
    tokenizer = build_tokenizer(config.tokenizer)
    source = build_source(config)
    address = _address(config, source, tokenizer)
    cache = (config.cache or DEFAULT_CACHE).expanduser()
    target = cache / f"{config.source}-{address}"
    if _is_whole(target):
        return target
    with _cache_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / f".{address}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another process is preparing this corpus; waiting for it")
            lock.acquire()
    try:
        _sweep(cache, address)
        if not _is_whole(target):
            _publish(config, source, tokenizer, address, cache, target, say)
    finally:
        lock.release()
    return target


def build_source(config: CorpusConfig) -> Source:
    """Return the source that `config` names. Its reader is imported only now."""
    if config.source == "python-stdlib":
        from quokka_ray.corpus.stdlib import StdlibSource

        return StdlibSource()
    if config.source == "files":
        from quokka_ray.corpus.files import FilesSource

        return FilesSource(
            config.paths,
            config.validation_paths,
            config.format,
            config.text_column,
            config.group_column,
        )
    from quokka_ray.corpus.hub import HubSource

    return HubSource(
        str(config.dataset),
        config.dataset_config,
        config.split,
        config.revision,
        config.text_column,
        config.group_column,
    )


def _address(config: CorpusConfig, source: Source, tokenizer: Tokenizer) -> str:
    parts = {
        "format": FORMAT,
        "source": config.source,
        "content": source.fingerprint(),
        "text_column": config.text_column,
        "group_column": config.group_column,
        "tokenizer": tokenizer.id,
        "validation_fraction": config.validation_fraction,
        "seed": config.seed,
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_whole(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        TokenCorpus.open(target)
    except ConfigurationError:
        return False
    return True


def _publish(
    config: CorpusConfig,
    source: Source,
    tokenizer: Tokenizer,
    address: str,
    cache: Path,
    target: Path,
    say: Progress,
) -> None:
    work = cache / f".preparing-{address}-{uuid.uuid4().hex[:8]}"
    try:
        with _cache_errors(cache):
            work.mkdir()
            say(f"preparing the corpus: {source.description}")
            _write(config, source, tokenizer, address, work, say)
            if target.exists():  # damaged, or it would have been taken as it is
                target.replace(cache / f".preparing-{address}-damaged")
            work.replace(target)
            sync_folder(cache)
        say(f"prepared {target}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(cache / f".preparing-{address}-damaged", ignore_errors=True)


def _write(
    config: CorpusConfig,
    source: Source,
    tokenizer: Tokenizer,
    address: str,
    work: Path,
    say: Progress,
) -> None:
    fraction = 0.0 if config.validation_paths else config.validation_fraction
    with Spool(work, tokenizer, config.seed, fraction) as spool:
        for batch in _batches(source):
            spool.add(batch)
            if spool.batches % 16 == 0:
                say(f"  {spool.documents:,} documents, {spool.bytes / 1e6:,.0f} MB of text")
        if not spool.documents:
            raise ConfigurationError(f"the corpus is empty: no text in {source.description}")
        meta: dict[str, object] = {
            "format": FORMAT,
            "hash": address,
            "source": source.description,
            "tokenizer": tokenizer.id,
            "vocab_size": tokenizer.vocab_size,
            "validation_fraction": fraction,
            "seed": config.seed,
        }
        sides = spool.sides()
        for side in SIDES:
            if not len(sides[side]):
                raise ConfigurationError(_one_sided(side, spool.documents, config))
        for side in SIDES:
            meta.update(spool.write_side(side, sides[side]))
        meta["bytes_per_token"] = spool.bytes_of(sides["validation"]) / spool.tokens_of(
            sides["validation"]
        )
        meta["duplicates"] = spool.duplicates
        for reason, count in (source.skipped + spool.skipped).items():
            meta[f"skipped_{reason.replace(' ', '_')}"] = count
    tokenizer.save(work)
    meta["validation_hash"] = _file_hash(work / "validation.bin")
    meta["files"] = {path.name: path.stat().st_size for path in sorted(work.iterdir())}
    with (work / META).open("w", encoding="utf-8") as stream:
        json.dump(meta, stream, indent=1)
    for path in work.iterdir():
        with path.open("rb") as stored:
            os.fsync(stored.fileno())
    sync_folder(work)


def _one_sided(side: str, documents: int, config: CorpusConfig) -> str:
    if side == "train":
        return f"no document is left for training: all {documents:,} fell to validation"
    return (
        f"no document fell to validation ({config.validation_fraction:.1%} of {documents:,} were "
        "asked for): the split is by document, so give more files or rows, raise "
        "corpus.validation_fraction, or set corpus.validation_paths"
    )


def _batches(source: Source) -> Iterator[list[tuple[Document, bool]]]:
    """Yield documents by the megabyte, each with whether it is validation by decree."""
    batch: list[tuple[Document, bool]] = []
    characters = 0
    decreed = ((document, True) for document in source.validation_documents())
    for entry in chain(((document, False) for document in source.documents()), decreed):
        batch.append(entry)
        characters += len(entry[0].text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def _sweep(cache: Path, address: str) -> None:
    """Remove what killed preparations left. Whoever holds a corpus's lock is its only preparer."""
    for left in cache.glob(".preparing-*"):
        other = left.name.split("-")[1]
        if other == address:
            shutil.rmtree(left, ignore_errors=True)
            continue
        lock = FileLock(cache / f".{other}.lock", thread_local=False)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            shutil.rmtree(left, ignore_errors=True)
            lock.release()


@contextlib.contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MachineError(
            f"the corpus cache {cache} cannot be written: {reason}; set corpus.cache"
        ) from None
