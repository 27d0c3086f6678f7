"""Denoisers whose exact losses are known, for the tests of the objective and the likelihood."""

import torch
from torch import Tensor


class TableDenoiser:
    """Predicts from a function of the noisy text: `table(tokens)` gives log-probabilities."""

    def __init__(self, mask_id, table):
        self.mask_id = mask_id
        self._table = table

    def __call__(self, tokens: Tensor, time: Tensor | None = None) -> Tensor:
        return self._table(tokens)

    def logits(self, rows: Tensor) -> Tensor:
        return rows


def unigram(probabilities):
    """The exact denoiser of an independent source: it ignores what it sees."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log()
    return TableDenoiser(len(probabilities), lambda x: logits.expand(*x.shape, -1))


def markov_pair(joint):
    """The exact denoiser of two-token texts with a joint distribution [K, K]."""
    joint = torch.as_tensor(joint, dtype=torch.float64)
    mask = joint.shape[0]
    marginals = torch.stack((joint.sum(1), joint.sum(0)))
    given_other = torch.stack((joint.T / joint.sum(0)[:, None], joint / joint.sum(1)[:, None]))

    def table(tokens):
        rows = [
            torch.stack(
                [
                    marginals[i] if row[1 - i] == mask else given_other[i, row[1 - i]]
                    for i in (0, 1)
                ]
            )
            for row in tokens
        ]
        return torch.stack(rows).log()

    return TableDenoiser(mask, table)
