"""Prepared corpora where machines share them: any file system that pyarrow knows.

    <store>/<name>/<file>.00000, .00001 ...     pieces of 64 MB, as corpus.json lists them
    <store>/<name>/corpus.json                  written last: without it nothing is there

A corpus is fetched once a node, into the node's cache: whoever holds the lock fetches, each piece
is held against its hash before it is written, and the folder appears when all are there.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from quokka_ray.corpus.pieces import piece_hash
from quokka_ray.corpus.publishing import Progress, cache_errors, is_whole, locked, publish
from quokka_ray.corpus.store import META, TokenCorpus
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.corpus import is_address

# Pieces under way at once; each is in memory as a whole.
_AT_ONCE = 4


def open_corpus(path: Path, store: str | None, say: Progress | None = None) -> TokenCorpus:
    """Open the corpus at `path`, fetched from `store` first where this node lacks it.

    Raises:
        ConfigurationError: it is neither here nor there, or what is there is damaged.
        MachineError: the store or the cache cannot be used.
    """
    if store is None or is_whole(path):
        return TokenCorpus.open(path)
    with locked(path.parent, path.name.rpartition("-")[2], say or (lambda line: None)):
        if not is_whole(path, parts=False) and not fetch(path, store, say or (lambda line: None)):
            raise ConfigurationError(
                f"there is no corpus {path.name} in {store}: prepare it on a machine that has the "
                "text, with corpus.store set"
            )
    for name in TokenCorpus.parts_of(path):
        open_corpus(path.parent / name, store, say)
    return TokenCorpus.open(path)


def send(folder: Path, store: str, say: Progress) -> None:
    """Put a corpus into the store, unless it is there.

    Raises:
        ConfigurationError: the address names no file system.
        MachineError: the store cannot be written; nothing is there then, as far as readers see.
    """
    system, root = _connect(store)
    place = f"{root}/{folder.name}"
    if _read(system, f"{place}/{META}", store) is not None:
        return
    say(f"sending {folder.name} to {store}")
    content = (folder / META).read_bytes()

    def put(name: str, number: int, entry: dict[str, Any]) -> None:
        with (folder / name).open("rb") as stream:
            stream.seek(number * entry["piece_bytes"])
            piece = stream.read(entry["piece_bytes"])
        with system.open_output_stream(f"{place}/{name}.{number:05d}") as target:
            target.write(piece)

    try:
        system.create_dir(place, recursive=True)
        _each_piece(json.loads(content)["files"], put)
        with system.open_output_stream(f"{place}/{META}") as target:
            target.write(content)
    except OSError as error:
        raise MachineError(f"corpus.store {store} cannot be written: {error}") from None


def fetch(target: Path, store: str, say: Progress) -> bool:
    """Fetch a corpus to `target`, whose lock the caller holds; return whether the store has it.

    Raises:
        ConfigurationError: the address names no file system, or a piece is missing or altered.
        MachineError: the store cannot be read, or the cache cannot be written.
    """
    system, root = _connect(store)
    place = f"{root}/{target.name}"
    content = _read(system, f"{place}/{META}", store)
    if content is None:
        return False
    say(f"fetching {target.name} from {store}")
    meta = json.loads(content)
    work = target.parent / f".preparing-{target.name.rpartition('-')[2]}" / "fetched"

    def get(name: str, number: int, entry: dict[str, Any]) -> None:
        first = number * entry["piece_bytes"]
        with (work / name).open("r+b") as stream:
            stream.seek(first)
            # An earlier attempt may have brought it.
            if piece_hash(stream.read(entry["piece_bytes"])) == entry["pieces"][number]:
                return
            piece = _read(system, f"{place}/{name}.{number:05d}", store)
            if piece is None or piece_hash(piece) != entry["pieces"][number]:
                state = (
                    "missing" if piece is None else "truncated or altered (its hash is another)"
                )
                raise ConfigurationError(
                    f"{store}/{target.name}/{name}.{number:05d} is {state}: remove "
                    f"{store}/{target.name} and prepare the corpus again with corpus.store set"
                )
            stream.seek(first)
            stream.write(piece)

    with cache_errors(target.parent, work.parent):
        work.mkdir(parents=True, exist_ok=True)
        for name, entry in meta["files"].items():
            with (work / name).open("ab") as stream:
                stream.truncate(entry["bytes"])
        _each_piece(meta["files"], get)
        publish(work, target, meta)
        shutil.rmtree(work.parent, ignore_errors=True)
    return True


def _each_piece(files: dict[str, Any], action: Callable[[str, int, dict[str, Any]], None]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        under_way = [
            pool.submit(action, name, number, entry)
            for name, entry in files.items()
            for number in range(len(entry["pieces"]))
        ]
        try:
            for one in under_way:
                one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _connect(store: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it."""
    import pyarrow as pa
    from pyarrow import fs

    if not is_address(store):
        return fs.LocalFileSystem(), str(Path(store).expanduser().absolute())
    try:
        system, path = fs.FileSystem.from_uri(store)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(f"corpus.store {store}: {error}") from None
    except OSError as error:
        raise MachineError(f"corpus.store {store} cannot be reached: {error}") from None
    return system, path.rstrip("/")


def _read(system: Any, path: str, store: str) -> bytes | None:
    """Return a file's content, or None where there is none."""
    try:
        with system.open_input_stream(path) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"corpus.store {store} cannot be read: {error}") from None
