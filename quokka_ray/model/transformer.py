"""The denoiser: a bidirectional transformer that sees noisy text and guesses what was there.

After Quokka's appendix A: rotary positions, RMSNorm before each sub-layer, gated feed-forward
(SwiGLU), normalised queries and keys, no biases, tied embeddings. It is not told the noise level
where mask tokens tell it; `time_conditioning` adds the time for other noise. With `causal` the
same module is the autoregressive baseline. The options that make models of a few thousand
parameters train are those of `ModelConfig`: normalised embeddings, a short depthwise convolution
before attention, output projections that start at zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import head_dim_of
from quokka_ray.model.documents import Documents
from quokka_ray.model.dropout import Sites, drop, sites
from quokka_ray.model.time_conditioning import TimeConditioning
from quokka_ray.model.transfer import Transfer, transfer_of
from quokka_ray.study.config import ModelConfig
from quokka_ray.study.trajectory import Shape, TrajectoryConfig


def at_least_float32(x: Tensor) -> Tensor:
    """Return x as float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def rotary_table(seq_len: int, head_dim: int, base: float) -> Tensor:
    """Return unit complex numbers [seq_len, 1, 1, head_dim / 2]: position times frequency."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * base**-exponent
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None, None]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x [B, T, 2, H, head_dim] by their position's angles.

    One complex product is a third of the kernels of the split-and-concatenate form, which is what
    a small model's step consists of. It runs in float32, or in float64 where x is.
    """
    pairs = at_least_float32(x).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # Which generates code for real numbers alone, and fuses the passes that eager mode has.
        (even, odd), (cosine, sine) = pairs.unbind(-1), torch.view_as_real(table).unbind(-1)
        turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1)
        return turned.flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(pairs)
    return torch.view_as_real(pairs * table).flatten(-2).to(x.dtype)


