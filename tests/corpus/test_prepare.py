"""Preparation: what is published, in which order, and what a kill leaves."""

import itertools
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quokka_ray.corpus import TokenCorpus, prepare
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig

PREPARE = """
import sys
from pathlib import Path
from quokka_ray.corpus import prepare
from quokka_ray.study.config import CorpusConfig
config = CorpusConfig.model_validate_json(sys.argv[1])
def say(line):
    print(line, flush=True)
print(prepare(config, progress=say), flush=True)
"""


def words(count: int, seed: int = 0) -> list[str]:
    """Return `count` documents of random words."""
    rng = random.Random(seed)
    return [
        f"document {index} " + " ".join(rng.choices(["alpha", "beta", "gamma"], k=40))
        for index in range(count)
    ]


def write(path: Path, documents: list[str], **columns: list[object]) -> Path:
    rows = [
        {"text": text, **{name: values[index] for name, values in columns.items()}}
        for index, text in enumerate(documents)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path: Path, *paths: Path, **keys: object) -> CorpusConfig:
    return CorpusConfig.model_validate(
        {
            "source": "files",
            "paths": [str(path) for path in paths],
            "cache": tmp_path / "cache",
            "validation_fraction": 0.2,
            **keys,
        }
    )


def stored(corpus: TokenCorpus, side: str) -> list[str]:
    """Return one side's documents as text, in their order."""
    tokens = getattr(corpus, side)
    offsets = corpus.document_offsets(side)
    tokenizer = corpus.tokenizer()
    for end in offsets[1:]:
        assert tokens[end - 1] == tokenizer.end_of_document
    return [
        tokenizer.decode(tokens[start : end - 1]) for start, end in itertools.pairwise(offsets)
    ]


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


def test_equal_documents_fall_on_the_same_side(tmp_path: Path) -> None:
    corpus = TokenCorpus.open(
        prepare(config(tmp_path, write(tmp_path / "a.jsonl", words(200) * 3)))
    )
    train, validation = stored(corpus, "train"), stored(corpus, "validation")
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 600
    assert corpus.card["duplicates"] == 400
    together = sum(a == b for a, b in itertools.pairwise(train))
    assert together < 20


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


def _start(made: CorpusConfig) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, made.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_kill_publishes_nothing_and_the_next_preparation_succeeds(tmp_path: Path) -> None:
    big = write(tmp_path / "a.jsonl", [text * 80 for text in words(1500)])
    made = config(tmp_path, big)
    process = _start(made)
    assert process.stdout is not None
    # Its second line comes from the middle of the text.
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "documents" in lines[1]
    left = published(tmp_path / "cache")
    assert len(left) == 1
    assert left[0].startswith(".preparing-")
    # Preparing any corpus clears away what was left, not only the same one.
    other = prepare(config(tmp_path, write(tmp_path / "b.jsonl", words(50))))
    assert published(tmp_path / "cache") == [other.name]
    path = prepare(made)
    assert TokenCorpus.open(path).documents["train"] > 1000
    assert sorted(published(tmp_path / "cache")) == sorted([other.name, path.name])


def test_two_at_once_publish_one_corpus(tmp_path: Path) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", [text * 50 for text in words(1000)]))
    processes = [_start(made) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][-1] == said[1][-1]
    assert published(tmp_path / "cache") == [Path(said[0][-1]).name]
    assert sum("prepared" in line for lines in said for line in lines) == 1
