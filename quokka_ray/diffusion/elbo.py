"""The one ELBO of discrete diffusion, for every noise process, in log space.

For a token x0 that noise turned into z at time t, with p_t = alpha x_theta + m_t beside
q_t = alpha e_x0 + m_t, the integrand of the continuous-time bound is

    w (KL(q_t || p_t) + R - 1 - log R),    w = r_t(z) / q_t(z),    R = q_t(z) / p_t(z),

with r_t the rate into z (GIDD eq. 10 and UDLM eq. 15 are cases of it). Its expectation over t
uniform on [0, 1] and the noise, averaged over all tokens, is the NELBO in nats per token. For
uniform and hybrid noise the best x_theta leaves the token's own noisy value out of what it
conditions on; only then is the NELBO the data's entropy.

Noise gives every real token the same probability m, so that log(p_t(v) / m) is
softplus(s + log x_theta(v)) with s = log(alpha / m): one pass over the logits, and no one-hot
tensor. `general_elbo` is that formula under autograd, for any process. `elbo` equals it and is
what to use: cross-entropy for masks, a fused pass with its own gradient for the others.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quokka_ray.diffusion.processes import Mask, NoiseProcess

_NEVER = -1e4
"""Stands for the logarithm of 0: its exponential is 0, and 0 times it is no NaN."""

_FIRST, _LAST = 1e-30, 1 - 2**-53
"""Times are kept between these: at 0 and 1 weights are infinite and divergences 0."""


_HIGHEST_LOG_RATIO = 700.0
"""Above it R would overflow; reached only where x_theta calls the truth impossible."""

_ELEMENTS_AT_ONCE = 1 << 16
"""Probabilities that the fused pass works on at once on a CPU; bounds its temporary memory."""


@dataclass(frozen=True)
class _Positions:
    """What the bound needs of M positions besides logits; float64 [M], or bool [M].

    Attributes:
        snr: s, log(alpha / m).
        kept: q_t(x0), alpha + m.
        other: m, the noise's probability of each one real token.
        weight: w.
        is_clean: Whether z is x0.
        is_real: Whether z is not the mask.
    """

    snr: Tensor
    kept: Tensor
    other: Tensor
    weight: Tensor
    is_clean: Tensor
    is_real: Tensor

    def integrand(self, total: Tensor, at_clean: Tensor, at_noisy: Tensor) -> Tensor:
        """Return w (KL + R - 1 - log R) from log(p_t(v) / m): its sum, at x0, and at z."""
        highest = _softplus(self.snr)
        divergence = self.kept * (highest - at_clean) - self.other * (total - at_clean)
        return self.weight * (divergence + self.surprise(at_noisy))

    def surprise(self, at_noisy: Tensor) -> Tensor:
        """Return R - 1 - log R; 0 where z is the mask."""
        log_ratio = self.log_ratio(at_noisy)
        return torch.expm1(log_ratio) - log_ratio

    def log_ratio(self, at_noisy: Tensor) -> Tensor:
        """Return log R."""
        log_ratio = self.is_clean * _softplus(self.snr) - at_noisy
        return (self.is_real * log_ratio).clamp(max=_HIGHEST_LOG_RATIO)


def _positions(process: NoiseProcess, clean: Tensor, noisy: Tensor, t: Tensor) -> _Positions:
    t = t.double().clamp(_FIRST, _LAST)
    keep, _, other = process.log_marginal(t)
    other = other.clamp(min=_NEVER)
    to_mask, to_other = process.noise_weights(t)
    snr = keep - other
    is_clean, is_real = noisy == clean, noisy != process.mask_id
    # Of q_t(x0) = alpha + m the share m / (alpha + m) is noise.
    weight = torch.where(is_clean, to_other * torch.sigmoid(-snr), to_other)
    return _Positions(
        snr=snr,
        kept=keep.exp() + other.exp(),
        other=other.exp(),
        weight=torch.where(is_real, weight, to_mask),
        is_clean=is_clean,
        is_real=is_real,
    )


def _softplus(x: Tensor) -> Tensor:
    return functional.softplus(x, threshold=40)


def _at(values: Tensor, tokens: Tensor) -> Tensor:
    """Return values[i, tokens[i]] in float64; of the last token where tokens[i] is the mask."""
    index = tokens.clamp(max=values.shape[1] - 1)[:, None]
    return values.gather(1, index).squeeze(1).double()


def position_weight(process: NoiseProcess, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Return w = r_t(z) / q_t(z | x0) of M positions, at least 0.

    It is what losses that reweight the ELBO start from: GIDD's "clip" is its minimum with 2, and
    gidd-easydel's training loss is w alpha (1 - alpha) / -alpha'.

    Args:
        process: The noise process.
        clean: int64 [M], x0.
        noisy: int64 [M], z.
        t: float [M], on the tokens' device.

    Returns:
        float64 [M].
    """
    return _positions(process, clean, noisy, t).weight