class DepthwiseConv(nn.Module):
    """A convolution along the sequence, one filter per channel, zeros at the ends.

    Centred on its position, or, causal, ending there.
    """

    def __init__(self, channels: int, width: int, causal: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.before = width - 1 if causal else width // 2

    def forward(self, x: Tensor, documents: Documents | None = None) -> Tensor:
        """Map x [B, T, d] to the same shape."""
        if documents is not None:
            return documents.convolve(x, self.weight.to(x.dtype), self.before)
        # As an image of height 1 in channels-last layout the kernel reads x without a transpose:
        # half the time of conv1d on a CPU.
        channels, width = self.weight.shape
        image = x.unsqueeze(1).permute(0, 3, 1, 2)
        filters = self.weight.view(channels, 1, 1, width).to(x.dtype)
        out = functional.conv2d(image, filters, padding=(0, self.before), groups=channels)
        out = out.permute(0, 2, 3, 1).squeeze(1)
        # A causal filter is padded on both sides, and what lies after the end is dropped.
        return out if out.shape == x.shape else out[:, : x.shape[1]]

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set the tap of the position itself to 1 and the others to 0."""
        self.weight.zero_()
        self.weight[:, self.before] = 1.0


class Attention(nn.Module):
    """Multi-head attention with rotary positions: bidirectional, or causal."""

    def __init__(self, shape: Shape, model: ModelConfig, transfer: Transfer) -> None:
        super().__init__()
        self.head_dim = head_dim_of(shape, model)
        # Unset is 1 / sqrt(head_dim); the two agree at the family's head width.
        self.scale = model.head_dim**0.5 / self.head_dim if transfer.linear_attention else None
        inner = shape.heads * self.head_dim
        self.causal = bool(model.causal)
        self.conv = (
            DepthwiseConv(shape.d_model, model.conv_width, self.causal)
            if model.conv_width
            else None
        )
        self.qkv = nn.Linear(shape.d_model, 3 * inner, bias=False)
        self.out = nn.Linear(inner, shape.d_model, bias=False)
        # One gain for queries and one for keys, shared by the heads: [2, 1, head_dim].
        self.qk_gain = nn.Parameter(torch.ones(2, 1, self.head_dim)) if model.qk_norm else None
        self.norm_eps = model.norm_eps

    def forward(self, x: Tensor, table: Tensor, documents: Documents | None = None) -> Tensor:
        """Map x [B, T, d] to the same shape."""
        if self.conv is not None:
            x = self.conv(x, documents)
        qkv = self.qkv(x).unflatten(-1, (3, -1, self.head_dim))
        qk, value = qkv.split((2, 1), dim=2)
        if self.qk_gain is not None:
            qk = functional.rms_norm(qk, (self.head_dim,), eps=self.norm_eps) * self.qk_gain.to(
                qk.dtype
            )
        qk = rotate(qk, table)
        query, key = qk.permute(2, 0, 3, 1, 4).unbind(0)
        value = value.squeeze(2).transpose(1, 2)
        if documents is None:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, is_causal=self.causal, scale=self.scale
            )
        else:
            mixed = documents.attend(query, key, value, self.scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_up = nn.Linear(shape.d_model, 2 * shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [B, T, d] to the same shape."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Block(nn.Module):
    """Attention, then feed-forward, each normalised on its way in and added to the stream."""

    def __init__(
        self, shape: Shape, model: ModelConfig, transfer: Transfer, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.branch = transfer.branch
        self.dropout = dropout
        self.attention_norm = nn.RMSNorm(shape.d_model, eps=model.norm_eps)
        self.attention = Attention(shape, model, transfer)
        self.feed_forward_norm = nn.RMSNorm(shape.d_model, eps=model.norm_eps)
        self.feed_forward = FeedForward(shape)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        documents: Documents | None = None,
        dropped: Sites | None = None,
    ) -> Tensor:
        """Map x [B, T, d] to the same shape."""
        mixed = self.attention(self.attention_norm(x), table, documents)
        if dropped is not None:
            mixed = drop(mixed, dropped.keys[0], dropped.places, self.dropout)
        x = torch.add(x, mixed, alpha=self.branch)
        mixed = self.feed_forward(self.feed_forward_norm(x))
        if dropped is not None:
            mixed = drop(mixed, dropped.keys[1], dropped.places, self.dropout)
        return torch.add(x, mixed, alpha=self.branch)


class DiffusionTransformer(nn.Module):
    """A model of one shape. `vocab_size` is K, the real tokens; the mask is token K.

    `forward` stops before the head, which is run by `logits` on the rows that need it: only
    masked positions have a loss. The head has no row for the mask, so that no probability is
    ever given to it. `build_model` makes one from a run's configuration.

    Args:
        shape: Its size.
        model: Its family.
        vocab_size: Real tokens K.
        transfer: Factors of the size (`model/transfer.py`).
        end_of_document: The token that ends a document, needed where `model.document_attention`
            is `within`.
        dropout: Share of elements dropped from the embeddings and from what each half of a block
            adds to the stream, in passes that are given keys.

    Attributes:
        checkpointing: Whether blocks keep their input alone for the backward pass, and run twice.

    Raises:
        ValueError: It is needed and not given.
    """

    rotary: Tensor

    def __init__(
        self,
        shape: Shape,
        model: ModelConfig,
        vocab_size: int,
        *,
        transfer: Transfer = Transfer(),  # noqa: B008 (immutable)
        end_of_document: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        within = model.document_attention == "within"
        if within and end_of_document is None:
            raise ValueError(
                "attention within documents needs end_of_document, the token that ends one"
            )
        self.end_of_document = end_of_document if within else None
        self.causal = bool(model.causal)
        self.checkpointing = False
        self.transfer = transfer
        self.dropout = dropout
        self.vocab_size = vocab_size
        self.mask_id = vocab_size
        self.embedding = nn.Embedding(vocab_size + 1, shape.d_model)
        self.embedding_norm = (
            nn.RMSNorm(shape.d_model, eps=model.norm_eps) if model.embedding_norm else None
        )
        self.blocks = nn.ModuleList(
            Block(shape, model, transfer, dropout) for _ in range(shape.layers)
        )
        self.final_norm = nn.RMSNorm(shape.d_model, eps=model.norm_eps)
        table = rotary_table(model.seq_len, head_dim_of(shape, model), model.rope_base)
        self.register_buffer("rotary", table, persistent=False)
        # Registered last: the parameters before it start alike with and without it.
        self.time_conditioning = (
            TimeConditioning(shape.d_model) if model.time_conditioning else None
        )

    @torch.no_grad()
    def initialise(self, model: ModelConfig, seed: int) -> None:
        """Fill every parameter from `seed`, whatever the global generator's state.

        | tensor                                  | start                                       |
        |-----------------------------------------|---------------------------------------------|
        | embedding, also the head                | normal, `init_std`                          |
        | qkv, gate_up                            | normal, `init_std` times `hidden_std`       |
        | out, down (what writes to the stream)   | the same; with `zero_init_residual` 0       |
        | convolution                             | identity: 1 at the position, 0 beside it    |
        | norms, query and key gains              | 1                                           |
        | time's first layer                      | normal, 1 / sqrt(its 32 inputs)             |
        | time's second layer                     | 0                                           |

        `hidden_std` is 1, or the transfer rule's factor.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            owner = self.get_submodule(name.rpartition(".")[0])
            if "norm" in name or "qk_gain" in name:
                parameter.fill_(1.0)
            elif isinstance(owner, DepthwiseConv):
                owner.start_as_identity()
            elif name == "time_conditioning.leave.weight":
                parameter.zero_()
            elif name == "time_conditioning.enter.weight":
                start = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(start * parameter.shape[1] ** -0.5)
            elif model.zero_init_residual and name.endswith(("out.weight", "down.weight")):
                parameter.zero_()
            else:
                start = torch.randn(parameter.shape, generator=generator)
                hidden = name.startswith("blocks.")
                std = model.init_std * (self.transfer.hidden_std if hidden else 1.0)
                parameter.copy_(start * std)

    def forward(
        self, tokens: Tensor, time: Tensor | None = None, dropout_keys: Tensor | None = None
    ) -> Tensor:
        """Map noisy tokens to hidden states.

        Args:
            tokens: int64 [B, T], masked positions holding `mask_id`; T may be anything up to the
                family's sequence length. On the model's device.
            time: floating [B] in [0, 1], the noise level of each row, on the same device. A model
                without time conditioning takes no notice of it.
            dropout_keys: int64 [B] below 2^32, on the same device; None: nothing is dropped.

        Returns:
            [B, T, d], float32 or the type that autocast chose. Causal: position i depends on
            tokens 0..i, so it is the state that predicts token i + 1.

        Raises:
            ValueError: The model is conditioned on time and none is given.
        """
        x = functional.embedding(tokens, self.embedding.weight, sparse=self._adds_few_rows(tokens))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if self.time_conditioning is not None:
            if time is None:
                raise ValueError("this model is conditioned on time; call model(tokens, time)")
            x = x + self.time_conditioning(time)
        table = self.rotary[: tokens.shape[1]]
        documents = None
        if self.end_of_document is not None:
            documents = Documents(tokens, self.end_of_document, self.causal)
        dropped: list[Sites | None] = [None] * len(self.blocks)
        if dropout_keys is not None:
            count = 1 + 2 * len(self.blocks)
            keys, places = sites(dropout_keys, x.shape[1], x.shape[2], count)
            x = drop(x, keys[0], places, self.dropout)
            dropped = [Sites(pair, places) for pair in keys[1:].split(2)]
        twice = self.checkpointing and torch.is_grad_enabled()
        for block, here in zip(self.blocks, dropped, strict=True):
            if twice:
                # Nothing in a block is random: what it drops follows from its keys.
                x = checkpoint(
                    block, x, table, documents, here, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, table, documents, here)
        return self.final_norm(x)

    def _adds_few_rows(self, tokens: Tensor) -> bool:
        """Return whether the embedding's gradient should be those of its rows that were read.

        The head's gradient is a whole table that they can be added to. A second table of zeros,
        filled and added, takes 3 % of a CPU's step with 32,000 rows of 256 (docs/log.md).
        """
        table = self.embedding.weight
        return tokens.is_cpu and table.numel() >= 1 << 20 and not torch.compiler.is_compiling()

    def logits(self, rows: Tensor) -> Tensor:
        """Map hidden states [M, d] to logits [M, K] over the real tokens, float32 or float64."""
        rows, matrix = self.head(rows)
        return at_least_float32(functional.linear(rows, matrix[: self.vocab_size]))

    def head(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of the logits: rows [M, d] and a matrix, its first K rows the head's.

        The whole matrix [K + 1, d], so that its gradient is made in place of the parameter's.
        """
        if self.transfer.logits != 1.0:
            rows = rows * self.transfer.logits
        return rows, self.embedding.weight


def build_model(config: TrajectoryConfig) -> DiffusionTransformer:
    """Return the model of a run on the CPU, its parameters not yet set.

    Raises:
        ConfigurationError: Attention stays within documents and the run does not say which token
            ends one.
    """
    try:
        return DiffusionTransformer(
            config.shape,
            config.model,
            config.vocab_size,
            transfer=transfer_of(config.shape, config.training),
            end_of_document=config.end_of_document,
            dropout=config.training.dropout,
        )
    except ValueError as error:
        raise ConfigurationError(f"trajectory {config.id}: {error}") from None
