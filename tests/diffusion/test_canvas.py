"""Prompts with holes, and how a canvas is cut into blocks and windows."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quokka_ray.corpus.tokenizers import ByteTokenizer, JsonTokenizer
from quokka_ray.diffusion.canvas import (
    Block,
    Canvas,
    best_window,
    canvas_of,
    plan_blocks,
    split_evenly,
)
from quokka_ray.errors import ConfigurationError

ORACLE = json.loads((Path(__file__).parent / "data" / "sampling.json").read_text())
BYTES = ByteTokenizer()


def shown(canvas):
    return "".join(
        "_" if hole else chr(token)
        for token, hole in zip(canvas.tokens, canvas.holes, strict=True)
    )


def test_a_prompt_says_where_its_holes_are():
    assert shown(canvas_of("", 3, BYTES)) == "___"
    assert shown(canvas_of("def f", 4, BYTES)) == "def f____"
    assert shown(canvas_of("a{}z", 3, BYTES)) == "a___z"
    assert shown(canvas_of("{}b{}c{}", 7, BYTES)) == "___b__c__"
    assert shown(canvas_of("{}@", 2, BYTES, hole="@")) == "{}__"
    assert canvas_of("a{}", 2, BYTES).continues
    assert not canvas_of("a{}z", 2, BYTES).continues


@settings(deadline=None)
@given(pieces=st.lists(st.text().filter(lambda text: "{}" not in text), min_size=2, max_size=5))
def test_given_text_comes_back_byte_for_byte(pieces):
    prompt = "{}".join(pieces)
    if prompt.count("{}") != len(pieces) - 1:
        return
    canvas = canvas_of(prompt, 9, BYTES)
    assert canvas.holes.sum() == 9
    assert BYTES.decode(canvas.tokens[~canvas.holes]) == "".join(pieces)


def test_impossible_prompts_are_refused(tmp_path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    with pytest.raises(ConfigurationError, match="1 tokens cannot fill 2 holes"):
        canvas_of("{}a{}", 1, BYTES)
    with pytest.raises(ConfigurationError, match="not valid UTF-8"):
        canvas_of("a\udcff", 1, BYTES)
    with pytest.raises(ConfigurationError, match="hole mark"):
        canvas_of("a", 1, BYTES, hole="")
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "world": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    backend.save(str(tmp_path / "words.json"))
    words = JsonTokenizer(tmp_path / "words.json")
    assert canvas_of("Hello {} world", 2, words).tokens.tolist() == [1, 0, 0, 2]
    with pytest.raises(ConfigurationError, match="cannot express 'z'"):
        canvas_of("hello z", 2, words)


def test_steps_and_tokens_are_split_as_llada_does():
    case = ORACLE["transfers"]
    for count, transfers in zip(case["mask_count"], case["out"], strict=True):
        assert split_evenly(count, case["steps"]) == transfers


holes = st.lists(st.booleans(), min_size=1, max_size=40).filter(any)


@settings(deadline=None, max_examples=200)
@given(holes=holes, width=st.integers(1, 50), steps=st.integers(40, 90))
def test_blocks_hold_every_hole_once_and_share_all_steps(holes, width, steps):
    canvas = Canvas(np.zeros(len(holes), dtype=np.int64), np.array(holes))
    blocks = plan_blocks(canvas, width=width, steps=steps)
    covered = np.zeros(len(holes), dtype=int)
    for block in blocks:
        assert canvas.holes[block.first]
        assert canvas.holes[block.end - 1]
        assert block.end - block.first <= width
        assert block.steps >= 1
        covered[block.first : block.end] += 1
    assert (covered[canvas.holes] == 1).all()
    assert covered.max() == 1
    assert sum(block.steps for block in blocks) == steps


def test_equal_blocks_take_equal_steps():
    canvas = canvas_of("", 256, BYTES)
    assert [block.steps for block in plan_blocks(canvas, width=32, steps=64)] == [8] * 8


@settings(deadline=None, max_examples=200)
@given(
    known=st.lists(st.booleans(), min_size=1, max_size=40),
    place=st.tuples(st.integers(0, 39), st.integers(1, 6)),
    seq_len=st.integers(6, 45),
)
def test_the_window_holds_the_block_and_the_most_known_tokens(known, place, seq_len):
    known = np.array(known)
    first = min(place[0], len(known) - 1)
    block = Block(first, min(first + place[1], len(known)), 1)
    start, end = best_window(known, block, seq_len)
    assert 0 <= start <= block.first
    assert block.end <= end <= len(known)
    assert end - start == min(seq_len, len(known))
    most = max(
        known[other : other + seq_len].sum()
        for other in range(max(1, len(known) - seq_len + 1))
        if other <= block.first and other + seq_len >= block.end
    )
    assert known[start:end].sum() == most


def test_a_block_amid_known_text_is_seen_from_both_sides():
    assert best_window(np.ones(100, dtype=bool), Block(50, 54, 1), 20) == (42, 62)
