"""Sub-layers of the denoiser with their backward passes written out, for models of tiny width.

A step of a model with a hundred thousand parameters does some hundred small operations; under
autograd most of its time goes to bookkeeping, to views, and to fresh memory. Here each sub-layer
is a pair `forward`, `backward` of plain operations into tensors that were allocated once. They
are the mathematics of `model/transformer.py`, which stays the reference, in another layout:
features come first. An activation is [d, N], a channel a row and the batch's N = B * T positions
side by side, so that a norm's sum over channels is a sum of rows, a rotation or a convolution
works on whole rows, and a linear layer is W @ x. Nothing here is differentiable by autograd:
callers hold `torch.no_grad`.

Gains of norms are folded into the weights that read them: W (g * n) = (W diag g) n, which has
fewer elements than the activations. With W' = W diag g:

    dW = dW' diag g,    dg = column sums of dW' * W.

Each layer writes its parameters' gradients, not adds to them, to the tensors that it was given.

A tiny model's activations of one batch are several times a core's second-level cache, and once
that overflows everything is slow, the interpreter too. So layers keep as little as they can, work
in place, and take what they need for the length of a call from one `Pool`.
"""

import math

import torch
from torch import Tensor


class Pool:
    """Memory that layers share for as long as a call takes, by the name of its use.

    Args:
        like: A tensor of the type and device that is wanted.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, use: str, *shape: int) -> Tensor:
        """Return memory of `shape`, the same for every caller with the same use."""
        size = math.prod(shape)
        if use not in self._buffers or self._buffers[use].numel() < size:
            self._buffers[use] = self._like.new_empty(size)
        return self._buffers[use][:size].view(shape)


class RmsNorm:
    """n = x * r with r = (mean over channels of x^2 + eps)^-1/2; the gain is its reader's.

    Backward: dx = r * (dn - n * mean(dn * n)).

    Args:
        like: A tensor [d, N] of the activations' shape and type.
        eps: Added to the mean square.
        pool: Shared memory.
    """

    def __init__(self, like: Tensor, eps: float, pool: Pool) -> None:
        width, positions = like.shape
        self.normed = torch.empty_like(like)
        self._product = pool.take("product", width, positions)
        self._rate = like.new_empty(1, positions)
        self._mean = pool.take("mean", 1, positions)
        self._average = like.new_full((1, width), 1 / width)
        self._eps = like.new_full((1, positions), eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return n [d, N]; x is not kept."""
        torch.mul(x, x, out=self._product)
        torch.addmm(self._eps, self._average, self._product, out=self._rate)
        self._rate.rsqrt_()
        return torch.mul(x, self._rate, out=self.normed)

    def backward(self, d_normed: Tensor, d_x: Tensor) -> None:
        """Add dx to `d_x`; `d_normed` is overwritten."""
        d_x.addcmul_(self._across(d_normed), self._rate)

    def gradient(self, d_normed: Tensor) -> Tensor:
        """Return dx, in the place of `d_normed`."""
        return self._across(d_normed).mul_(self._rate)

    def _across(self, d_normed: Tensor) -> Tensor:
        """Take from `d_normed` its part along n: what remains is dx / r."""
        torch.mul(d_normed, self.normed, out=self._product)
        torch.mm(self._average, self._product, out=self._mean)
        return d_normed.addcmul_(self.normed, self._mean, value=-1)


class GainedLinear:
    """y = W diag(g) n, or W n without a gain.

    Args:
        weight: [out, d].
        d_weight: Where its gradient goes.
        gain: [d], or None.
        d_gain: Where its gradient goes.
        n: [d, N], read by both passes.
        y: [out, N], written going forward.
        d_y: [out, N], read coming back.
        d_n: [d, N], written coming back.
    """

    def __init__(
        self,
        weight: Tensor,
        d_weight: Tensor,
        gain: Tensor | None,
        d_gain: Tensor | None,
        *,
        n: Tensor,
        y: Tensor,
        d_y: Tensor,
        d_n: Tensor,
    ) -> None:
        self._weight, self._d_weight = weight, d_weight
        self._gain, self._d_gain = gain, d_gain
        self._n, self._n_across, self._y = n, n.t(), y
        self._d_y, self._d_n = d_y, d_n
        self._folded = weight if gain is None else torch.empty_like(weight)
        self._folded_across = self._folded.t()
        self._d_folded = d_weight if gain is None else torch.empty_like(weight)

    def forward(self) -> None:
        """Write y."""
        if self._gain is not None:
            torch.mul(self._weight, self._gain, out=self._folded)
        torch.mm(self._folded, self._n, out=self._y)

    def backward(self) -> None:
        """Write dn and the parameters' gradients."""
        torch.mm(self._d_y, self._n_across, out=self._d_folded)
        torch.mm(self._folded_across, self._d_y, out=self._d_n)
        if self._gain is not None:
            assert self._d_gain is not None
            torch.mul(self._d_folded, self._gain, out=self._d_weight)
            self._d_folded.mul_(self._weight)
            torch.sum(self._d_folded, 0, out=self._d_gain)


