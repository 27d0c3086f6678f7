"""The family of shapes: one smooth ladder from thousands to billions of parameters.

A law needs sizes that differ in size alone, so width and depth follow one curve and the width of
a head never changes. Two layers up to a width of about 140; then a layer for every 57 of width,
the aspect of published models of a hundred million parameters; beyond 1024 depth grows as
width ** 0.6, which gives 18 layers at 1024, 27 at 2048 and 41 at 4096, near the sizes of
Quokka's Table 6. As there, deeper versions of a width fill the gap before the next one.

`model.family: quokka` takes the paper's own 55 sizes instead, from 7M to 15B parameters with its
vocabulary.
"""

import itertools
import math
from bisect import bisect_left
from functools import lru_cache

from quokka_ray.errors import ConfigurationError
from quokka_ray.model.counts import count_params
from quokka_ray.model.paper_sizes import PAPER_SIZES
from quokka_ray.study.config import ModelConfig
from quokka_ray.study.trajectory import Shape

_WIDEST = 16_384
_WIDTH_STEP = 1.06  # Thins a family of narrow heads, whose multiples lie ever closer together.
_EXTRA_DEPTH = 1.25  # How far a filler's depth may leave the curve.
_CLEAR = 1.08  # A filler is worth its place only if it is this far from both neighbours.


def depth_of(d_model: int) -> int:
    """Return the layers of a width: at least 2, and growing smoothly with `d_model`."""
    if d_model <= 1024:
        return max(2, round(d_model / 57))
    return round(18 * (d_model / 1024) ** 0.6)


def make_shape(d_model: int, layers: int, model: ModelConfig) -> Shape:
    """Return the shape of one width and depth; the gated width is 8/3 of `d_model`, rounded.

    Raises:
        ConfigurationError: `d_model` is not a multiple of the family's head width.
    """
    if d_model % model.head_dim:
        raise ConfigurationError(
            f"d_model {d_model} is not a multiple of model.head_dim {model.head_dim}; "
            "choose a width that is"
        )
    units = max(1, math.floor(8 * d_model / 3 / model.ffn_multiple + 0.5))
    return Shape(
        d_model=d_model,
        layers=layers,
        heads=d_model // model.head_dim,
        ffn=units * model.ffn_multiple,
    )


def _widths(head_dim: int) -> list[int]:
    widths = [head_dim]
    while widths[-1] < _WIDEST:
        widths.append(head_dim * math.ceil(_WIDTH_STEP * widths[-1] / head_dim))
    return widths


@lru_cache(maxsize=64)
def _rungs(model: ModelConfig, vocab_size: int) -> tuple[tuple[int, Shape], ...]:
    """All (N, shape) of a family, N strictly increasing."""

    def rung(d_model: int, layers: int) -> tuple[int, Shape]:
        return priced(make_shape(d_model, layers, model))

    def priced(shape: Shape) -> tuple[int, Shape]:
        return count_params(shape, model, vocab_size), shape

    if model.family == "quokka":
        # Another vocabulary may reorder neighbours.
        by_size = dict(priced(size.shape) for size in reversed(PAPER_SIZES))
        return tuple(sorted(by_size.items()))
    on_curve = [rung(d_model, depth_of(d_model)) for d_model in _widths(model.head_dim)]
    rungs: list[tuple[int, Shape]] = []
    for here, above in itertools.pairwise(on_curve):
        rungs.append(here)
        layers = here[1].layers
        for deeper in range(layers + 1, math.floor(_EXTRA_DEPTH * layers) + 1):
            filler = rung(here[1].d_model, deeper)
            if filler[0] > _CLEAR * rungs[-1][0] and _CLEAR * filler[0] < above[0]:
                rungs.append(filler)
    return (*rungs, on_curve[-1])


def ladder(model: ModelConfig, vocab_size: int, low: float, high: float) -> list[Shape]:
    """Return the shapes with low <= N <= high, smallest first, N strictly increasing."""
    return [shape for params, shape in _rungs(model, vocab_size) if low <= params <= high]


def shape_for(params: float, model: ModelConfig, vocab_size: int) -> Shape:
    """Return the shape whose N is nearest to `params` on a logarithmic scale.

    Raises:
        ConfigurationError: `params` is not positive, or outside the ladder by more than half.
    """
    rungs = _rungs(model, vocab_size)
    smallest, largest = rungs[0][0], rungs[-1][0]
    if not smallest / 1.5 <= params <= 1.5 * largest:
        raise ConfigurationError(
            f"no shape has {params:g} parameters: with model.family {model.family}, "
            f"model.head_dim {model.head_dim} and {vocab_size} tokens sizes run from "
            f"{smallest:,} to {largest:,}; ask for one of these, or change model.head_dim"
        )
    above = bisect_left(rungs, params, key=lambda rung: rung[0])
    near = rungs[max(0, above - 1) : above + 1]
    return min(near, key=lambda rung: abs(math.log(rung[0] / params)))[1]
