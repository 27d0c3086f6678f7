"""Where text comes from, and what is said when it cannot be read."""

import bz2
import gzip
import io
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quokka_ray.corpus.documents import Source
from quokka_ray.corpus.files import FilesSource, StdinSource
from quokka_ray.corpus.hub import HubSource
from quokka_ray.corpus.megatron import MegatronSource
from quokka_ray.corpus.prepare import prepare
from quokka_ray.corpus.stdlib import StdlibSource
from quokka_ray.corpus.tokenizers import OpaqueTokenizer
from quokka_ray.errors import ConfigurationError, MachineError
from quokka_ray.study.config import CorpusConfig


def files(*paths: object, **keys: object) -> FilesSource:
    return FilesSource(config(*paths, **keys))


def config(*paths: object, **keys: object) -> CorpusConfig:
    return CorpusConfig.model_validate(
        {"source": "files", "paths": [str(path) for path in paths], **keys}
    )


def texts(source: Source) -> list[str]:
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
    source = files(tmp_path)
    assert texts(source) == ["alpha", "beta", "βήτα", "gamma", "delta"]
    assert source.skipped == {"no text": 2}
    assert texts(files(f"{tmp_path}/*.txt")) == ["alpha"]
    assert texts(files(f"{tmp_path}/b.jsonl", format="text"))[0].startswith('{"text"')


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    assert texts(files(tmp_path, f"{tmp_path}/a.txt", f"{tmp_path}/*")) == ["alpha"]


def test_a_validation_file_is_not_read_for_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.txt").write_text("beta")
    source = files(f"{tmp_path}/*.txt", validation_paths=[f"{tmp_path}/b.txt"])
    assert texts(source) == ["alpha"]
    assert [one.text for one in source.validation_documents()] == ["beta"]


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").write_text("alpha")
    first, second = (files(tmp_path / name).fingerprint() for name in ("one", "two"))
    (tmp_path / "two" / "two.txt").write_text("alphb")
    assert first == second
    assert files(tmp_path / "two").fingerprint() != first


def test_text_that_is_not_utf8_names_file_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    cache = tmp_path / "cache"
    assert "a.txt is not UTF-8 at byte 3" in refusal(paths=[f"{tmp_path}/*.txt"], cache=cache)
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    said = refusal(paths=[f"{tmp_path}/b.jsonl"], cache=cache)
    assert "b.jsonl is not UTF-8 at byte 28 (line 2, byte 0xe9)" in said
    assert "corpus.undecodable: skip" in said
    (tmp_path / "w.txt").write_text("wide", encoding="utf-16")
    assert "it begins as UTF-16 does" in refusal(paths=[f"{tmp_path}/w.txt"], cache=cache)
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


def hub(cache: Path, dataset: object, **keys: object) -> HubSource:
    section = {"source": "hub", "dataset": str(dataset), **keys}
    return HubSource(CorpusConfig.model_validate(section), cache)


def test_a_local_dataset_is_read_through_the_hub_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", [{"text": f"row {i}", "book": i % 2} for i in range(3)])
    source = hub(tmp_path, data, group_column="book")
    assert [(one.text, one.group) for one in source.documents()] == [
        ("row 0", "0"),
        ("row 1", "1"),
        ("row 2", "0"),
    ]
    with pytest.raises(ConfigurationError, match="no column 'body'; the columns are text, book"):
        list(hub(tmp_path, data, text_column="body").documents())
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        list(hub(tmp_path, data, split="nowhere").documents())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    # The libraries read the variables once, when they are imported.
    datasets = pytest.importorskip("datasets")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_a_hub_that_cannot_be_reached_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    source = hub(tmp_path, "nobody/nothing-of-this-name")
    with pytest.raises(MachineError, match="hub cannot be reached"):
        source.fingerprint()
    with pytest.raises(MachineError, match="hub cannot be reached"):
        list(source.documents())


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_branch_is_pinned_to_its_commit_and_remembered_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    datasets = pytest.importorskip("datasets")
    asked: list[object] = []

    class Hub:
        def dataset_info(self, dataset: str, revision: str | None) -> SimpleNamespace:
            asked.append((dataset, revision))
            return SimpleNamespace(sha="c" * 40)

    loads: list[dict[str, object]] = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, **keys: loads.append(keys) or [{"text": "row"}]
    )
    first = hub(tmp_path, "org/name", revision="main")
    address = first.fingerprint()
    assert texts(first) == ["row"]
    assert first.revision == "c" * 40
    monkeypatch.setenv(variable, "1")
    second = hub(tmp_path, "org/name", revision="main")
    assert (second.fingerprint(), texts(second)) == (address, ["row"])
    pinned = hub(tmp_path, "org/name", revision="c" * 40)
    assert pinned.fingerprint() == address
    assert asked == [("org/name", "main")]
    monkeypatch.delenv(variable)
    assert texts(hub(tmp_path, "org/name", revision="c" * 40, streaming=False)) == ["row"]
    assert [(load["revision"], load["streaming"]) for load in loads] == [
        ("c" * 40, True),
        ("c" * 40, False),  # offline: the copy that was downloaded
        ("c" * 40, False),  # and where it is to be downloaded first
    ]


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", lambda content: pa.compress(content, "zstd", asbytes=True)),
    ],
)
def test_compressed_files_and_pipes_are_read_as_they_are(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    rows = [{"text": f"row {number} " + "x" * 5000} for number in range(300)]
    plain = write_jsonl(tmp_path / "plain.jsonl", rows).read_bytes()
    folder = tmp_path / "packed"
    folder.mkdir()
    packed = folder / f"a.jsonl.{ending}"
    packed.write_bytes(compress(plain))
    expected = [row["text"] for row in rows]
    assert texts(files(folder)) == expected
    pipe = StdinSource(config("-"), io.BytesIO(packed.read_bytes()))
    assert texts(pipe) == expected
    assert pipe.fingerprint() == files(packed).fingerprint()
    assert pipe.done == packed.stat().st_size
    (folder / f"b.txt.{ending}").write_bytes(compress("ein Täxt".encode()))
    assert texts(files(folder))[-1] == "ein Täxt"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ConfigurationError, match=r"a\.jsonl.*(damaged|cannot be read|not JSON)"):
        texts(files(packed))


