"""One block of the denoiser, forward and backward, of the layers in `fused_layers.py`."""

from torch import Tensor, nn

from quokka_ray.model.fused_attention import SelfAttention
from quokka_ray.model.fused_layers import (
    Branch,
    GainedConv,
    GainedLinear,
    Pool,
    RmsNorm,
    SwiGlu,
)
from quokka_ray.model.transformer import Block


class FusedBlock:
    """Attention and feed-forward, each normalised on its way in and added to the stream.

    Args:
        block: Whose parameters are read.
        prefix: Of their names in `gradients`.
        gradients: Where gradients go, by name.
        rotary: Complex [T, 1, 1, head_dim / 2].
        like: A tensor [d, N] of the stream's shape.
        rows: Sequences B.
        pool: Shared memory.
    """

    def __init__(
        self,
        block: Block,
        prefix: str,
        gradients: dict[str, Tensor],
        rotary: Tensor,
        like: Tensor,
        rows: int,
        pool: Pool,
    ) -> None:
        attention = block.attention
        head_dim, inner = attention.head_dim, attention.out.weight.shape[1]
        width, positions = like.shape
        in_rows = (rows, positions // rows)

        def pair(name: str) -> tuple[Tensor, Tensor]:
            """Return a parameter and where its gradient goes."""
            return block.get_parameter(name).detach(), gradients[prefix + name]

        branch = block.branch
        self._d_normed = d_normed = pool.take("d_normed", width, positions)
        has_gain = attention.qk_gain is not None
        qk_gain, d_qk_gain = pair("attention.qk_gain") if has_gain else (None, None)
        self._attention = SelfAttention(
            qk_gain,
            d_qk_gain,
            rotary[:, 0, 0],
            head_dim**-0.5 if attention.scale is None else attention.scale,
            attention.norm_eps,
            (inner // head_dim, head_dim, *in_rows),
            pool,
        )
        qkv = {"y": self._attention.qkv, "d_y": self._attention.qkv}
        self._attention_norm = _norm(block.attention_norm, like, pool)
        normed = self._attention_norm.normed
        gain = pair("attention_norm.weight")
        weight = pair("attention.qkv.weight")
        self._conv: GainedConv | None = None
        if attention.conv is None:
            self._qkv = GainedLinear(*weight, *gain, n=normed, d_n=d_normed, **qkv)
        else:
            self._conv = conv = GainedConv(
                *pair("attention.conv.weight"), *gain, normed.unflatten(1, in_rows), pool
            )
            self._qkv = GainedLinear(*weight, None, None, n=conv.out, d_n=conv.d_out, **qkv)
        self._mix = Branch(
            *pair("attention.out.weight"), self._attention.out, self._attention.d_out, branch
        )
        self._feed_forward_norm = _norm(block.feed_forward_norm, like, pool)
        gates = block.feed_forward.gate_up.weight.shape[0]
        self._swiglu = SwiGlu(like.new_empty(gates, positions), pool)
        self._gate_up = GainedLinear(
            *pair("feed_forward.gate_up.weight"),
            *pair("feed_forward_norm.weight"),
            n=self._feed_forward_norm.normed,
            y=self._swiglu.gate_up,
            d_y=self._swiglu.gate_up,
            d_n=d_normed,
        )
        self._down = Branch(
            *pair("feed_forward.down.weight"), self._swiglu.out, self._swiglu.d_out, branch
        )

    def forward(self, x: Tensor) -> None:
        """Add both branches to the stream x [d, N]."""
        self._attention_norm.forward(x)
        if self._conv is not None:
            self._conv.forward()
        self._qkv.forward()
        self._attention.forward()
        self._mix.forward(x)
        self._feed_forward_norm.forward(x)
        self._gate_up.forward()
        self._swiglu.forward()
        self._down.forward(x)

    def backward(self, d_x: Tensor) -> None:
        """Turn the gradient of what `forward` left in the stream into that of what it found."""
        self._down.backward(d_x)
        self._swiglu.backward()
        self._gate_up.backward()
        self._feed_forward_norm.backward(self._d_normed, d_x)
        self._mix.backward(d_x)
        self._attention.backward()
        self._qkv.backward()
        if self._conv is not None:
            self._conv.backward()
        self._attention_norm.backward(self._d_normed, d_x)


def _norm(norm: nn.RMSNorm, like: Tensor, pool: Pool) -> RmsNorm:
    assert norm.eps is not None
    return RmsNorm(like, norm.eps, pool)
