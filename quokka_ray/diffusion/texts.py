"""Texts in the making: their tokens, what the model is shown of them, and its calls."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quokka_ray.diffusion.canvas import Block, Canvas, best_window
from quokka_ray.diffusion.masks import stream
from quokka_ray.diffusion.objective import Denoiser

_GENERATION = 0x67656E
"""Purpose of the stream of random numbers; see `masks.stream`."""


@dataclass(frozen=True)
class Draft:
    """Texts after a step.

    Attributes:
        tokens: int64 [B, T]. A token that is not settled is the mask's id, or, under noise with
            real tokens, what it is taken for now.
        settled: bool [B, T], what will not change any more.
        step: Steps taken.
        steps: Steps planned.
        model_calls: How often the model was called.
    """

    tokens: NDArray[np.int64]
    settled: NDArray[np.bool_]
    step: int
    steps: int
    model_calls: int


class Texts:
    """A batch of B texts on one canvas of T tokens.

    Random numbers come from a stream of (seed, text, step): a text does not depend on how many
    others are made beside it, nor, beyond rounding, on the device.

    Args:
        model: On `device`; called as `model(tokens)`, or `model(tokens, time)` if `timed`.
        canvas: What is given, and what is to be written.
        seed: Of all random numbers.
        numbers: The texts' numbers, B of them.
        seq_len: Tokens that the model reads at once.
        timed: Whether the model is told the time.
        device: Where the model is.

    Attributes:
        tokens: int64 [B, T] on `device`; holes start as the mask's id.
        finished: bool [T], what is given or done.
        step: Steps taken.
        steps: Steps planned.
        calls: How often the model was called.
    """

    def __init__(
        self,
        model: Denoiser,
        canvas: Canvas,
        *,
        seed: int,
        numbers: range,
        seq_len: int,
        timed: bool,
        device: str,
    ) -> None:
        self.model = model
        self.seq_len = seq_len
        self.device = device
        self.holes = torch.from_numpy(canvas.holes).to(device)
        start = np.where(canvas.holes, model.mask_id, canvas.tokens)
        self.tokens = torch.from_numpy(np.tile(start, (len(numbers), 1))).to(device)
        self.finished = ~canvas.holes
        self.step = self.steps = self.calls = 0
        self._seed, self._numbers, self._timed = seed, numbers, timed
        self._seen: tuple[Tensor, Tensor] | None = None

    def holes_of(self, block: Block) -> Tensor:
        """Return bool [B, T]: the block's holes, the same in every text."""
        inside = torch.zeros_like(self.holes)
        inside[block.first : block.end] = self.holes[block.first : block.end]
        return inside.repeat(len(self.tokens), 1)

    def window(self, block: Block) -> tuple[int, int]:
        """Return the positions (first, end) that the model is shown to fill a block.

        Noise that looks like text is cut off where nothing else follows it.
        """
        first, end = best_window(self.finished, block, self.seq_len)
        masked = self.tokens[0, first:end].eq(self.model.mask_id).cpu().numpy()
        useful = self.finished[first:end] | masked
        useful[block.first - first : block.end - first] = True
        return first, first + int(np.flatnonzero(useful)[-1]) + 1

    def uniforms(self) -> tuple[Tensor, Tensor]:
        """Return two random numbers of each position for this step, float64 [B, T] in [0, 1)."""
        size = (2, len(self.finished))
        drawn = [
            stream(self._seed, _GENERATION, number, self.step).random(size)
            for number in self._numbers
        ]
        first, second = torch.from_numpy(np.stack(drawn, axis=1)).to(self.device)
        return first, second

    def logits(self, window: tuple[int, int], chosen: Tensor, t: float) -> Tensor:
        """Return logits [M, K] at chosen positions, seen through a window at time t.

        Args:
            window: Positions (first, end).
            chosen: bool [B, T], inside the window; texts without any are not computed.
            t: The time, for models that are told it.
        """
        inside = slice(*window)
        rows = chosen.any(1)
        hidden = self.hidden(self.tokens[rows, inside], t)
        return self.model.logits(hidden[chosen[rows, inside]])

    def hidden(self, tokens: Tensor, t: float) -> Tensor:
        """Return hidden states [B, T, d] of tokens [B, T].

        A model that is told no time is not called again for what it saw last.
        """
        if not self._timed and self._seen is not None and torch.equal(self._seen[0], tokens):
            return self._seen[1]
        with torch.no_grad():
            if self._timed:
                hidden = self.model(tokens, torch.full((len(tokens),), t, device=self.device))
            else:
                hidden = self.model(tokens)
        self.calls += 1
        self._seen = (tokens.clone(), hidden)
        return hidden

    def draft(self, *, noisy: bool = False) -> Draft:
        """Return where the texts stand. `noisy`: tokens outside `finished` may change."""
        tokens = self.tokens.cpu().numpy().copy()
        settled = tokens != self.model.mask_id
        if noisy:
            settled &= self.finished
        return Draft(tokens, settled, self.step, self.steps, self.calls)
