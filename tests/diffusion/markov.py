"""A two-state Markov source and its exact denoiser, for the tests of estimators."""

import numpy as np

TRANSITION = np.array([[0.9, 0.1], [0.2, 0.8]])
STATIONARY = np.array([2 / 3, 1 / 3])
RATE = -float((STATIONARY[:, None] * TRANSITION * np.log(TRANSITION)).sum())
"""Entropy of a token given the one before it, in nats."""


def entropy_per_token(length, transition=TRANSITION, start=STATIONARY):
    """Entropy of `length` tokens of a stationary chain over their number, in nats."""
    first = -float((start * np.log(start)).sum())
    rate = -float((start[:, None] * transition * np.log(transition)).sum())
    return (first + (length - 1) * rate) / length


def sample(generator, rows, length, transition=TRANSITION, start=STATIONARY):
    """Draw int64 [rows, length] texts of the chain."""
    tokens = np.empty((rows, length), dtype=np.int64)
    sums = transition.cumsum(1)
    tokens[:, 0] = np.searchsorted(start.cumsum(), generator.random(rows))
    for i in range(1, length):
        tokens[:, i] = (sums[tokens[:, i - 1]] < generator.random(rows)[:, None]).sum(1)
    return tokens


def masked_losses(tokens, masked):
    """Return -log p(token | unmasked tokens) at every position, [rows, length], by messages."""
    rows, length = tokens.shape
    evidence = np.where(masked[..., None], 1.0, np.eye(2)[tokens])
    forward, backward = np.empty((2, rows, length, 2))
    forward[:, 0], backward[:, -1] = STATIONARY, 1.0
    for i in range(1, length):
        # Of a token given the visible ones before it, and of the visible ones after it.
        forward[:, i] = (forward[:, i - 1] * evidence[:, i - 1]) @ TRANSITION
        forward[:, i] /= forward[:, i].sum(-1, keepdims=True)
        j = length - 1 - i
        backward[:, j] = (backward[:, j + 1] * evidence[:, j + 1]) @ TRANSITION.T
        backward[:, j] /= backward[:, j].sum(-1, keepdims=True)
    posterior = forward * backward
    posterior /= posterior.sum(-1, keepdims=True)
    return -np.log(np.take_along_axis(posterior, tokens[..., None], -1)[..., 0])
