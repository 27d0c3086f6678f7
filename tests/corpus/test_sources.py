"""Where text comes from, and what is said when it cannot be read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quokka_ray.corpus.files import FilesSource
from quokka_ray.corpus.hub import HubSource
from quokka_ray.corpus.prepare import prepare
from quokka_ray.corpus.stdlib import StdlibSource
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig


def texts(source: FilesSource) -> list[str]:
    return [document.text for document in source.documents()]


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(**corpus: object) -> str:
    """Return what `prepare` says, having seen that it left nothing behind."""
    cache = Path(str(corpus["cache"]))
    with pytest.raises(ConfigurationError) as caught:
        prepare(CorpusConfig.model_validate({"source": "files", **corpus}))
    left = [path.name for path in cache.glob("*")] if cache.exists() else []
    assert [name for name in left if not name.endswith(".lock")] == []
    return str(caught.value)


def test_the_standard_library_is_megabytes_of_text_in_a_fixed_order() -> None:
    source = StdlibSource()
    documents = list(source.documents())
    assert sum(len(document.text) for document in documents) > 5e6
    assert [one.text for one in StdlibSource().documents()] == [one.text for one in documents]
    assert source.fingerprint() == StdlibSource().fingerprint()


def test_formats_are_known_by_their_endings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    write_jsonl(tmp_path / "b.jsonl", [{"text": "beta"}, {"text": None}, {"text": "βήτα"}])
    pq.write_table(pa.table({"text": ["gamma", None, "delta"]}), tmp_path / "c.parquet")
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    (tmp_path / ".hidden.txt").write_text("hidden")
    source = FilesSource([str(tmp_path)])
    assert texts(source) == ["alpha", "beta", "βήτα", "gamma", "delta"]
    assert source.skipped == {"no text": 2}
    assert texts(FilesSource([f"{tmp_path}/*.txt"])) == ["alpha"]
    assert texts(FilesSource([f"{tmp_path}/b.jsonl"], file_format="text"))[0].startswith('{"text"')


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    assert texts(FilesSource([str(tmp_path), f"{tmp_path}/a.txt", f"{tmp_path}/*"])) == ["alpha"]


def test_a_validation_file_is_not_read_for_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.txt").write_text("beta")
    source = FilesSource([f"{tmp_path}/*.txt"], [f"{tmp_path}/b.txt"])
    assert texts(source) == ["alpha"]
    assert [one.text for one in source.validation_documents()] == ["beta"]


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").write_text("alpha")
    first, second = (FilesSource([str(tmp_path / name)]).fingerprint() for name in ("one", "two"))
    (tmp_path / "two" / "two.txt").write_text("alphb")
    assert first == second
    assert FilesSource([str(tmp_path / "two")]).fingerprint() != first


def test_text_that_is_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    cache = tmp_path / "cache"
    assert "a.txt is not UTF-8 at byte 3" in refusal(paths=[f"{tmp_path}/*.txt"], cache=cache)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    said = refusal(paths=[f"{tmp_path}/b.jsonl"], cache=cache)
    assert "b.jsonl is not UTF-8 at byte 28" in said
    (tmp_path / "c.jsonl").write_text('{"text": "half \\ud800"}\n')
    assert "half a character" in refusal(paths=[f"{tmp_path}/c.jsonl"], cache=cache)


def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "x", "title": "y"}])
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "b.parquet")
    cache = tmp_path / "cache"
    said = refusal(paths=[f"{tmp_path}/a.jsonl"], cache=cache)
    assert "line 1: there is no column 'text'; the columns are body, title" in said
    said = refusal(paths=[f"{tmp_path}/b.parquet"], cache=cache)
    assert "no column 'text'; the columns are body, n (set corpus.text_column)" in said
    said = refusal(paths=[f"{tmp_path}/b.parquet"], text_column="n", cache=cache)
    assert "holds int, not text" in said
    said = refusal(
        paths=[f"{tmp_path}/b.parquet"], text_column="body", group_column="book", cache=cache
    )
    assert "corpus.group_column" in said


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text"\n', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "a row is an object of columns"),
        ("a.parquet", b"not parquet at all", "cannot be read as Parquet"),
        ("a.txt", b" \n", "the corpus is empty"),
        ("a.txt", b"", "the corpus is empty"),
        ("a.txt", b"one document cannot be split", "the split is by document"),
    ],
)
def test_a_corpus_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    cache = tmp_path / "cache"
    assert said in refusal(paths=[str(tmp_path / name)], validation_fraction=1e-9, cache=cache)


def test_paths_that_match_nothing_are_named(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "no file matches" in refusal(paths=[f"{tmp_path}/*.txt"], cache=cache)
    (tmp_path / "empty").mkdir()
    assert "in the folder" in refusal(paths=[f"{tmp_path}/empty"], cache=cache)


def test_a_local_dataset_is_read_through_the_hub_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    write_jsonl(tmp_path / "train.jsonl", [{"text": f"row {i}", "book": i % 2} for i in range(3)])
    source = HubSource(str(tmp_path), None, "train", None, "text", "book")
    assert [tuple(one) for one in source.documents()] == [
        ("row 0", "0"),
        ("row 1", "1"),
        ("row 2", "0"),
    ]
    with pytest.raises(ConfigurationError, match="no column 'body'; the columns are text, book"):
        list(HubSource(str(tmp_path), None, "train", None, "body", None).documents())
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        list(HubSource(str(tmp_path), None, "nowhere", None, "text", None).documents())


def test_a_hub_that_cannot_be_reached_is_a_fault_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = HubSource("nobody/nothing-of-this-name", None, "train", None, "text", None)
    with pytest.raises(MachineError, match="hub cannot be reached"):
        source.fingerprint()
    with pytest.raises(MachineError, match="hub cannot be reached"):
        list(source.documents())
