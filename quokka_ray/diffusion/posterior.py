"""The way back: the distribution of a token at an earlier time, given the noisy one.

Noise from s to t keeps a token with probability alpha_t / alpha_s and otherwise draws from
m_t - (alpha_t / alpha_s) m_s. Bayes gives q(x_s | x_t, x_0), in which the model's distribution
stands in for x_0 (D3PM eq. 3; UDLM eq. 12): with x_theta that leaves the token's own noisy value
out, as the ELBO wants it, that is the exact posterior.
"""

import torch
from torch import Tensor

from quokka_ray.diffusion.processes import NoiseProcess


def posterior(
    process: NoiseProcess,
    logits: Tensor,
    noisy: Tensor,
    t: float | Tensor,
    s: float | Tensor,
) -> Tensor:
    """Return p(x_s | x_t), the probabilities of one ancestral step from t back to s.

    Args:
        process: The noise process.
        logits: float [M, K] over real tokens.
        noisy: int64 [M], tokens at t, up to K, on the logits' device.
        t: The later time, a number or float [M].
        s: The earlier time, the same way; 0 <= s < t <= 1. At s = 0 nothing noisy is left.

    Returns:
        float64 [M, K + 1] on the logits' device, each row summing to 1; the last column is the
        mask's. Unmasked tokens of the mask process stay what they are.

    Raises:
        ValueError: `logits` has not K columns.
    """
    return bridge(process, logits.double().softmax(-1), noisy, t, s)


def bridge(
    process: NoiseProcess,
    clean: Tensor,
    noisy: Tensor,
    t: float | Tensor,
    s: float | Tensor,
) -> Tensor:
    """Return q(x_s | x_t, x_0), x_0 being drawn from `clean`.

    Args:
        process: The noise process.
        clean: float [M, K], probabilities of x_0; one-hot rows if it is known.
        noisy: int64 [M], tokens at t, up to K, on the same device.
        t: The later time, a number or float [M].
        s: The earlier time, the same way.

    Returns:
        float64 [M, K + 1], each row summing to 1; the last column is the mask's.

    Raises:
        ValueError: `clean` has not K columns.
    """
    size = process.vocab_size
    if clean.ndim != 2 or clean.shape[1] != size:
        raise ValueError(f"probabilities of shape {tuple(clean.shape)}; [M, {size}] are needed")
    clean = clean.double()
    keep_t, mask_t, other_t = _marginal(process, t, clean)
    keep_s, mask_s, other_s = _marginal(process, s, clean)
    step = keep_t / keep_s
    masked = noisy == process.mask_id
    into_mask, into_other = mask_t - step * mask_s, other_t - step * other_s
    into_noisy = torch.where(masked[:, None], into_mask, into_other).clamp(min=0)
    # q(x_s), then times q(x_t | x_s): what noise does from anywhere, and staying.
    earlier = torch.cat((keep_s * clean + other_s, mask_s.expand(len(clean), 1)), dim=1)
    joint = earlier * into_noisy
    here = noisy[:, None]
    joint.scatter_add_(1, here, step * earlier.gather(1, here))
    total = joint.sum(1, keepdim=True)
    stays = torch.zeros_like(joint).scatter_(1, here, 1.0)
    # A token that `clean` calls impossible without noise that could have made it: it stays.
    return torch.where(total > 0, joint / total.where(total > 0, 1.0), stays)


def _marginal(
    process: NoiseProcess, t: float | Tensor, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the marginal at t as columns, float64 [M, 1] or [1, 1]."""
    times = torch.as_tensor(t, dtype=torch.float64, device=like.device).reshape(-1, 1)
    keep, mask, other = process.marginal(times)
    return keep, mask, other
