"""Dropout that is a function of its place: row's key, layer, position, channel.

A generator's numbers depend on how many were drawn before, and so on how a batch is cut into
micro-batches and ranks. Here each row of a step has a key (`training/dropout.py`), and an integer
hash of key and place decides whether an element is kept. So ranks, micro-batches, resumed runs and
a block's second pass under activation checkpointing agree on every element, on any device; a
compiler fuses the hash with what it is applied to, and a CUDA graph reads the keys from a buffer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_BITS = (1 << 32) - 1
_APART = 0x9E3779B9
"""Between the keys of a row's sites: 2^32 over the golden ratio, odd, so that none are alike."""


class Sites(NamedTuple):
    """What decides the elements that one block drops: tensors, so that all blocks are one code.

    Attributes:
        keys: int64 [2, B], of each row for what attention and feed-forward write.
        places: int64 [T, d], the hash of each place in a row.
    """

    keys: Tensor
    places: Tensor


def sites(keys: Tensor, seq_len: int, width: int, count: int) -> Sites:
    """Return keys [count, B] and places [T, d] of a model's sites, in the order of the layers.

    Args:
        keys: int64 [B], each below 2^32.
        seq_len: Positions T.
        width: Channels d.
        count: Sites.
    """
    number = torch.arange(count, device=keys.device)[:, None]
    places = torch.arange(seq_len * width, device=keys.device).view(seq_len, width)
    return Sites(_hash((keys + number * _APART) & _BITS), _hash(places))


def drop(x: Tensor, keys: Tensor, places: Tensor, rate: float) -> Tensor:
    """Return x [B, T, d] with a share `rate` of its elements at 0 and the others scaled up.

    The mean over keys is x itself.

    Args:
        x: What a layer writes.
        keys: int64 [B], those of the site.
        places: int64 [T, d].
        rate: In (0, 1), to 32 bits.
    """
    kept = _hash(keys[:, None, None] ^ places) >= round(rate * (1 << 32))
    return torch.where(kept, x * (1 / (1 - rate)), 0.0)


def _hash(x: Tensor) -> Tensor:
    """Return a permutation of the numbers below 2^32 that looks random, its high bits above all.

    Two rounds of multiplying and folding (the constants of Ettinger's 32-bit mixer in C.
    Wellons's hash-prospector) without the last fold, which changes the lowest 17 bits alone.
    Both factors are below 2^31, so no product leaves int64.
    """
    x = (x ^ (x >> 16)).mul_(0x21F0AAAD).bitwise_and_(_BITS)
    return x.bitwise_xor_(x >> 15).mul_(0x735A2D97).bitwise_and_(_BITS)
