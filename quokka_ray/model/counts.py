"""Parameters and FLOPs of a shape, from its configuration alone.

Everything here is arithmetic on integers, so that a plan can be priced without building a model;
tests hold it equal to the module's own count and to `torch.utils.flop_counter`.

FLOPs are those of matrix products, a multiply and an add each counting one. The forward pass
costs 2 per weight and token and the backward pass twice that, hence the factor 6; attention's
two products cost 4 * heads * head_dim * seq_len forward, hence 12 in all, with no halving since
attention is bidirectional. Normalisation, activations and the optimiser are not counted.
"""

from quokka_ray.study.config import EvaluationConfig, ModelConfig
from quokka_ray.study.trajectory import Shape


def masked_fraction(seq_len: int) -> float:
    """Return the share of positions where logits are computed, (L + 1) / (2 L).

    The masked count k is uniform on 1..L, so its mean is (L + 1) / 2; antithetic pairs meet it
    exactly in every batch.
    """
    return (seq_len + 1) / (2 * seq_len)


def _block_matrices(shape: Shape, model: ModelConfig) -> int:
    inner = shape.heads * model.head_dim
    attention = 4 * shape.d_model * inner
    feed_forward = 3 * shape.d_model * shape.ffn
    return attention + feed_forward


def count_params_non_embedding(shape: Shape, model: ModelConfig, vocab_size: int) -> int:
    """Return the parameters outside the embedding table. `vocab_size` does not enter."""
    per_block = _block_matrices(shape, model) + 2 * shape.d_model
    per_block += model.conv_width * shape.d_model
    if model.qk_norm:
        per_block += 2 * model.head_dim
    norms_outside = shape.d_model * (2 if model.embedding_norm else 1)
    return shape.layers * per_block + norms_outside


def count_params(shape: Shape, model: ModelConfig, vocab_size: int) -> int:
    """Return N: all parameters, the tied embedding counted once.

    `vocab_size` is the number of real tokens K; the embedding has one more row, for the mask.
    """
    embedding = (vocab_size + 1) * shape.d_model
    return embedding + count_params_non_embedding(shape, model, vocab_size)


def flops_per_token(
    shape: Shape, model: ModelConfig, vocab_size: int, *, head_fraction: float | None = None
) -> float:
    """Return the exact FLOPs of one token's forward and backward pass.

    Args:
        shape: The size.
        model: The family; gives the head width, the sequence length and the convolution.
        vocab_size: Real tokens K, the rows of the output head.
        head_fraction: Share of positions where logits are computed; unset: `masked_fraction`.
    """
    if head_fraction is None:
        head_fraction = masked_fraction(model.seq_len)
    weights = _block_matrices(shape, model) + model.conv_width * shape.d_model
    attention = 12 * shape.heads * model.head_dim * model.seq_len
    head = 6 * vocab_size * shape.d_model * head_fraction
    return shape.layers * (6 * weights + attention) + head


def training_flops(shape: Shape, model: ModelConfig, vocab_size: int, tokens: float) -> float:
    """Return the exact FLOPs of training on `tokens` tokens, evaluation not included."""
    return flops_per_token(shape, model, vocab_size) * tokens


def evaluation_flops(
    shape: Shape, model: ModelConfig, vocab_size: int, evaluation: EvaluationConfig
) -> float:
    """Return the exact FLOPs of one validation: forward passes only, a third of training's."""
    tokens = evaluation.sequences * evaluation.draws * model.seq_len
    return flops_per_token(shape, model, vocab_size) * tokens / 3
