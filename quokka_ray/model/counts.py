"""Parameters and FLOPs of a shape, from its configuration alone.

Everything here is arithmetic on integers, so that a plan can be priced without building a model;
tests hold it equal to the module's own count and to `torch.utils.flop_counter`.

FLOPs are those of matrix products, a multiply and an add each counting one. The forward pass
costs 2 per weight and token and the backward pass twice that, hence the factor 6; attention's
two products cost 4 * heads * head_dim * seq_len forward, hence 12 in all. They are not halved
for a causal model, by the convention of its peers, nor cut down where attention stays within
documents. Normalisation, activations and the optimiser are not counted.
"""

import math

from quokka_ray.study.config import DiffusionConfig, EvaluationConfig, ModelConfig
from quokka_ray.study.trajectory import Shape

TIME_FEATURES = 32
"""Sinusoids of the time that time conditioning starts from."""


def head_dim_of(shape: Shape, model: ModelConfig) -> int:
    """Return the width of one head: the size's own, or the family's."""
    return shape.head_dim or model.head_dim


def masked_fraction(seq_len: int) -> float:
    """Return the share of positions where logits are computed, (L + 1) / (2 L).

    The masked count k is uniform on 1..L, so its mean is (L + 1) / 2; antithetic pairs meet it
    exactly in every batch.
    """
    return (seq_len + 1) / (2 * seq_len)


def head_fraction(diffusion: DiffusionConfig, seq_len: int) -> float:
    """Return the share of positions where training computes logits, its mean over noise.

    Masks: the masked positions, 1 - alpha(t) on average over the times that are drawn. Other
    noise, and next tokens, the first one of a window among them: all.
    """
    if diffusion.kernel != "mask":
        return 1.0
    if diffusion.mask_sampler == "importance":
        # The mask rate's density falls as 1 / rate.
        return (1 - diffusion.time_min) / -math.log(diffusion.time_min)
    if diffusion.noise_schedule == "linear":
        exact = diffusion.counts_exactly or diffusion.objective == "megadlm"
        return masked_fraction(seq_len) if exact else 0.5
    # Here and not above: schedules load torch, and a plan of linear noise does without.
    from quokka_ray.diffusion.schedules import noise_schedule

    power = {} if diffusion.noise_power is None else {"power": diffusion.noise_power}
    schedule = noise_schedule(diffusion.noise_schedule, **power)
    points = 4096
    return sum(1 - schedule.alpha((i + 0.5) / points) for i in range(points)) / points


def _time_conditioning(shape: Shape) -> tuple[int, int]:
    """Parameters of the two layers, which see each sequence once."""
    return TIME_FEATURES * shape.d_model, shape.d_model**2


def _block_matrices(shape: Shape, model: ModelConfig) -> int:
    inner = shape.heads * head_dim_of(shape, model)
    attention = 4 * shape.d_model * inner
    feed_forward = 3 * shape.d_model * shape.ffn
    return attention + feed_forward


def count_params_non_embedding(shape: Shape, model: ModelConfig, vocab_size: int) -> int:
    """Return the parameters outside the embedding table. `vocab_size` does not enter."""
    per_block = _block_matrices(shape, model) + 2 * shape.d_model
    per_block += model.conv_width * shape.d_model
    if model.qk_norm:
        per_block += 2 * head_dim_of(shape, model)
    outside = shape.d_model * (2 if model.embedding_norm else 1)
    if model.time_conditioning:
        outside += sum(_time_conditioning(shape))
    return shape.layers * per_block + outside


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
    attention = 12 * shape.heads * head_dim_of(shape, model) * model.seq_len
    head = 6 * vocab_size * shape.d_model * head_fraction
    time = 0.0
    if model.time_conditioning:
        first, second = _time_conditioning(shape)
        # The first layer's input has no gradient.
        time = (4 * first + 6 * second) / model.seq_len
    return shape.layers * (6 * weights + attention) + head + time


def training_flops(
    shape: Shape,
    model: ModelConfig,
    vocab_size: int,
    tokens: float,
    diffusion: DiffusionConfig | None = None,
) -> float:
    """Return the exact FLOPs of training on `tokens` tokens, evaluation not included.

    `diffusion` decides where logits are computed; unset: masks of the linear schedule.
    """
    share = head_fraction(diffusion or DiffusionConfig(), model.seq_len)
    return flops_per_token(shape, model, vocab_size, head_fraction=share) * tokens


def evaluation_flops(
    shape: Shape,
    model: ModelConfig,
    vocab_size: int,
    evaluation: EvaluationConfig,
    diffusion: DiffusionConfig | None = None,
) -> float:
    """Return the exact FLOPs of one validation: forward passes only, a third of training's.

    Masks are evaluated with exact counts whatever the training draws; an autoregressive model
    needs one pass over each sequence, whatever the draws.
    """
    diffusion = diffusion or DiffusionConfig()
    if diffusion.kernel == "mask":
        diffusion = DiffusionConfig()
    draws = 1 if diffusion.kernel == "none" else evaluation.draws
    tokens = evaluation.sequences * draws * model.seq_len
    share = head_fraction(diffusion, model.seq_len)
    flops = flops_per_token(shape, model, vocab_size, head_fraction=share) * tokens / 3
    if model.time_conditioning:
        # Its first layer's forward pass is half of its training, not a third.
        first, _ = _time_conditioning(shape)
        flops += (2 - 4 / 3) * first * tokens / model.seq_len
    return flops
