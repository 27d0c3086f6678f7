"""The validation loss that all trials of a study share: a bound for noise, exact without.

Masks: NELBO(x) = E over k uniform on 1..L of (L / k) * E over subsets S of k positions of the sum
over S of -log p(x_i | x outside S), which needs neither a noise schedule nor a discretised time.
Uniform and hybrid noise: the integral over noise levels of `elbo`, its levels stratified over all
sequences and draws. It does not depend on the schedule that training used either, so levels are
those of the linear one, and the model is told the time that its own schedule gives them.
Autoregressive models: the exact negative log-likelihood.

The same sequences, levels and noise for every model: what two models differ by is then measured
far better than what each of them is. Sums are in float64.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch

from quokka_ray.diffusion.build import build_process
from quokka_ray.diffusion.masks import VALIDATION, stream, validation_masks
from quokka_ray.diffusion.noised import next_token_losses, own_logit, process_losses
from quokka_ray.diffusion.objective import Denoiser, masked_cross_entropy
from quokka_ray.diffusion.schedules import Linear
from quokka_ray.diffusion.shares import Peers, Share
from quokka_ray.study.config import EvaluationConfig
from quokka_ray.study.diffusion import DiffusionConfig

VERSION = 1
"""Part of the evaluator's identity: raised when the same settings would give other numbers."""

_WARP = {"uniform": 2.0, "hybrid": 3.0, "log_snr_hybrid": 2.0}
"""Noise levels are even numbers in [0, 1] to this power. Near t = 0 a replaced token is rare, as t
or with `hybrid` as sqrt(t), and weighs 1 / t: under even levels the variance would be infinite."""

_NEIGHBOURS = 8


@dataclass(frozen=True)
class Likelihood:
    """A validation loss in nats per token.

    Attributes:
        loss: Mean over sequences.
        stderr: Standard error of `loss` over the choice of sequences and noise. Two models of a
            study share both, so their difference has a smaller one: see `paired_stderr`.
        per_sequence: float64 [S], each sequence's loss, the mean of its draws.
    """

    loss: float
    stderr: float
    per_sequence: np.ndarray

    @property
    def perplexity(self) -> float:
        """exp(loss): an upper bound of the perplexity per token, exact for next tokens."""
        return float(np.exp(np.float64(self.loss)))

    def bits_per_byte(self, tokens: int, text_bytes: int) -> float:
        """Return the loss of `tokens` tokens over ln 2 and the UTF-8 bytes that they stand for.

        Ends of documents count as tokens and have no bytes. NaN for a text of no bytes.
        """
        return self.loss * tokens / (math.log(2) * text_bytes) if text_bytes else math.nan


def bound_name(diffusion: DiffusionConfig, evaluation: EvaluationConfig) -> str:
    """Return how a model of this kind is evaluated: the second half of the evaluator's id."""
    draws = f"{evaluation.draws}-s{evaluation.seed}-v{VERSION}"
    if diffusion.kernel == "none":
        return f"exact-v{VERSION}"
    if diffusion.kernel == "uniform":
        return f"uniform{draws}"
    if diffusion.kernel == "hybrid":
        return f"hybrid-p{diffusion.hybrid_p_uniform:g}-g{diffusion.hybrid_gamma:g}-{draws}"
    if diffusion.kernel == "log_snr_hybrid":
        return f"logsnr-b{diffusion.hybrid_shift:g}-a{diffusion.hybrid_scale:g}-{draws}"
    return f"exactk{draws}"


def evaluator_id(
    validation_hash: str,
    tokenizer_id: str,
    seq_len: int,
    evaluation: EvaluationConfig,
    diffusion: DiffusionConfig | None = None,
) -> str:
    """Return `<data>/<bound>`: what was evaluated on, and how.

    Only observations of equal ids share a law. Models of different noise have different bounds
    on equal data: they may be compared, the first halves being equal. `diffusion` unset: masks.
    """
    data = (validation_hash, tokenizer_id, seq_len, evaluation.sequences, evaluation.seed)
    digest = hashlib.sha256(repr(data).encode()).hexdigest()[:12]
    return f"{digest}/{bound_name(diffusion or DiffusionConfig(), evaluation)}"


def paired_stderr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the standard error of the difference of two models' per-sequence losses."""
    return _stderr(np.asarray(a) - np.asarray(b))


