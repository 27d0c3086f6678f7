"""The memory of a training step, from its configuration alone.

Everything here is arithmetic, in the style of `model/counts.py`, so that a plan can say what fits
before anything is built. What is counted is what the code keeps: the tensors that autograd saves
for the backward pass of an eager step, on an accelerator whose norms are fused and whose
attention is a flash kernel, so that no [T, T] tensor exists. `memory_trace.py` holds it against
the step itself, run on tensors without storage; `device_memory.py` corrects it by what a device
was measured to need, which also covers a compiled step.

Notation: d the width, i = heads * head_dim, f the gated width, L layers, T the sequence, K the
vocabulary, n = rows * T the tokens in memory at once. Float32 takes 4 bytes; c is the bytes of
the type that matrix products run in, 2 under bf16 and 4 else.
"""

import math
from dataclasses import dataclass

from quokka_ray.model.counts import count_params, head_dim_of, head_fraction
from quokka_ray.study.config import DiffusionConfig, ModelConfig, StudyConfig, TrainingConfig
from quokka_ray.study.trajectory import Shape, TrajectoryConfig

_FULL = 4
"""Bytes of a float32: parameters, gradients, optimiser state, the residual stream, losses."""

_LOGITS_AT_ONCE = 1 << 27
"""Logits of a chunk of the head on an accelerator (`diffusion/head.py`)."""

_FEW_LOGITS = 1 << 20
"""Up to here the head is not cut into chunks."""


