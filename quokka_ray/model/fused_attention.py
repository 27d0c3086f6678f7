"""Attention of many narrow heads with its backward pass written out (see `fused_layers.py`).

A head of 8 features makes products of 64 x 8 by 8 x 64 matrices, hardly more work than reading
the scores that come out. So the scores S[j, i] of key j and query i are passed over as seldom as
possible: once by exp going forward and once by a product coming back.

Forward, with E = exp(S): the values get a row of ones, and one product [V; 1] E gives both the
mixture's numerator and its denominator l_i; then O = (V E) / l.

Backward, with delta_i = sum over features of dO * O: dS = E * (V^T dO - delta) / l, so with
dO' = dO / l and the row -delta / l under it, the bracket is one product [V; 1]^T [dO'; -delta/l].
dV = dO' E^T, dQ = K dS, dK = Q dS^T.

Normalised queries and keys have a length of at most sqrt(head_dim) times the largest gain, which
bounds S: while the bound is small enough for exp, no maximum has to be subtracted. Otherwise each
query's largest score is, which changes neither O nor a gradient.
"""

import torch
from torch import Tensor

from quokka_ray.model.fused_layers import Pool

_SAFE_SCORE = 40.0
"""Up to here exp and its inverse are float32 numbers with room for sums and products."""