def _stderr(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _likelihood(per_sequence: np.ndarray) -> Likelihood:
    return Likelihood(float(per_sequence.mean()), _stderr(per_sequence), per_sequence)


def validation_loss(
    model: Denoiser,
    windows: np.ndarray,
    evaluation: EvaluationConfig,
    vocab_size: int,
    device: str = "cpu",
    diffusion: DiffusionConfig | None = None,
    peers: Peers | None = None,
) -> Likelihood:
    """Return the loss of `windows` in nats per token, by the bound of the model's noise.

    Args:
        model: The denoiser, on `device`.
        windows: int64 [S, L], the fixed validation sequences.
        evaluation: Draws per sequence and the noise's seed; without noise there is one draw.
        vocab_size: Real tokens K.
        device: Where to compute.
        diffusion: What the model was trained under; unset: masks.
        peers: Ranks that hold the same model and share the sequences; every one of them calls
            this, and gets the whole result.
    """
    diffusion = diffusion or DiffusionConfig()
    share = Share(windows, vocab_size, device, peers)
    if diffusion.kernel == "none":
        return _exact(model, windows, vocab_size, device, share)
    if diffusion.kernel == "mask":
        return validation_nelbo(model, windows, evaluation, vocab_size, device, share)
    return _process_bound(model, windows, evaluation, diffusion, vocab_size, device, share)


@torch.no_grad()
def validation_nelbo(
    model: Denoiser,
    windows: np.ndarray,
    evaluation: EvaluationConfig,
    vocab_size: int,
    device: str = "cpu",
    share: Share | None = None,
) -> Likelihood:
    """Return the exact-k NELBO of `windows` under mask noise, in nats per token.

    Args:
        model: The denoiser, on `device`.
        windows: int64 [S, L], the fixed validation sequences.
        evaluation: Draws per sequence and the masks' seed.
        vocab_size: Real tokens K; bounds the memory that logits take.
        device: Where to compute.
        share: The sequences that are evaluated here; unset: all.
    """
    sequences, seq_len = windows.shape
    share = share or Share(windows, vocab_size, device)
    sums = np.zeros(sequences)
    for masks in validation_masks(evaluation.seed, sequences, evaluation.draws, seq_len):
        ends = np.concatenate(([0], np.cumsum(masks.counts)))
        for part in share.parts():
            first, last = part.start, part.stop
            flat = masks.flat[ends[first] : ends[last]] - first * seq_len
            losses = masked_cross_entropy(
                model,
                torch.from_numpy(windows[part]).to(device),
                torch.from_numpy(flat).to(device),
            )
            values = losses.double().cpu().numpy()
            row_sums = np.add.reduceat(values, ends[first:last] - ends[first])
            sums[part] += row_sums / masks.counts[part]
    return _likelihood(share.whole(sums) / evaluation.draws)


def validation_places(seed: int, sequences: int, draws: int) -> np.ndarray:
    """Return where every validation sequence stands among the noise levels, float64 [draws, S].

    Numbers in [0, 1], stratified twice, as the counts of `validation_masks` are: a sequence's
    draws fall in different parts of it, and all draws together cover it evenly.
    """
    places = np.empty((draws, sequences))
    for draw in range(draws):
        shared = stream(seed, VALIDATION, 0, draw)
        cell = draw * sequences + shared.permutation(sequences)
        places[draw] = (cell + shared.random(sequences)) / (sequences * draws)
    return places


@torch.no_grad()
def _process_bound(
    model: Denoiser,
    windows: np.ndarray,
    evaluation: EvaluationConfig,
    diffusion: DiffusionConfig,
    vocab_size: int,
    device: str,
    share: Share,
) -> Likelihood:
    process = build_process(diffusion, vocab_size, Linear())
    told = build_process(diffusion, vocab_size)
    sequences, seq_len = windows.shape
    power = _WARP[diffusion.kernel]
    places = validation_places(evaluation.seed, sequences, evaluation.draws)
    values = np.zeros_like(places)
    for draw, place in enumerate(places):
        levels, density = place**power, power * place ** (power - 1)
        noisy = np.empty_like(windows)
        for row in range(sequences):
            generator = stream(evaluation.seed, VALIDATION, 1 + row, draw)
            rows = slice(row, row + 1)
            noisy[rows] = process.corrupt(windows[rows], levels[rows], generator)
        times = np.clip(told.schedule.inverse(levels), 0.0, 1.0)
        own = own_logit(told, times) if diffusion.objective == "quokka_uniform" else None
        for part in share.parts():
            losses = process_losses(
                model,
                process,
                torch.from_numpy(windows[part]).to(device),
                torch.from_numpy(noisy[part]).to(device),
                torch.from_numpy(levels[part]).to(device),
                torch.from_numpy(times[part]).float().to(device),
                None if own is None else torch.from_numpy(own[part]).to(device),
            )
            means = losses.view(-1, seq_len).double().mean(1).cpu().numpy()
            values[draw, part] = means * density[part]
    return _likelihood(_without_places(share.whole(values), places))


def _without_places(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return each sequence's mean of `values`, less what its noise levels explain, float64 [S].

    Most of what a draw differs by is due to its level, and levels cover [0, 1] evenly: that part
    is no error of the mean over sequences, which stays what it is. Levels next to each other,
    eight at a time, tell it.

    Args:
        values: float64 [draws, S].
        places: float64 [draws, S], where each stands in [0, 1].
    """
    order = places.ravel().argsort()
    parts = np.array_split(values.ravel()[order], max(1, order.size // _NEIGHBOURS))
    rest = np.empty(order.size)
    # As in an estimate of a variance, a part's own mean takes one of its n numbers.
    rest[order] = np.concatenate(
        [(part - part.mean()) * math.sqrt(len(part) / max(1, len(part) - 1)) for part in parts]
    )
    per_sequence: np.ndarray = values.mean() + rest.reshape(values.shape).mean(0)
    return per_sequence


@torch.no_grad()
def _exact(
    model: Denoiser, windows: np.ndarray, vocab_size: int, device: str, share: Share
) -> Likelihood:
    sums = np.zeros(len(windows))
    for part in share.parts():
        tokens = torch.from_numpy(windows[part]).to(device)
        losses = next_token_losses(model, tokens, vocab_size)
        sums[part] = losses.view(tokens.shape).double().mean(1).cpu().numpy()
    return _likelihood(share.whole(sums))