def test_a_pipe_of_text_has_a_document_a_line_and_says_what_it_cannot_read() -> None:
    content = b"one\n\ntwo\r\nthr\xffee\n"
    with pytest.raises(ConfigurationError, match=r"stdin is not UTF-8 at byte 13 \(line 4"):
        texts(StdinSource(config("-"), io.BytesIO(content)))
    source = StdinSource(config("-", undecodable="skip"), io.BytesIO(content))
    assert texts(source) == ["one", "", "two"]
    assert source.skipped == {"not UTF-8": 1}
    with pytest.raises(ConfigurationError, match="Parquet cannot come through stdin"):
        texts(StdinSource(config("-"), io.BytesIO(b"PAR1....")))


def test_a_text_is_cut_by_lines_or_paragraphs_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo\n\nthree\n")
    assert texts(files(tmp_path, document="line")) == ["one", "two", "", "three"]
    paragraphs = [text.strip() for text in texts(files(tmp_path, document="blank_line"))]
    assert paragraphs == ["one\ntwo", "three"]


def test_documents_that_are_not_utf8_are_skipped_and_counted_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    (tmp_path / "c.jsonl").write_text('{"text": "half \\ud800"}\n{"text": "fine \\u00e9"}\n')
    broken = pa.array([b"caf\xe9", b"good"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": broken}), tmp_path / "d.parquet")
    source = files(tmp_path, undecodable="skip")
    assert texts(source) == ["ok", "fine é", "good"]
    assert source.skipped == {"not UTF-8": 4}
    with pytest.raises(ConfigurationError, match="row 0 is not UTF-8 at byte 3"):
        texts(files(tmp_path / "d.parquet"))


def megatron(prefix: Path, documents: list[list[list[int]]], code: int = 8) -> Path:
    """Write documents, each a list of sequences, as Megatron's preprocessing does."""
    dtype = {8: "<u2", 4: "<i4"}[code]
    sequences = [np.array(one, dtype=dtype) for document in documents for one in document]
    lengths = np.array([len(one) for one in sequences], dtype="<i4")
    offsets = np.cumsum([0, *(one.nbytes for one in sequences[:-1])]).astype("<i8")
    firsts = np.cumsum([0, *(len(document) for document in documents)]).astype("<i8")
    prefix.with_suffix(".bin").write_bytes(b"".join(one.tobytes() for one in sequences))
    prefix.with_suffix(".idx").write_bytes(
        struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(sequences), len(firsts))
        + lengths.tobytes()
        + offsets.tobytes()
        + firsts.tobytes()
    )
    return prefix


@pytest.mark.parametrize("code", [4, 8])
def test_megatron_data_are_read_document_by_document(tmp_path: Path, code: int) -> None:
    prefix = megatron(tmp_path / "data", [[[1, 2], [3, 9]], [[4, 9]], [[5]]], code)
    for path in (prefix, prefix.with_suffix(".bin"), prefix.with_suffix(".idx")):
        source = MegatronSource((str(path),), OpaqueTokenizer(10, 9))
        found = [one.tokens.tolist() for one in source.documents() if one.tokens is not None]
        # The end of a document that Megatron wrote comes back with the preparation's own.
        assert found == [[1, 2, 3], [4], [5]]
    assert source.done == source.size
    with pytest.raises(ConfigurationError, match=r"document 0: token 9 at 3 is none of.* 6:"):
        list(MegatronSource((str(prefix),), OpaqueTokenizer(5)).documents())


def test_megatron_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    prefix = megatron(tmp_path / "data", [[[1, 2, 3]], [[4]]])
    tokenizer = OpaqueTokenizer(10)
    whole = prefix.with_suffix(".bin").read_bytes()
    prefix.with_suffix(".bin").write_bytes(whole[:-1])
    with pytest.raises(ConfigurationError, match="has 7 bytes and its index asks for 8"):
        MegatronSource((str(prefix),), tokenizer)
    index = prefix.with_suffix(".idx")
    for content in (index.read_bytes()[:40], b"", b"x" * 200):
        index.write_bytes(content)
        with pytest.raises(ConfigurationError, match="cannot be read as a Megatron index"):
            MegatronSource((str(prefix),), tokenizer)
    index.unlink()
    with pytest.raises(ConfigurationError, match=r"data\.idx cannot be read"):
        MegatronSource((str(prefix),), tokenizer)
