"""Prepared corpora on other file systems: fetched once a node, piece by piece, hash by hash."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpus.making import config, words, write

from quokka_ray.corpus import TokenCorpus, pieces, prepare, remote
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    monkeypatch.setattr(pieces.HashedWriter.__init__, "__defaults__", (1000,))
    return (tmp_path / "store").as_uri()


def node(made: CorpusConfig, tmp_path: Path, name: str) -> CorpusConfig:
    """Return the same corpus as another machine sees it."""
    return made.model_copy(update={"cache": tmp_path / name})


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_one_machine_prepared_another_fetches(tmp_path: Path, store: str) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(100)), store=store)
    first = prepare(made)
    sent = sorted(path.name for path in (tmp_path / "store" / first.name).iterdir())
    assert "train.bin.00003" in sent
    said: list[str] = []
    second = prepare(node(made, tmp_path, "other"), progress=said.append)
    assert bytes_of(second) == bytes_of(first)
    assert [line.split()[0] for line in said] == ["fetching"]
    # By its address alone, without the text.
    named = CorpusConfig.model_validate(f"prepared:{store}/{first.name}")
    assert named.fetched_from == store
    third = prepare(node(named, tmp_path, "third"))
    assert bytes_of(third) == bytes_of(first)
    # A node that was told the folder and the store.
    fourth = remote.open_corpus(tmp_path / "fourth" / first.name, store)
    assert bytes_of(fourth.path) == bytes_of(first)
    assert [path.name for path in (tmp_path / "fourth").glob(".preparing*")] == []


def test_one_machine_reads_a_dataset_from_the_hub_and_all_others_fetch_its_tokens(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []
    rows = [{"text": text} for text in words(100)]

    class Hub:
        def dataset_info(self, dataset: str, revision: str | None) -> SimpleNamespace:
            asked.append("commit")
            return SimpleNamespace(sha="c" * 40)

    def load(path: str, **keys: object) -> list[dict[str, str]]:
        asked.append("rows")
        return rows

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(datasets, "load_dataset", load)
    made = config(tmp_path, store=store, source="hub", dataset="org/name")
    first = prepare(made)
    assert asked == ["commit", "rows"]
    # Who is told the text asks for its commit alone; a trial is told the tokens, and asks nobody.
    assert bytes_of(prepare(node(made, tmp_path, "driver"))) == bytes_of(first)
    assert asked == ["commit", "rows", "commit"]
    trial = remote.open_corpus(tmp_path / "trial" / first.name, store)
    assert bytes_of(trial.path) == bytes_of(first)
    assert len(asked) == 3


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_shard_that_is_not_what_was_sent_is_found_and_nothing_is_published(
    tmp_path: Path, store: str, damage: str
) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(100)), store=store)
    first = prepare(made)
    shard = tmp_path / "store" / first.name / "train.bin.00002"
    whole = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(whole[:500] if damage == "truncated" else b"x" + whole[1:])
    other = node(made, tmp_path, "other")
    with pytest.raises(
        ConfigurationError, match=r"train\.bin\.00002 is (missing|truncated or alt)"
    ):
        prepare(other)
    assert [path.name for path in (tmp_path / "other").glob("files*")] == []
    # Once it is mended, what was fetched is not fetched again.
    shard.write_bytes(whole)
    for path in shard.parent.glob("train.bin.00000"):
        path.unlink()
    assert bytes_of(prepare(other)) == bytes_of(first)


def test_a_corpus_without_its_last_file_is_not_in_the_store(tmp_path: Path, store: str) -> None:
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(100)), store=store)
    first = prepare(made)
    meta = tmp_path / "store" / first.name / "corpus.json"
    content = meta.read_bytes()
    meta.unlink()
    with pytest.raises(ConfigurationError, match="there is no corpus"):
        remote.open_corpus(tmp_path / "other" / first.name, store)
    assert bytes_of(prepare(node(made, tmp_path, "other"))) == bytes_of(first)
    assert meta.read_bytes() == content  # prepared there, and sent again


def test_two_processes_of_a_node_fetch_once(tmp_path: Path, store: str) -> None:
    first = prepare(config(tmp_path, write(tmp_path / "a.jsonl", words(100)), store=store))
    script = (
        "import sys; from pathlib import Path; from quokka_ray.corpus.remote import open_corpus\n"
        "def say(line): print(line)\n"
        "print(open_corpus(Path(sys.argv[1]), sys.argv[2], say).hash)"
    )
    call = [sys.executable, "-c", script, str(tmp_path / "node" / first.name), store]
    processes = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].splitlines() for process in processes]
    assert {lines[-1] for lines in said} == {TokenCorpus.open(first).hash}
    assert sum("fetching" in line for lines in said for line in lines) == 1


def test_any_file_system_of_pyarrow_will_do(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import fs

    memory = fs._MockFileSystem()
    monkeypatch.setattr(remote, "_connect", lambda address: (memory, "bucket/corpora"))
    made = config(tmp_path, write(tmp_path / "a.jsonl", words(60)), store="s3://bucket/corpora")
    first = prepare(made)
    assert memory.get_file_info(f"bucket/corpora/{first.name}/corpus.json").size > 0
    assert bytes_of(prepare(node(made, tmp_path, "other"))) == bytes_of(first)


def test_a_store_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    text = write(tmp_path / "a.jsonl", words(60))
    with pytest.raises(ConfigurationError, match=r"corpus\.store nowhere://x"):
        prepare(config(tmp_path, text, store="nowhere://x"))
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"corpus\.store .* cannot be (written|read)"):
        prepare(config(tmp_path, text, store=str(tmp_path / "file" / "store")))
    # The corpus itself was prepared, and is used without a store.
    assert prepare(config(tmp_path, text)).exists()


def test_another_tokenizer_than_a_prepared_corpus_has_is_refused(tmp_path: Path) -> None:
    first = prepare(config(tmp_path, write(tmp_path / "a.jsonl", words(60))))
    section = {"source": "prepared", "paths": [str(first)]}
    assert prepare(CorpusConfig.model_validate(section)) == first
    tokenizer = Path(__file__).parents[2] / "benchmarks" / "books50_tokenizer.json"
    with pytest.raises(ConfigurationError, match="was made with bytes-v1: leave it out"):
        prepare(CorpusConfig.model_validate({**section, "tokenizer": str(tokenizer)}))
    with pytest.raises(ConfigurationError, match="is no prepared corpus"):
        prepare(CorpusConfig.model_validate(f"prepared:{tmp_path}"))
    assert json.loads((first / "corpus.json").read_text())["tokenizer"] == "bytes-v1"