def general_elbo(
    process: NoiseProcess, logits: Tensor, clean: Tensor, noisy: Tensor, t: Tensor
) -> Tensor:
    """Return the ELBO's integrand for any process: the definition that `elbo` must equal.

    Arguments, result and errors are those of `elbo`; it takes several times its memory.
    """
    at = _positions(process, clean, noisy, t)
    log_x = functional.log_softmax(_wide(logits), dim=-1)
    total = _softplus(at.snr.to(log_x.dtype)[:, None] + log_x).sum(-1).double()
    at_clean = _softplus(at.snr + _at(log_x, clean))
    at_noisy = _softplus(at.snr + _at(log_x, noisy))
    return at.integrand(total, at_clean, at_noisy).to(log_x.dtype)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def elbo(process: NoiseProcess, logits: Tensor, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Return the ELBO's integrand of M positions, in nats.

    Its expectation over t uniform on [0, 1] and noisy text drawn at t, averaged over all
    positions of a text, is the NELBO per token. For the mask process a position that is not
    masked contributes 0 and may be left out.

    Args:
        process: The noise process that drew `noisy` at `t`.
        logits: float [M, K] over real tokens, of any floating dtype; computed in float32, or in
            float64 if they are float64.
        clean: int64 [M], x0, below K.
        noisy: int64 [M], z, up to K; a token that the process can turn x0 into.
        t: float [M], each position's time in [0, 1].
            All tensors are on one device, which must know float64 for the [M] terms.

    Returns:
        float32 [M], float64 for float64 logits, at least 0 up to rounding; differentiable in
        the logits once. Finite, with a finite gradient, at both ends of time.

    Raises:
        ValueError: `logits` has not K columns, or shapes disagree.
    """
    if logits.ndim != 2 or logits.shape[1] != process.vocab_size:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)}; [M, {process.vocab_size}] are needed"
        )
    if not clean.shape == noisy.shape == t.shape == logits.shape[:1]:
        raise ValueError(
            f"{logits.shape[0]} rows of logits, but clean, noisy and t of shapes "
            f"{tuple(clean.shape)}, {tuple(noisy.shape)} and {tuple(t.shape)}"
        )
    if isinstance(process, Mask):
        return _masked(process, logits, clean, noisy, t)
    loss: Tensor = _Fused.apply(logits, clean, noisy, _positions(process, clean, noisy, t))
    return loss


def _masked(process: Mask, logits: Tensor, clean: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
    """Masks: the KL is alpha times the cross-entropy, and R is 1 where w is not 0."""
    weight = process.schedule.weight(t.double().clamp(min=_FIRST))
    weight = weight * (noisy == process.mask_id)
    losses = functional.cross_entropy(_wide(logits), clean, reduction="none")
    return losses * weight.to(losses.dtype)


class _Fused(torch.autograd.Function):
    """`general_elbo` with its own gradient, keeping one [M, K] tensor, x_theta.

    With h_v = alpha x_theta(v) / p_t(v), the loss's derivative by log x_theta(v) is
    w (-q_t(v) h_v + (1 - R) h_v 1[v = z]); log-softmax turns it into the one by the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, clean: Tensor, noisy: Tensor, at: _Positions) -> Tensor:
        scores = _wide(logits)
        model = scores.softmax(-1)
        # The log of the softmax's denominator, without a second pass of exponentials.
        normaliser = scores.amax(-1).double() - model.amax(-1).double().log()
        odds = _odds(at.snr, model.dtype)
        total = torch.empty(len(model), dtype=model.dtype, device=model.device)
        for rows in _chunks(model):
            total[rows] = (model[rows] * odds[rows]).log1p_().sum(-1)
        log_clean = _at(scores, clean) - normaliser
        log_noisy = _at(scores, noisy) - normaliser
        ctx.save_for_backward(model, log_clean, log_noisy, clean, noisy)
        ctx.at, ctx.dtype = at, logits.dtype
        at_clean, at_noisy = _softplus(at.snr + log_clean), _softplus(at.snr + log_noisy)
        return at.integrand(total.double(), at_clean, at_noisy).to(model.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        model, log_clean, log_noisy, clean, noisy = ctx.saved_tensors
        at: _Positions = ctx.at
        scale = at.weight * gradients[0].double()
        # What x0 and z have besides the -m h_v of every token.
        kept = -scale * (at.kept - at.other) * torch.sigmoid(at.snr + log_clean)
        ratio = at.log_ratio(_softplus(at.snr + log_noisy))
        drawn = -scale * torch.expm1(ratio) * torch.sigmoid(at.snr + log_noisy)
        every = (-scale * at.other)[:, None].to(model.dtype)
        ids = torch.stack((clean, noisy.clamp(max=model.shape[1] - 1)), dim=1)
        added = torch.stack((kept, drawn), dim=1).to(model.dtype)
        odds = _odds(at.snr, model.dtype)
        gradient = torch.empty_like(model, dtype=ctx.dtype)
        for rows in _chunks(model):
            share = model[rows] * odds[rows]
            share /= share + 1
            share *= every[rows]
            share.scatter_add_(1, ids[rows], added[rows])
            sums = share.sum(-1, keepdim=True)
            gradient[rows] = share.addcmul_(model[rows], sums, value=-1)
        return gradient, None, None, None


def _odds(snr: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(s) as a column, kept finite; where it is not, m, which it stands by, is 0."""
    return snr.clamp(max=600 if dtype == torch.float64 else 80).exp()[:, None].to(dtype)


def _chunks(logits: Tensor) -> list[slice]:
    """Return slices of rows: few enough to stay in a CPU's cache, or to spare a GPU's memory."""
    elements = _ELEMENTS_AT_ONCE if logits.is_cpu else _ELEMENTS_AT_ONCE << 10
    rows = max(1, elements // logits.shape[1])
    return [slice(first, first + rows) for first in range(0, len(logits), rows)]
