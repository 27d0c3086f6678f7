"""Drawing tokens from logits: temperature, top-p, and a categorical draw, all in float64.

In float32 the largest noise that a draw can meet is cut off, which acts like a lower temperature
and makes text more repetitive than the model is (arXiv 2409.02908). Everything here is float64.
A token is found by inverting the cumulative sum at one uniform number: the same law as the
maximum over Gumbel noise, for a K-th of the random numbers, and the same on every device.
"""

import torch
from torch import Tensor


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most probable tokens whose mass reaches `top_p`, and renormalise.

    Args:
        probabilities: float64 [M, K], rows summing to one, on any device. Among equal ones the
            lower id counts as the more probable.
        top_p: In (0, 1]; 1 keeps everything.

    Returns:
        float64 [M, K], zero outside the kept set.
    """
    if top_p >= 1:
        return probabilities
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = torch.zeros_like(ranked)
    before[:, 1:] = ranked.cumsum(-1)[:, :-1]
    ranked = ranked.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, order, ranked)
    return kept / kept.sum(-1, keepdim=True)


def token_probabilities(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the law that tokens are drawn from, float64 [M, K].

    Args:
        logits: [M, K], any floating type and device.
        temperature: Logits are divided by it; 0 puts all mass on the largest (of equals, one).
        top_p: See `nucleus`; applied after the temperature.
    """
    logits = logits.double()
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    return nucleus((logits / temperature).softmax(-1), top_p)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Return one token of each row, int64 [M]; none has probability zero.

    Args:
        probabilities: float64 [M, K], nonnegative; rows need not sum to one.
        uniforms: float64 [M] in [0, 1), on the same device.
    """
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniforms * total, below)
    return torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)
