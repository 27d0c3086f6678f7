"""Preparation: what is published, in which order, and what a kill leaves."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from corpus.making import config, stored, words, write

from quokka_ray.corpus import TokenCorpus, assemble, build_tokenizer, chunks, meter, prepare
from quokka_ray.corpus.chunks import Encoder
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig

BOOKS50 = Path(__file__).parents[2] / "benchmarks" / "books50_tokenizer.json"

PREPARE = """
import sys
from pathlib import Path
from quokka_ray.corpus import prepare
from quokka_ray.study.config import CorpusConfig
config = CorpusConfig.model_validate_json(sys.argv[1])
def say(line):
    print(line, flush=True)
print(prepare(config, progress=say, passing=say), flush=True)
"""


def published(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


def test_every_document_is_stored_once_on_one_side(tmp_path: Path) -> None:
    documents = words(300)
    corpus = TokenCorpus.open(prepare(config(tmp_path, write(tmp_path / "a.jsonl", documents))))
    train, validation = stored(corpus, "train"), stored(corpus, "validation")
    assert sorted(train + validation) == sorted(documents)
    assert not set(train) & set(validation)
    assert 30 <= len(validation) <= 90
    assert corpus.documents == {"train": len(train), "validation": len(validation)}
    assert corpus.train_tokens == len(corpus.train) == sum(len(text) + 1 for text in train)
    assert corpus.train.dtype == np.uint16
    assert train != sorted(train, key=documents.index)
    size = sum(len(text.encode()) for text in validation)
    assert corpus.bytes_per_token == size / corpus.validation_tokens


def test_place_and_side_belong_to_the_document(tmp_path: Path) -> None:
    documents = words(200)
    few = TokenCorpus.open(
        prepare(config(tmp_path, write(tmp_path / "a.jsonl", documents[:100][::-1])))
    )
    many = TokenCorpus.open(prepare(config(tmp_path, write(tmp_path / "b.jsonl", documents))))
    for side in ("train", "validation"):
        kept = [text for text in stored(many, side) if text in set(documents[:100])]
        assert stored(few, side) == kept


def test_another_seed_is_another_order_and_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", words(200))
    first, second = (
        TokenCorpus.open(prepare(config(tmp_path, path, seed=seed))) for seed in (0, 1)
    )
    assert first.hash != second.hash
    assert set(stored(first, "validation")) != set(stored(second, "validation"))


def test_a_group_stays_on_one_side(tmp_path: Path) -> None:
    documents = words(200)
    documents[1::40] = [documents[0]] * 5  # the same text in several books
    books = [f"book {index // 5}" for index in range(200)]
    path = write(tmp_path / "a.jsonl", documents, book=books)
    corpus = TokenCorpus.open(prepare(config(tmp_path, path, group_column="book")))
    validation = set(stored(corpus, "validation"))
    for book in set(books):
        own = {text for b, text in zip(books, documents, strict=True) if b == book}
        assert len({text in validation for text in own - {documents[0]}}) == 1
    assert not validation & set(stored(corpus, "train"))


def test_validation_files_are_all_of_validation(tmp_path: Path) -> None:
    documents = words(60)
    train = write(tmp_path / "a.jsonl", documents)
    held_out = write(tmp_path / "b.jsonl", ["only here", documents[7]])
    corpus = TokenCorpus.open(prepare(config(tmp_path, train, validation_paths=[str(held_out)])))
    assert sorted(stored(corpus, "validation")) == sorted(["only here", documents[7]])
    assert sorted(stored(corpus, "train")) == sorted(set(documents) - {documents[7]})


def test_preparing_again_does_nothing(tmp_path: Path) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(50)))
    said: list[str] = []
    path = prepare(made, progress=said.append)
    stamp = (path / "train.bin").stat().st_mtime_ns
    assert said
    said.clear()
    assert prepare(made, progress=said.append) == path
    assert not said
    assert (path / "train.bin").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["train.bin", "corpus.json", "train.npy"])
def test_a_damaged_corpus_is_refused_and_made_anew(tmp_path: Path, name: str) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(50)))
    path = prepare(made)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="prepare it again"):
        TokenCorpus.open(path)
    assert prepare(made) == path
    assert (path / name).read_bytes() == whole
    assert published(tmp_path / "cache") == [path.name]


def test_a_folder_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no prepared corpus"):
        TokenCorpus.open(tmp_path)


def test_a_cache_that_cannot_be_written_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(5)), cache=tmp_path / "file" / "c")
    with pytest.raises(MachineError, match="corpus cache"):
        prepare(made)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 10_000)
    path = write(tmp_path / "a.jsonl", words(400))
    alone = prepare(config(tmp_path, path, workers=1, cache=tmp_path / "one"))
    monkeypatch.setattr(assemble, "_BLOCK_TOKENS", 3000)
    many = prepare(config(tmp_path, path, workers=3, cache=tmp_path / "three"))
    assert bytes_of(alone) == bytes_of(many)


def test_a_preparation_that_goes_on_makes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 10_000)
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(400)), workers=1)
    straight = bytes_of(prepare(made.model_copy(update={"cache": tmp_path / "straight"})))
    encode, encoded = Encoder.encode, []

    def interrupted(self: Encoder, chunk: chunks.Chunk) -> dict[str, object]:
        if len(encoded) == 4:
            raise KeyboardInterrupt
        encoded.append(chunk.number)
        return encode(self, chunk)

    monkeypatch.setattr(Encoder, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(made)
    (left,) = published(tmp_path / "cache")
    # What a power cut can leave: a note whose tokens did not reach the disk.
    (tmp_path / "cache" / left / "chunks" / "000001.bin").write_bytes(b"short")
    encoded.clear()
    monkeypatch.setattr(Encoder, "encode", lambda s, c: encoded.append(c.number) or encode(s, c))
    assert bytes_of(prepare(made)) == straight
    assert encoded[:2] == [1, 4]
    assert 0 not in encoded
    assert published(tmp_path / "cache") == [prepare(made).name]


def test_a_pipe_that_is_sent_again_goes_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 5_000)
    path = write(tmp_path / "a.jsonl", words(200))
    piped = config(tmp_path, Path("-"), workers=1)
    content = path.read_bytes()
    encode, encoded = Encoder.encode, []
    monkeypatch.setattr(Encoder, "encode", lambda s, c: encoded.append(c.number) or encode(s, c))

    def send(stream: io.BufferedIOBase) -> Path:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
        return prepare(piped)

    class Cut(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 30_000:
                raise KeyboardInterrupt
            return super().read(4096)

    with pytest.raises(KeyboardInterrupt):
        send(Cut(content))
    before = len(encoded)
    assert before > 2
    folder = send(io.BytesIO(content))
    assert len(encoded) == len(set(encoded))
    # The same as the file's, under the same address.
    assert prepare(config(tmp_path, path)) == folder
    # Another text through the same pipe takes nothing over.
    other = send(io.BytesIO(write(tmp_path / "b.jsonl", words(200, seed=1)).read_bytes()))
    assert other != folder
    named = prepare(config(tmp_path, tmp_path / "b.jsonl", cache=tmp_path / "d"))
    said = {"README.md", "corpus.json"}  # where the text came from
    first, second = bytes_of(other), bytes_of(named)
    assert {name for name in first if first[name] != second[name]} == said


@pytest.mark.parametrize("where", ["chunks", "train.bin", "corpus.json"])
def test_a_full_disk_publishes_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 10_000)
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(300)), workers=1)
    opened = Path.open

    class Full:
        """A file on a disk that has no room left."""

        def __init__(self, path: Path) -> None:
            self.path = path

        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

        def close(self) -> None: ...

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None: ...

    def filling(self: Path, mode: str = "r", *args: object, **keys: object) -> object:
        late = "000003" in self.name if where == "chunks" else self.name == where
        if late and "w" in mode:
            opened(self, "wb").close()
            return Full(self)
        return opened(self, mode, *args, **keys)

    monkeypatch.setattr(Path, "open", filling)
    with pytest.raises(MachineError, match=r"No space left.*make room.*goes on from there"):
        prepare(made)
    (left,) = published(tmp_path / "cache")
    assert left.startswith(".preparing-")
    monkeypatch.setattr(Path, "open", opened)
    corpus = TokenCorpus.open(prepare(made))
    corpus.verify()
    assert sum(corpus.documents.values()) == 300


@pytest.mark.parametrize("name", ["train.bin", "validation.npy", "train.hashes", "README.md"])
def test_a_byte_that_was_altered_on_disk_is_found(tmp_path: Path, name: str) -> None:
    path = prepare(config(tmp_path, write(tmp_path / "a.jsonl", words(50))))
    corpus = TokenCorpus.open(path)
    corpus.verify()
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"{name} was altered between bytes 0 and .*"):
        TokenCorpus.open(path).verify()
    # Of large corpora the small files are read, each as a whole.
    with pytest.raises(ConfigurationError, match="was altered"):
        TokenCorpus.open(path).verify(len(content))
    TokenCorpus.open(path).verify(len(content) - 1)


def test_another_tokenizer_than_the_corpus_was_made_with_is_refused(tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl", words(50))
    path = prepare(config(tmp_path, text, tokenizer=str(BOOKS50)))
    assert TokenCorpus.open(path).tokenizer().id == build_tokenizer(BOOKS50).id
    content = json.loads((path / "tokenizer.json").read_text())
    content["normalizer"] = None
    (path / "tokenizer.json").write_text(json.dumps(content).ljust(BOOKS50.stat().st_size))
    with pytest.raises(ConfigurationError, match=r"was made with tokenizer .*prepare the corpus"):
        TokenCorpus.open(path).tokenizer()


def test_the_card_says_what_is_in_the_corpus(tmp_path: Path) -> None:
    documents = ["", *words(80), *words(3)]
    text = write(tmp_path / "a.jsonl", documents)
    corpus = TokenCorpus.open(prepare(config(tmp_path, text, licence="CC0-1.0")))
    card = corpus.card
    assert card["licence"] == "CC0-1.0"
    assert (card["duplicates"], card["skipped_empty"]) == (3, 1)
    assert card["train_documents"] + card["validation_documents"] == 80
    assert card["samples"][0] in stored(corpus, "train")[0]
    page = (corpus.path / "README.md").read_text()
    for said in ("| Licence | CC0-1.0 |", "| Duplicates dropped | 3 |", card["samples"][1]):
        assert said in page


def _start(made: CorpusConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, made.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_publishes_nothing_and_the_next_preparation_makes_the_same_bytes(
    tmp_path: Path, workers: int
) -> None:
    rows = [text * 150 for text in words(1500)]
    made = config(
        tmp_path, write(tmp_path / "a.jsonl", rows), workers=workers, near_duplicates=0.9
    )
    process = _start(made)
    assert process.stdout is not None
    # Its second line comes from the middle of the text.
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "documents" in lines[1]
    (left,) = published(tmp_path / "cache")
    assert left.startswith(".preparing-")
    kept = list((tmp_path / "cache" / left / "chunks").glob("*.json"))
    assert kept
    stamps = {path: path.stat().st_mtime_ns for path in kept[:1]}
    # Preparing another corpus leaves it alone, for a week.
    other = prepare(config(tmp_path, write(tmp_path / "b.jsonl", words(50))))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    path = prepare(made)
    assert sorted(published(tmp_path / "cache")) == sorted([other.name, path.name])
    straight = prepare(made.model_copy(update={"cache": tmp_path / "straight"}))
    assert bytes_of(path) == bytes_of(straight)


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_chunk_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", 20_000)
    monkeypatch.setattr(meter, "_EVERY", 0)
    rows = [text * 20 for text in words(600)]
    made = config(tmp_path, write(tmp_path / "a.jsonl", rows), workers=2)
    killed: list[int] = []

    def kill(line: str) -> None:
        alive = [
            one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE
        ]
        workers = [one for one in alive if "spawn_main" in " ".join(one.cmdline())]
        if workers and not killed:
            killed.append(workers[0].pid)
            workers[0].kill()

    with pytest.raises(MachineError, match=r"was killed.*smaller corpus\.workers"):
        prepare(made, passing=kill)
    assert killed
    straight = prepare(made.model_copy(update={"cache": tmp_path / "straight", "workers": 1}))
    assert bytes_of(prepare(made)) == bytes_of(straight)


def test_what_was_left_a_week_ago_is_cleared_away(tmp_path: Path) -> None:
    old = tmp_path / "cache" / ".preparing-0123456789abcdef"
    old.mkdir(parents=True)
    (old / "out").write_text("")
    os.utime(old, (0, 0))
    path = prepare(config(tmp_path, write(tmp_path / "b.jsonl", words(50))))
    assert published(tmp_path / "cache") == [path.name]


def test_two_at_once_publish_one_corpus(tmp_path: Path) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", [text * 50 for text in words(1000)]))
    processes = [_start(made) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert published(tmp_path / "cache") == [Path(said[0][-1]).name]
    assert sum("prepared" in line for lines in said for line in lines) == 1
