"""What is given and what is to be written: a prompt with holes, and the plan of filling them.

A canvas is written whole where it fits the model's sequence length. A longer one is written in
blocks from left to right; for each the model sees a window of its sequence length, the one with
the most text that stands already.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quokka_ray.corpus.tokenizers import Tokenizer
from quokka_ray.errors import ConfigurationError


@dataclass(frozen=True)
class Canvas:
    """A text with holes.

    Attributes:
        tokens: int64 [T], the given tokens; 0 in holes.
        holes: bool [T], true where a token is to be written.
    """

    tokens: NDArray[np.int64]
    holes: NDArray[np.bool_]

    @property
    def given(self) -> int:
        """Number of given tokens."""
        return int((~self.holes).sum())

    @property
    def continues(self) -> bool:
        """Whether all that is given stands before the one hole."""
        return bool(self.holes[self.given :].all())


@dataclass(frozen=True)
class Block:
    """Holes that are filled together.

    Attributes:
        first: Position of its first hole.
        end: One past its last hole.
        steps: Denoising steps spent on it.
    """

    first: int
    end: int
    steps: int


def canvas_of(prompt: str, tokens: int, tokenizer: Tokenizer, *, hole: str = "{}") -> Canvas:
    """Return the canvas of a prompt.

    Args:
        prompt: Text with hole marks, among which `tokens` are shared evenly, the first holes
            taking what is left over. Without a mark the hole follows the text.
        tokens: How many tokens to write in all.
        tokenizer: Encodes each given piece by itself.
        hole: The mark.

    Raises:
        ConfigurationError: `tokens` is fewer than the holes, or the tokenizer cannot express the
            prompt.
    """
    if not hole:
        raise ConfigurationError("the hole mark is empty; give one such as {}")
    pieces = prompt.split(hole)
    if len(pieces) == 1:
        pieces.append("")
    count = len(pieces) - 1
    if tokens < count:
        raise ConfigurationError(
            f"{tokens} tokens cannot fill {count} holes; ask for {count} or more"
        )
    lengths = split_evenly(tokens, count)
    encoded = [np.asarray(_encode(piece, tokenizer), dtype=np.int64) for piece in pieces]
    parts, holes = [encoded[0]], [np.zeros(len(encoded[0]), dtype=bool)]
    for length, piece in zip(lengths, encoded[1:], strict=True):
        parts += [np.zeros(length, dtype=np.int64), piece]
        holes += [np.ones(length, dtype=bool), np.zeros(len(piece), dtype=bool)]
    return Canvas(np.concatenate(parts), np.concatenate(holes))


def _encode(text: str, tokenizer: Tokenizer) -> Sequence[int]:
    try:
        ids = tokenizer.encode(text)
    except UnicodeEncodeError:
        raise ConfigurationError(
            "the prompt is not valid UTF-8 text; check the terminal's encoding"
        ) from None
    lost = sorted(_letters(text) - _letters(tokenizer.decode(ids)))
    if lost:
        raise ConfigurationError(
            f"the tokenizer {tokenizer.id} cannot express {' '.join(map(repr, lost))} of the "
            "prompt; leave them out"
        )
    return [int(one) for one in ids]


def _letters(text: str) -> set[str]:
    """Return a text's characters as far as every tokenizer keeps them: no case, no accents."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", text.casefold())
    return {one for one in plain if not one.isspace() and not unicodedata.combining(one)}


def split_evenly(total: int, parts: int) -> list[int]:
    """Return `parts` numbers that add up to `total`, the first ones larger by one (LLaDA)."""
    base, more = divmod(total, parts)
    return [base + (i < more) for i in range(parts)]


def plan_blocks(canvas: Canvas, *, width: int, steps: int) -> list[Block]:
    """Cut a canvas's holes into blocks of at most `width` positions, left to right.

    Each block gets one step and a share of the others in proportion to its holes; with equal
    blocks that is an even split.

    Raises:
        ConfigurationError: There are more blocks than steps.
    """
    where = np.flatnonzero(canvas.holes)
    bounds: list[tuple[int, int]] = []
    while len(where):
        inside = int(np.searchsorted(where, where[0] + width))
        bounds.append((int(where[0]), int(where[inside - 1]) + 1))
        where = where[inside:]
    if steps < len(bounds):
        raise ConfigurationError(
            f"{steps} steps are too few for {len(bounds)} blocks of {width} tokens; "
            "ask for more steps or wider blocks"
        )
    sizes = np.array([canvas.holes[first:end].sum() for first, end in bounds])
    shares = _shares(steps - len(bounds), sizes)
    return [Block(first, end, 1 + more) for (first, end), more in zip(bounds, shares, strict=True)]


def _shares(total: int, sizes: NDArray[np.int64]) -> list[int]:
    """Split `total` in proportion to `sizes`; the largest remainders, first ones first."""
    exact = total * sizes / sizes.sum()
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: total - int(shares.sum())]] += 1
    return [int(share) for share in shares]


def best_window(known: NDArray[np.bool_], block: Block, seq_len: int) -> tuple[int, int]:
    """Return the window (first, end) of at most `seq_len` positions to fill a block from.

    Of the windows that hold the block, the one with the most known tokens; of equals, the one
    with the block nearest to its middle.

    Args:
        known: bool [T], which tokens stand already.
        block: What is to be filled; not wider than `seq_len`.
        seq_len: What the model reads at once.
    """
    size = len(known)
    if size <= seq_len:
        return 0, size
    counted = np.concatenate(([0], known.cumsum()))
    firsts = np.arange(max(0, block.end - seq_len), min(block.first, size - seq_len) + 1)
    seen = counted[firsts + seq_len] - counted[firsts]
    off_middle = np.abs(2 * firsts + seq_len - block.first - block.end)
    first = int(firsts[np.lexsort((off_middle, -seen))[0]])
    return first, first + seq_len
