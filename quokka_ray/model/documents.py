"""Documents packed into one window: attention and convolution that stay within them.

Where documents end is read from the input itself, and no mask tensor [T, T] is made. A token that
ends a document belongs to it, and the next position begins another; in a causal model, which
reads it to guess what comes next, it opens the next document. An end that noise hides is not
seen, and a noise token that reads as an end is one: the model is told nothing that its input does
not say, and its likelihood is still that of the whole text.

Rotary positions run on through the window. Scores depend on the distance of two positions alone,
so starting anew in each document would change nothing.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

_NARROWEST_HEAD = 16
"""Width of a head from which FlexAttention's kernels for GPUs serve."""


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    """Return FlexAttention compiled: without, it would hold all scores at once."""
    return torch.compile(flex_attention)


class Documents:
    """Where the documents of one batch lie.

    Attributes:
        ids: int64 [B, T], the number of ends before each position: equal within a document.

    Args:
        tokens: The model's input, int64 [B, T], on any device.
        end: The token that ends a document.
        causal: Positions attend to earlier ones only.
    """

    def __init__(self, tokens: Tensor, end: int, causal: bool = False) -> None:
        ends = tokens == end
        self.ids = ends.cumsum(1) if causal else ends.cumsum(1) - ends.long()
        self.causal = causal
        self._spans: list[tuple[int, int, int]] | None = None
        self._block_mask: BlockMask | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
    ) -> Tensor:
        """Return attention within documents, [B, H, T, head_dim] from three of that shape.

        On a GPU FlexAttention skips blocks without a pair of one document; elsewhere, and for
        heads narrower than its kernels take, documents are attended to one after another.
        """
        if query.device.type == "cuda" and query.shape[-1] >= _NARROWEST_HEAD:
            return self.attend_in_blocks(query, key, value, scale)
        return self.attend_in_turn(query, key, value, scale)

    def attend_in_turn(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
    ) -> Tensor:
        """Attend document by document. Waits for the device, to know their lengths."""
        parts = [
            functional.scaled_dot_product_attention(
                query[row : row + 1, :, first:last],
                key[row : row + 1, :, first:last],
                value[row : row + 1, :, first:last],
                is_causal=self.causal,
                scale=scale,
            )
            for row, first, last in self.spans
        ]
        batch, heads, seq_len, head_dim = query.shape
        flat = torch.cat([part.squeeze(0) for part in parts], dim=1)
        return flat.view(heads, batch, seq_len, head_dim).transpose(0, 1)

    def attend_in_blocks(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None
    ) -> Tensor:
        """Attend through FlexAttention, one block mask for all layers of a forward pass."""
        compiled = query.device.type == "cuda"
        if self._block_mask is None:
            ids, causal = self.ids, self.causal

            def same_document(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
                same = ids[b, q] == ids[b, k]
                return same & (q >= k) if causal else same

            batch, seq_len = ids.shape
            self._block_mask = create_block_mask(
                same_document, batch, None, seq_len, seq_len, ids.device, _compile=compiled
            )
        attend: Any = _compiled() if compiled else flex_attention
        # Autocast, which makes the three of one type for other attention, does not know this one.
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed: Tensor = attend(query, key, value, block_mask=self._block_mask, scale=scale)
        return mixed

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Row, first position and end of each document, in order."""
        if self._spans is None:
            self._spans = []
            for row, ids in enumerate(self.ids.cpu()):
                lengths = ids.unique_consecutive(return_counts=True)[1].tolist()
                first = 0
                for length in lengths:
                    self._spans.append((row, first, first + length))
                    first += length
        return self._spans

    def convolve(self, x: Tensor, filters: Tensor, before: int) -> Tensor:
        """Convolve x [B, T, d] with filters [d, width], taps of other documents left out.

        Tap j reads the position j - before steps on.
        """
        seq_len, width = x.shape[1], filters.shape[1]
        out = x * filters[:, before]
        for tap in range(width):
            step = tap - before
            if step == 0 or abs(step) >= seq_len:
                continue
            here = slice(max(0, -step), seq_len - max(0, step))
            there = slice(max(0, step), seq_len - max(0, -step))
            same = (self.ids[:, here] == self.ids[:, there])[..., None].to(x.dtype)
            seen = x[:, there] * same * filters[:, tap]
            out = out + functional.pad(seen, (0, 0, max(0, -step), max(0, step)))
        return out