@dataclass(frozen=True)
class Recipe:
    """What, beside the rows, decides the memory of a step.

    Attributes:
        shape: The size.
        model: The family.
        vocab_size: Real tokens K.
        training: Optimiser and precision.
        diffusion: Where logits are computed.
        half: Whether matrix products run in bfloat16.
        shards: Devices that parameters, gradients and optimiser state are spread over (FSDP2); 1:
            each device holds them whole.
    """

    shape: Shape
    model: ModelConfig
    vocab_size: int
    training: TrainingConfig
    diffusion: DiffusionConfig
    half: bool
    shards: int = 1

    @classmethod
    def of(cls, config: TrajectoryConfig, half: bool | None = None, shards: int = 1) -> "Recipe":
        """Return the recipe of a run. `half` decides what precision `auto` leaves to the device;
        unset: a GPU that has bfloat16."""
        return cls(
            config.shape,
            config.model,
            config.vocab_size,
            config.training,
            config.diffusion,
            config.training.precision != "fp32" if half is None else half,
            shards,
        )

    @classmethod
    def of_study(cls, study: StudyConfig, shape: Shape, vocab_size: int) -> "Recipe":
        """Return the recipe of one size of a study, on a GPU that has bfloat16."""
        half = study.training.precision != "fp32"
        return cls(shape, study.model, vocab_size, study.training, study.diffusion, half)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one optimiser step on one device, by what they are for.

    Attributes:
        parameters: Float32, the master weights.
        gradients: Float32.
        optimizer: AdamW's two moments, Muon's one.
        casts: Copies of the blocks' matrices in bfloat16, where products run in it; they live
            from the forward pass to the backward pass.
        activations: What the blocks save for the backward pass.
        head: The logits and what the loss makes of them, at their most.
        backward: What one block's backward pass works on, beside what was saved.
        update: What the optimisers work on, at their most.
        peak: The most that is held at once; less than the sum, since not all live together.
    """

    parameters: float
    gradients: float
    optimizer: float
    casts: float
    activations: float
    head: float
    backward: float
    update: float
    peak: float


def step_memory(
    recipe: Recipe, rows: int, *, accumulate: bool = False, checkpointing: bool = False
) -> StepMemory:
    """Return what a step needs that keeps `rows` sequences in memory at once.

    Args:
        recipe: What is trained.
        rows: Sequences of a micro-batch.
        accumulate: Whether the step consists of several micro-batches, so that gradients of the
            ones before are there during the forward pass.
        checkpointing: Whether blocks keep their input alone and run twice.
    """
    shape, model, training = recipe.shape, recipe.model, recipe.training
    d, layers = shape.d_model, shape.layers
    inner = shape.heads * head_dim_of(shape, model)
    tokens = rows * model.seq_len
    half = recipe.half
    c = 2 if half else _FULL

    params = count_params(shape, model, recipe.vocab_size)
    block_matrices = 4 * d * inner + 3 * d * shape.ffn
    matrices = layers * block_matrices
    table = (recipe.vocab_size + 1) * d

    # Muon keeps one momentum of a block's matrix, AdamW two moments of everything.
    moments = 2 * params - (matrices if training.optimizer == "muon" else 0)
    parameters = _FULL * params / recipe.shards
    gradients = _FULL * params / recipe.shards
    optimizer = _FULL * moments / recipe.shards
    gathered = 0.0
    if recipe.shards > 1:
        # FSDP2 gathers the table for the whole step, and a block at a time with the next one on
        # its way, and holds the whole gradients of both until they are reduced.
        gathered = (2 * _FULL) * (table + 2 * block_matrices)

    # Products in bfloat16 save a copy of each block's matrix for the backward pass.
    casts = float(c * matrices) if half else 0.0
    if checkpointing:
        casts /= layers

    saved = _saved_by_block(shape, model, c) * tokens
    entering = _FULL * d * tokens
    # Beside the blocks: the final norm's input, the normalised embedding's input, and of each
    # token its id, clean and noisy.
    outside = (_FULL * d * (2 if model.embedding_norm else 1) + 16) * tokens
    dropped = 0.0
    if training.dropout:
        # A byte of each element that may be dropped is saved; the hash that decides about it works
        # on three int64 tensors.
        outside += d * tokens
        saved += 2 * d * tokens
        dropped = float(3 * 8 * d * tokens)
    activations = outside + layers * (entering if checkpointing else saved)
    # SwiGLU's gradients by gate and by up, then both in one tensor; by then the product and
    # silu(gate) are gone. Attention comes when all that is gone, and takes less.
    backward = float(2 * shape.ffn * c * tokens)
    head, head_backward = _head(recipe, rows, c)
    update = _update(recipe, inner) / recipe.shards

    held = parameters + optimizer + gathered
    before = gradients if accumulate else 0.0
    # The head's gradient of the table waits for the embedding's, which comes last.
    waiting = float(_FULL * table)
    working = max(backward, dropped) if checkpointing else backward
    # Where blocks run twice, the last one to run has all that it saves, beside all inputs.
    again = saved - entering if checkpointing else 0.0
    peak = max(
        held + before + casts + activations + max(head, head_backward, dropped),
        held + before + casts + activations + again + waiting + working,
        # The first block's backward pass comes last, when all gradients are there.
        held + gradients + outside + saved + waiting + backward,
        held + gradients + update,
    )
    return StepMemory(
        parameters + gathered / 2,
        gradients + gathered / 2,
        optimizer,
        casts,
        activations,
        max(head, head_backward),
        backward,
        update,
        peak,
    )


def _saved_by_block(shape: Shape, model: ModelConfig, c: int) -> float:
    """Return the bytes of a token that one block saves for its backward pass."""
    d, f = shape.d_model, shape.ffn
    inner = shape.heads * head_dim_of(shape, model)
    # Both norms save the float32 stream they read, and one number a token.
    saved = 2 * (_FULL * d + _FULL)
    # Convolution, query-key-value projection and gated projection save what they read.
    saved += (3 if model.conv_width else 2) * c * d
    # The fused projection's output: the value stays a view of it.
    saved += 3 * inner * c
    if model.qk_norm:
        # Autocast runs norms in float32: what is saved is a copy of queries and keys, one number
        # a head of each, and, for the gain, what comes out.
        saved += (2 * inner * _FULL if c < _FULL else 0) + 2 * shape.heads * _FULL
        saved += 2 * inner * _FULL
    # Attention: rotated queries and keys, its output (which the output projection reads too), and
    # one log-sum-exp a head. A rotation's table is nobody's variable: nothing more is saved.
    saved += 3 * inner * c + shape.heads * _FULL
    # SwiGLU: gate and up in one tensor, silu(gate), and the product that `down` reads.
    return saved + 4 * f * c


def _head(recipe: Recipe, rows: int, c: int) -> tuple[float, float]:
    """Return the bytes of logits, loss and their gradients in the forward and backward pass."""
    diffusion, vocab_size = recipe.diffusion, recipe.vocab_size
    positions = positions_with_logits(diffusion, recipe.model.seq_len, rows)
    d = recipe.shape.d_model
    states, table = positions * d, vocab_size * d
    logits = positions * vocab_size
    half = c < _FULL
    if logits <= _FEW_LOGITS:
        # Forward logits and log-softmax in float32; backward the gradients by both beside the
        # latter, the rows that the head read, and its copy of the table.
        copies = c * (states + table) if half else 0.0
        return 2 * _FULL * logits + copies, 3 * _FULL * logits + copies + c * states
    logits = min(logits, max(_LOGITS_AT_ONCE, vocab_size))
    # Kept for the backward pass: the gradients by the rows and by the table, in float32. On an
    # accelerator they are multiplied there by the loss's own gradient, into new tensors.
    kept = _FULL * (states + table)
    # In the forward pass beside them: the rows, in float32 and in the products' type, and the
    # table in it.
    forward = kept + _FULL * states + (c * (states + table) if half else 0.0)
    # Of one chunk: the logits in a buffer; in float32 too, where they become their gradient; and
    # that in the type of the products, all of them one tensor if the types are one.
    chunk = (2 * c + _FULL if half else _FULL) * logits
    if diffusion.kernel not in ("mask", "none") and diffusion.objective != "quokka_uniform":
        # The bound's own softmax and gradient (`diffusion/elbo.py`).
        chunk += 2 * _FULL * logits
    # After it, the product that is added to the table's gradient.
    return forward + max(chunk, chunk / 2 + c * table), 2 * kept


def positions_with_logits(diffusion: DiffusionConfig, seq_len: int, rows: int) -> float:
    """Return the positions of a micro-batch where logits are computed, at their most.

    Antithetic pairs mask seq_len + 1 tokens between them; a row alone may lose all of its own.
    Independent noise levels scatter: two standard deviations of their mean are allowed for.
    """
    if diffusion.kernel != "mask":
        return rows * seq_len
    if diffusion.counts_exactly and diffusion.noise_schedule == "linear":
        return rows // 2 * (seq_len + 1) + rows % 2 * seq_len
    share = head_fraction(diffusion, seq_len) + 2 * (1 / 12 / rows) ** 0.5
    return min(1.0, share) * rows * seq_len


def _update(recipe: Recipe, inner: int) -> float:
    """Return the bytes that the optimisers work on; fused AdamW needs none."""
    if recipe.training.optimizer != "muon":
        return 0.0
    shape = recipe.shape
    # All matrices of one shape are orthogonalised in one stack (`training/optimizers.py`): the
    # updates, their stack, and in bfloat16 the iterate, the next one, and two of short * short.
    stacks: dict[tuple[int, int], int] = {}
    for rows, columns, number in (
        (inner, shape.d_model, 4),
        (shape.ffn, shape.d_model, 3),
    ):
        sides = (min(rows, columns), max(rows, columns))
        stacks[sides] = stacks.get(sides, 0) + number * shape.layers
    return max(
        number * (short * long * (2 * _FULL + 2 * 2) + 2 * 2 * short * short)
        for (short, long), number in stacks.items()
    )


def readable(memory: StepMemory) -> str:
    """Return a line for people: the peak and its largest parts."""
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimiser": memory.optimizer,
        "casts": memory.casts,
        "activations": memory.activations,
        "head": memory.head,
    }
    largest = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {gib(size)}" for name, size in largest if size > 0.02 * memory.peak)
    return f"{gib(memory.peak)} ({shown})"


def gib(size: float) -> str:
    """Return bytes as people read them: `61.3 GiB`, `140 MiB`."""
    if not math.isfinite(size):
        return "any amount"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
