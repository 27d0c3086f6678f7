"""How a corpus comes to be where it is found: one preparer at a time, whole or not at all."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from quokka_ray.atomic import sync_folder
from quokka_ray.corpus.store import META, TokenCorpus
from quokka_ray.errors import ConfigurationError, MachineError

Progress = Callable[[str], None]

# What a killed preparation left is kept so long for one that goes on.
_KEPT_SECONDS = 7 * 24 * 3600


def is_whole(target: Path, parts: bool = True) -> bool:
    """Return whether a corpus lies in `target`, held against its files' sizes.

    Args:
        target: Its folder.
        parts: Whether the parts of a mixture have to be whole too.
    """
    if not target.exists():
        return False
    try:
        TokenCorpus.check(target)
        if parts:
            TokenCorpus.open(target)
    except ConfigurationError:
        return False
    return True


def publish(made: Path, target: Path, meta: dict[str, object]) -> None:
    """Write `meta` as the corpus's, and move the folder to where it is found.

    Raises:
        OSError: the disk is full, or the folders cannot be written; nothing is published.
    """
    with (made / META).open("w", encoding="utf-8") as stream:
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


@contextlib.contextmanager
def locked(cache: Path, address: str, say: Progress) -> Iterator[None]:
    with cache_errors(cache, None):
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


def sweep(cache: Path, address: str) -> None:
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
def cache_errors(cache: Path, work: Path | None) -> Iterator[None]:
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
