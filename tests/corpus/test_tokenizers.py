"""Tokens of text, and the way back."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from quokka_ray.corpus.tokenizers import (
    build_tokenizer,
    load_saved,
    text_bytes,
    token_dtype,
)
from quokka_ray.errors import ConfigurationError

BOOKS50 = Path(__file__).parents[2] / "benchmarks" / "books50_tokenizer.json"


def test_bytes_go_there_and_back() -> None:
    tokenizer = build_tokenizer("bytes")
    text = "naïve — 日本\n\0"
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode([*ids, tokenizer.end_of_document]) == text
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (257, 256)
    assert "�" in tokenizer.decode(ids[3:4])


def test_fifty_characters_are_one_token_each() -> None:
    tokenizer = build_tokenizer(BOOKS50)
    text = 'Naïve “Café” — <|endoftext|>\n\nI\'d, "X"; 日!'
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == 'naive "cafe" -   endoftext  \n\ni\'d, "x";  !'
    assert len(ids) == len(text)
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (51, 50)
    assert tokenizer.end_of_document not in ids


def test_a_tokenizer_without_an_end_gets_one(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[CLS]": 2}, unk_token="b"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $0", None, [("[CLS]", 2)])
    backend.enable_truncation(1)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "t.json"))
    tokenizer = build_tokenizer(tmp_path / "t.json")
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (4, 3)
    # Neither cut, nor padded, nor begun with a special token.
    assert tokenizer.encode("a b a").tolist() == [0, 1, 0]


def test_a_tokenizer_is_the_same_wherever_its_file_lies(tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(BOOKS50.read_bytes())
    assert build_tokenizer(copy).id == build_tokenizer(BOOKS50).id
    (tmp_path / "corpus").mkdir()
    build_tokenizer(copy).save(tmp_path / "corpus")
    assert (
        load_saved(tmp_path / "corpus", build_tokenizer(BOOKS50).id).id
        == build_tokenizer(BOOKS50).id
    )


def test_tokens_are_stored_in_as_few_bytes_as_hold_them() -> None:
    assert token_dtype(65_535) == np.uint16
    assert token_dtype(65_536) == np.uint32


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"corpus\.tokenizer: .*t\.json"):
        build_tokenizer(path)


def test_bytes_of_windows_are_those_of_their_text() -> None:
    tokenizer = build_tokenizer("bytes")
    ids = [*tokenizer.encode("naïve"), tokenizer.end_of_document, *tokenizer.encode("日本")]
    # The second window begins within a character.
    windows = np.array([*ids, 0]).reshape(2, 7)
    assert text_bytes(tokenizer, windows) == 13
    fifty = build_tokenizer(BOOKS50)
    windows = np.array([[*fifty.encode("naive cafe"), fifty.end_of_document]])
    assert text_bytes(fifty, windows) == 10
