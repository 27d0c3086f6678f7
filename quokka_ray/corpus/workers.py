"""Many processes that encode chunks, fed by the one that reads."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from quokka_ray.corpus.chunks import Chunk, Encoder
from quokka_ray.errors import MachineError

# A process takes longer to start than the first chunks take to encode.
_HERE = 2

_encoder: Encoder | None = None


def cores() -> int:
    """Return how many cores this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def encoded(
    chunks: Iterable[Chunk], encoder: Encoder, workers: int
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield the note of each chunk in their order, with whether it was there already.

    At most two chunks for each worker are in memory.

    Raises:
        OSError: the folder cannot be written.
        MachineError: a worker was killed.
    """
    try:
        yield from _encoded(chunks, encoder, workers)
    except BrokenProcessPool:
        raise MachineError(
            "a process that tokenizes the corpus was killed, perhaps for lack of memory; what is "
            "done is kept: run it again, with a smaller corpus.workers"
        ) from None


def _encoded(
    chunks: Iterable[Chunk], encoder: Encoder, workers: int
) -> Iterator[tuple[dict[str, Any], bool]]:
    waiting: deque[tuple[Future[dict[str, Any]] | dict[str, Any], bool]] = deque()
    with contextlib.ExitStack() as stack:
        pool: ProcessPoolExecutor | None = None
        made = 0
        for chunk in chunks:
            note = encoder.note(chunk)
            if note is not None:
                waiting.append((note, True))
            elif workers == 1 or made < _HERE:
                waiting.append((encoder.encode(chunk), False))
                made += 1
            else:
                pool = pool or stack.enter_context(_pool(encoder, workers))
                waiting.append((pool.submit(_encode, chunk), False))
            while waiting and (pool is None or len(waiting) > 2 * workers):
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())


def _result(
    note: Future[dict[str, Any]] | dict[str, Any], known: bool
) -> tuple[dict[str, Any], bool]:
    return (note, known) if isinstance(note, dict) else (note.result(), known)


@contextlib.contextmanager
def _pool(encoder: Encoder, workers: int) -> Iterator[ProcessPoolExecutor]:
    # Not forked: the tokenizers library has threads.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(encoder,),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(encoder: Encoder) -> None:
    global _encoder
    _encoder = encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process once its parent is gone: a pool's worker would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _encode(chunk: Chunk) -> dict[str, Any]:
    assert _encoder is not None
    return _encoder.encode(chunk)