class Rotation:
    """Normalised, gained and rotated queries and keys, and their way back.

    x = z * r for each head and position, with r = (mean z^2 + eps)^-1/2, y = g * x, then the
    pair (y_even, y_odd) turned by its position's angle. Turning a gradient back gives u; then
    dg = sum of u * x, and dz = r * (g u - x * mean(g u * x)).

    Args:
        gain: [2, 1, head_dim], of queries and of keys; None: neither norm nor gain.
        d_gain: Where its gradient goes.
        table: Complex [T, head_dim / 2], as `rotary_table` makes it.
        scale: Of the scores; it goes to the queries.
        projected: z, [2, H, head_dim, B, T], read going forward.
        eps: The norm's.
        pool: Shared memory.

    Attributes:
        turned: [2, H, B, head_dim, T].
        d_turned: Its gradient, to be written before `backward`.
    """

    def __init__(
        self,
        gain: Tensor | None,
        d_gain: Tensor | None,
        table: Tensor,
        scale: float,
        projected: Tensor,
        eps: float,
        pool: Pool,
    ) -> None:
        _, heads, head_dim, rows, seq_len = projected.shape
        self._gain = gain
        self._least, self._width, self._scale = projected.new_tensor(eps), head_dim, scale
        self._projected = projected
        scales = projected.new_tensor([scale, 1.0])[:, None, None, None]
        # [2, head_dim / 2, 1, T], to be spread over even and odd features.
        cos, sin = (
            (part.t()[None, :, None].to(projected.dtype) * scales).contiguous()
            for part in (table.real, table.imag)
        )
        self._plain = (cos, sin)
        self._back_tables = tuple(part[:, None] for part in (cos, sin))
        self.turned = projected.new_empty(2, heads, rows, head_dim, seq_len)
        self.d_turned = pool.take("d_turned", *self.turned.shape)
        self._turned = _pairs(self.turned.transpose(2, 3))
        self._d_turned = _pairs(self.d_turned.transpose(2, 3))
        self._product = pool.take("turning", *projected.shape)
        if gain is None:
            self._normed = projected
            self._tables = (*self._back_tables, *self._back_tables)
            self._back = projected
        else:
            assert d_gain is not None
            self._normed = torch.empty_like(projected)
            self._gained = tuple(
                projected.new_empty(2, head_dim // 2, 2, seq_len) for _ in range(2)
            )
            (cos_even, cos_odd), (sin_even, sin_odd) = (
                table[:, None, :, :, None].unbind(3) for table in self._gained
            )
            self._tables = (cos_even, sin_even, cos_odd, sin_odd)
            self._back = pool.take("turned_back", *projected.shape)
            self._d_gain_flat = d_gain.view(2, -1)
            self._gain_of_pairs = gain.view(2, -1, 2, 1)
            self._gain_of_features = gain.view(2, 1, -1, 1, 1)
        self._pairs, self._d_pairs = _pairs(self._normed), _pairs(self._back)
        self._rate = projected.new_empty(2, heads, 1, rows, seq_len)
        self._mean = pool.take("mean_of_heads", *self._rate.shape)

    def bound(self) -> float:
        """Return what no score exceeds; infinite without a norm."""
        if self._gain is None:
            return float("inf")
        query, key = (max(map(abs, gains)) for gains in self._gain.flatten(1).tolist())
        return self._width * abs(self._scale) * query * key

    def forward(self) -> None:
        """Write `turned` of what `projected` holds."""
        if self._gain is not None:
            torch.mul(self._projected, self._projected, out=self._product)
            torch.sum(self._product, 2, keepdim=True, out=self._rate)
            torch.add(self._least, self._rate, alpha=1 / self._width, out=self._rate).rsqrt_()
            torch.mul(self._projected, self._rate, out=self._normed)
            for table, gained in zip(self._plain, self._gained, strict=True):
                torch.mul(table, self._gain_of_pairs, out=gained)
        even, odd = self._pairs
        cos_even, sin_even, cos_odd, sin_odd = self._tables
        to_even, to_odd = self._turned
        torch.mul(even, cos_even, out=to_even)
        to_even.addcmul_(odd, sin_odd, value=-1)
        torch.mul(even, sin_even, out=to_odd)
        to_odd.addcmul_(odd, cos_odd)

    def backward(self) -> None:
        """Write the gradient of `projected` in its place, and the gain's, of `d_turned`."""
        cos, sin = self._back_tables
        even, odd = self._d_turned
        to_even, to_odd = self._d_pairs
        torch.mul(even, cos, out=to_even)
        to_even.addcmul_(odd, sin)
        torch.mul(odd, cos, out=to_odd)
        to_odd.addcmul_(even, sin, value=-1)
        if self._gain is None:
            return
        torch.mul(self._back, self._normed, out=self._product)
        torch.sum(self._product, (1, 3, 4), out=self._d_gain_flat)
        self._product.mul_(self._gain_of_features)
        torch.sum(self._product, 2, keepdim=True, out=self._mean)
        self._mean.mul_(-1 / self._width)
        self._back.mul_(self._gain_of_features).addcmul_(self._normed, self._mean)
        torch.mul(self._back, self._rate, out=self._projected)


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return even and odd features of x [2, H, head_dim, B, T], each [2, H, pairs, B, T]."""
    even, odd = x.unflatten(2, (-1, 2)).unbind(3)
    return even, odd


class SelfAttention:
    """Bidirectional attention over fused projections.

    Args:
        gain: Of queries and keys, [2, 1, head_dim], or None.
        d_gain: Where its gradient goes.
        table: Of the rotation, complex [T, head_dim / 2].
        scale: Of the scores.
        eps: Of the norm of queries and keys.
        shape: (H, head_dim, B, T).
        pool: Shared memory; its type is the layer's.

    Attributes:
        qkv: [3 * H * head_dim, N], to be written before `forward`; it does not outlive the call.
        out: What the heads mixed, [H * head_dim, N].
        d_out: Its gradient, to be written before `backward`.
    """

    def __init__(
        self,
        gain: Tensor | None,
        d_gain: Tensor | None,
        table: Tensor,
        scale: float,
        eps: float,
        shape: tuple[int, int, int, int],
        pool: Pool,
    ) -> None:
        heads, head_dim, rows, seq_len = shape
        stacks, positions, inner = heads * rows, rows * seq_len, heads * head_dim
        self.qkv = pool.take("projected", 3 * inner, positions)
        qk, value = self.qkv.view(3, *shape).split((2, 1))
        self._value = value[0]
        self._rotation = Rotation(gain, d_gain, table, scale, qk, eps, pool)
        self._query, self._key = self._rotation.turned.flatten(1, 2).unbind(0)
        self._d_query, self._d_key = self._rotation.d_turned.flatten(1, 2).unbind(0)
        by_head = (heads, rows, head_dim + 1, seq_len)
        # A row of ones under the values, and under the mixture's gradient one for -delta / l.
        self._values = self.qkv.new_ones(stacks, head_dim + 1, seq_len)
        self._values_top = self._values.view(by_head)[:, :, :-1].transpose(1, 2)
        self._mixed = pool.take("mixed", stacks, head_dim + 1, seq_len)
        self._mixed_top = self._mixed.view(by_head)[:, :, :-1].transpose(1, 2)
        self._mixed_last = self._mixed.view(by_head)[:, :, -1]
        self._d_values = pool.take("d_values", stacks, head_dim, seq_len)
        self._d_values_by_feature = self._d_values.view(heads, rows, head_dim, seq_len).transpose(
            1, 2
        )
        self._scores = self.qkv.new_empty(stacks, seq_len, seq_len)
        self._d_scores = pool.take("d_scores", stacks, seq_len, seq_len)
        self._share = self.qkv.new_empty(heads, rows, seq_len)
        self._shares = self._share[:, None]
        self._key_across, self._values_across = self._key.mT, self._values.mT
        self._scores_across, self._d_scores_across = self._scores.mT, self._d_scores.mT
        self._d_mixed = self._mixed[:, :-1]
        self.out = self.qkv.new_empty(inner, positions)
        self._out = self.out.view(shape)
        self.d_out = pool.take("d_heads", inner, positions)
        self._d_out = self.d_out.view(shape)
        self._product = pool.take("product", *shape)
        self._delta = pool.take("delta", heads, rows, seq_len)

    def forward(self) -> Tensor:
        """Return `out`."""
        self._rotation.forward()
        self._values_top.copy_(self._value)
        torch.bmm(self._key_across, self._query, out=self._scores)
        if self._rotation.bound() > _SAFE_SCORE:
            self._scores.sub_(self._scores.amax(1, keepdim=True))
        self._scores.exp_()
        torch.bmm(self._values, self._scores, out=self._mixed)
        torch.reciprocal(self._mixed_last, out=self._share)
        torch.mul(self._mixed_top, self._shares, out=self._out)
        return self.out

    def backward(self) -> Tensor:
        """Return the gradient of `qkv`, in its place."""
        torch.mul(self._d_out, self._out, out=self._product)
        torch.sum(self._product, 1, out=self._delta)
        torch.mul(self._d_out, self._shares, out=self._mixed_top)
        torch.mul(self._delta.neg_(), self._share, out=self._mixed_last)
        torch.bmm(self._d_mixed, self._scores_across, out=self._d_values)
        torch.bmm(self._values_across, self._mixed, out=self._d_scores)
        self._d_scores.mul_(self._scores)
        torch.bmm(self._key, self._d_scores, out=self._d_query)
        torch.bmm(self._query, self._d_scores_across, out=self._d_key)
        self._rotation.backward()
        self._value.copy_(self._d_values_by_feature)
        return self.qkv
