"""Tokenizers that are trained on the corpus itself."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from corpus.making import config, stored, write

from quokka_ray.corpus import TokenCorpus, build_tokenizer, prepare
from quokka_ray.errors import ConfigurationError

SYLLABLES = ["ka", "mo", "ri", "ten", "sho", "u", "é"]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(60))
        for _ in range(count)
    ]


def bpe(**keys: object) -> dict[str, object]:
    return {"train": "bpe", "vocab_size": 400, **keys}


def test_a_trained_tokenizer_is_the_corpuss_own_and_loses_nothing(tmp_path: Path) -> None:
    documents = texts(200)
    path = write(tmp_path / "a.jsonl", documents)
    corpus = TokenCorpus.open(prepare(config(tmp_path, path, tokenizer=bpe())))
    assert corpus.vocab_size == 400
    assert corpus.bytes_per_token > 2
    assert sorted(stored(corpus, "train") + stored(corpus, "validation")) == sorted(documents)
    text = "日本 <|endoftext|>\n\tβ"  # no special token is read out of a text
    assert corpus.tokenizer().decode(corpus.tokenizer().encode(text)) == text
    assert corpus.tokenizer().end_of_document not in corpus.tokenizer().encode(text)
    # Its file names it for other corpora.
    named = build_tokenizer(corpus.path / "tokenizer.json")
    assert named.id == corpus.tokenizer_id


def test_files_order_and_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    documents = texts(300)
    write(tmp_path / "a.jsonl", documents)
    write(tmp_path / "b.jsonl", documents[:100][::-1])
    write(tmp_path / "c.jsonl", documents[100:])
    trained = set()
    for number, names in enumerate([["a"], ["b", "c"]]):
        made = config(
            tmp_path,
            *(tmp_path / f"{name}.jsonl" for name in names),
            tokenizer=bpe(documents=50),
            cache=tmp_path / str(number),
        )
        script = (
            "import sys; from quokka_ray.corpus import prepare; "
            "from quokka_ray.study.config import CorpusConfig; "
            "print(prepare(CorpusConfig.model_validate_json(sys.argv[1])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, made.model_dump_json()],
            env={**os.environ, "RAYON_NUM_THREADS": str(1 + number)},
            capture_output=True,
            text=True,
            check=True,
        )
        trained.add((Path(done.stdout.strip()) / "tokenizer.json").read_bytes())
    assert len(trained) == 1


def test_validation_text_trains_no_tokenizer(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [*texts(100), "zzzzqqqq " * 50])
    held_out = write(tmp_path / "b.jsonl", ["zzzzqqqq " * 50])
    made = config(tmp_path, train, validation_paths=[str(held_out)], tokenizer=bpe())
    corpus = TokenCorpus.open(prepare(made))
    assert len(corpus.tokenizer().encode("zzzzqqqq")) == 8


def test_a_sample_is_bounded_and_drawn_by_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", texts(300))
    by_size = {
        limit: prepare(config(tmp_path, path, tokenizer=bpe(characters=limit)))
        for limit in (1, 20_000, 10_000_000)
    }
    vocabularies = [TokenCorpus.open(path).bytes_per_token for path in by_size.values()]
    assert vocabularies[0] < vocabularies[1] <= vocabularies[2] * 1.02


def test_nothing_can_be_trained_on_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="cannot be trained on stdin"):
        prepare(config(tmp_path, Path("-"), tokenizer=bpe()))
