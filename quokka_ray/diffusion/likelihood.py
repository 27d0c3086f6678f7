"""The validation NELBO that all trials of a study share.

NELBO(x) = E over k uniform on 1..L of (L / k) * E over subsets S of k positions of the sum over
S of -log p(x_i | x outside S). The same sequences and the same masks for every model: what two
models differ by is then measured far better than what each of them is.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from quokka_ray.diffusion.masks import validation_masks
from quokka_ray.diffusion.objective import Denoiser, masked_cross_entropy
from quokka_ray.study.config import EvaluationConfig

VERSION = 1
"""Part of the evaluator's identity: raised when the same settings would give other numbers."""

_ROWS_OF_TOKENS = 1 << 14
_LOGITS_AT_ONCE = 1 << 25


@dataclass(frozen=True)
class Likelihood:
    """A validation loss in nats per token.

    Attributes:
        loss: Mean over sequences.
        stderr: Standard error of `loss` over the choice of sequences and masks. Two models of a
            study share both, so their difference has a smaller one: see `paired_stderr`.
        per_sequence: float64 [S], each sequence's loss, the mean of its draws.
    """

    loss: float
    stderr: float
    per_sequence: np.ndarray


def evaluator_id(
    validation_hash: str, tokenizer_id: str, seq_len: int, evaluation: EvaluationConfig
) -> str:
    """Return `<data>/<bound>`: what was evaluated on, and how. Only equal ids share a law."""
    data = (validation_hash, tokenizer_id, seq_len, evaluation.sequences, evaluation.seed)
    digest = hashlib.sha256(repr(data).encode()).hexdigest()[:12]
    return f"{digest}/exactk{evaluation.draws}-s{evaluation.seed}-v{VERSION}"


def paired_stderr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the standard error of the difference of two models' per-sequence losses."""
    return _stderr(np.asarray(a) - np.asarray(b))


def _stderr(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


@torch.no_grad()
def validation_nelbo(
    model: Denoiser,
    windows: np.ndarray,
    evaluation: EvaluationConfig,
    vocab_size: int,
    device: str = "cpu",
) -> Likelihood:
    """Return the NELBO of `windows` in nats per token; sums are in float64.

    Args:
        model: The denoiser, on `device`.
        windows: int64 [S, L], the fixed validation sequences.
        evaluation: Draws per sequence and the masks' seed.
        vocab_size: Real tokens K; bounds the memory that logits take.
        device: Where to compute.
    """
    sequences, seq_len = windows.shape
    rows = min(_ROWS_OF_TOKENS // seq_len, _LOGITS_AT_ONCE // (seq_len * vocab_size))
    rows = max(1, rows)
    sums = np.zeros(sequences)
    for masks in validation_masks(evaluation.seed, sequences, evaluation.draws, seq_len):
        ends = np.concatenate(([0], np.cumsum(masks.counts)))
        for first in range(0, sequences, rows):
            last = min(first + rows, sequences)
            flat = masks.flat[ends[first] : ends[last]] - first * seq_len
            losses = masked_cross_entropy(
                model,
                torch.from_numpy(windows[first:last]).to(device),
                torch.from_numpy(flat).to(device),
            )
            values = losses.double().cpu().numpy()
            row_sums = np.add.reduceat(values, ends[first:last] - ends[first])
            sums[first:last] += row_sums / masks.counts[first:last]
    per_sequence = sums / evaluation.draws
    return Likelihood(float(per_sequence.mean()), _stderr(per_sequence), per_sequence)