class Branch:
    """x + branch * W inside, added to the stream x in place.

    Args:
        weight: [d, inner].
        d_weight: Where its gradient goes.
        inside: [inner, N].
        d_inside: Where its gradient goes.
        scale: `branch`.
    """

    def __init__(
        self, weight: Tensor, d_weight: Tensor, inside: Tensor, d_inside: Tensor, scale: float
    ) -> None:
        self._weight, self._weight_across, self._d_weight = weight, weight.t(), d_weight
        self._inside, self._inside_across, self._d_inside = inside, inside.t(), d_inside
        self._scale = scale

    def forward(self, x: Tensor) -> None:
        """Add to x [d, N]."""
        x.addmm_(self._weight, self._inside, alpha=self._scale)

    def backward(self, d_x: Tensor) -> None:
        """Write the gradients of weight and inside; that of x is `d_x` itself."""
        for out, left, right in (
            (self._d_weight, d_x, self._inside_across),
            (self._d_inside, self._weight_across, d_x),
        ):
            torch.addmm(out, left, right, beta=0, alpha=self._scale, out=out)


class GainedConv:
    """The depthwise convolution of width w centred on its position, its filters times the gain.

    c[t] = sum over taps j of f[j] n[t + j - w // 2] within each sequence, f = filters * gain.

    Args:
        weight: [d, w].
        d_weight: Where its gradient goes.
        gain: [d], of the norm before.
        d_gain: Where its gradient goes.
        normed: What the norm writes, [d, B, T].
        pool: Shared memory.
    """

    def __init__(
        self,
        weight: Tensor,
        d_weight: Tensor,
        gain: Tensor,
        d_gain: Tensor,
        normed: Tensor,
        pool: Pool,
    ) -> None:
        self._weight, self._d_weight = weight, d_weight
        self._gain, self._d_gain = gain[:, None], d_gain
        self._normed = normed
        self._out = torch.empty_like(normed)
        self.out = self._out.flatten(1)
        self._product = pool.take("product", *normed.shape)
        self._d_normed = pool.take("d_normed", *normed.shape)
        self._d_out = pool.take("d_convolved", *normed.shape)
        self.d_out = self._d_out.flatten(1)
        self._folded, self._d_folded = torch.empty_like(weight), torch.zeros_like(weight)
        filters = self._folded[:, :, None, None].unbind(1)
        width, seq_len = weight.shape[1], normed.shape[-1]
        middle = width // 2
        self._filter, self._d_filter = filters[middle], self._d_folded[:, middle]
        # Views of what a tap reads and writes. Taps that lie farther from their position than a
        # sequence is long read nothing but zeros.
        self._taps = []
        for j in range(width):
            offset = j - middle
            if offset == 0 or abs(offset) >= seq_len:
                continue
            writes = slice(max(0, -offset), seq_len - max(0, offset))
            reads = slice(max(0, offset), seq_len - max(0, -offset))
            self._taps.append(
                (
                    filters[j],
                    self._d_folded[:, j],
                    self._out[..., writes],
                    normed[..., reads],
                    self._d_out[..., writes],
                    self._d_normed[..., reads],
                    self._product[..., reads],
                )
            )

    def forward(self) -> Tensor:
        """Return c [d, N] of what the norm has written."""
        torch.mul(self._weight, self._gain, out=self._folded)
        torch.mul(self._normed, self._filter, out=self._out)
        for taps, _, out, normed, _, _, _ in self._taps:
            out.addcmul_(normed, taps)
        return self.out

    def backward(self) -> None:
        """Turn `d_out` into the pool's `d_normed`, and write the parameters' gradients."""
        torch.mul(self._d_out, self._normed, out=self._product)
        torch.sum(self._product, (1, 2), out=self._d_filter)
        torch.mul(self._d_out, self._filter, out=self._d_normed)
        for taps, d_taps, _, normed, d_out, d_normed, product in self._taps:
            d_normed.addcmul_(d_out, taps)
            torch.sum(torch.mul(d_out, normed, out=product), (1, 2), out=d_taps)
        torch.mul(self._d_folded, self._gain, out=self._d_weight)
        self._d_folded.mul_(self._weight)
        torch.sum(self._d_folded, 1, out=self._d_gain)


class SwiGlu:
    """a = silu(gate) * up, in place.

    With s the gate's sigmoid, silu' = s + silu (1 - s), so that up * silu' = a + s (up - a): the
    backward pass is one linear interpolation and no exponential,

        dgate = da * lerp(a, up, s),    dup = da * silu.

    Args:
        like: A tensor [2 * ffn, N]: gate and up, one under the other.
        pool: Shared memory.
    """

    def __init__(self, like: Tensor, pool: Pool) -> None:
        self.gate_up = torch.empty_like(like)
        self._gate, self._up = self.gate_up.chunk(2)
        self._sigmoid, self.out = (torch.empty_like(self._gate) for _ in range(2))
        self.d_out = pool.take("d_gated", *self._gate.shape)

    def forward(self) -> Tensor:
        """Return a [ffn, N] of what `gate_up` holds; silu takes the gate's place."""
        torch.sigmoid(self._gate, out=self._sigmoid)
        self._gate.mul_(self._sigmoid)
        return torch.mul(self._gate, self._up, out=self.out)

    def backward(self) -> Tensor:
        """Return the gradient of gate and up of what `d_out` holds, in their place."""
        slope = torch.lerp(self.out, self._up, self._sigmoid, out=self._sigmoid)
        torch.mul(self.d_out, self._gate, out=self._up)
        torch.mul(self.d_out, slope, out=self._gate)
        return self.gate_up
