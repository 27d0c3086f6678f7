"""A budget in, a training configuration out."""

import math
from typing import Any

from analysis.lawfile import LawFile

FAR = 2.0
"""Decades beyond the largest run after which intervals are known to be too narrow."""


def recommend(law: LawFile, flops: float, unique_tokens: float | None = None) -> dict[str, Any]:
    """Return what to train for a budget of `flops` (6 N D), ready for JSON.

    Args:
        law: a law file.
        flops: the budget.
        unique_tokens: distinct tokens available. This law takes repeated tokens for new ones.

    Returns:
        `params`, `tokens`, `epochs`, `loss` (each value, low, high; one epoch where
        `unique_tokens` is not given), `lr`, `batch_tokens`, `shape` (None where unknown; a
        caller who knows a model family fills it in), `extrapolation_decades`, `warnings`.
    """
    best = law.optimum(flops)
    warnings = law.warnings
    decades = best.extrapolation_decades
    if decades > 0:
        warnings.append(_beyond(decades, flops, law))
    epochs = {"value": 1.0, "low": 1.0, "high": 1.0}
    if unique_tokens is not None:
        epochs = {name: v / unique_tokens for name, v in best.tokens.as_dict().items()}
        if epochs["value"] > 1:
            warnings.append(
                f"the optimum repeats the data {epochs['value']:.3g} times; this law takes "
                "repeated tokens for new ones, so its loss is too good"
            )
    response = law.state.response
    lr = float(response.lr_optimum(best.params.value, best.tokens.value))
    batch = law.document.get("batch_tokens")
    if decades > 0 and not math.isnan(lr):
        warnings.append("the learning rate is extrapolated with the law; check it on a short run")
    return {
        "params": best.params.as_dict(),
        "tokens": best.tokens.as_dict(),
        "epochs": epochs,
        "loss": best.loss.as_dict(),
        "lr": None if math.isnan(lr) else lr,
        "batch_tokens": None if batch is None else int(batch),
        "shape": None,
        "extrapolation_decades": decades,
        "warnings": warnings,
    }


def _beyond(decades: float, flops: float, law: LawFile) -> str:
    low, high = law.state.validity["flops"]
    side = (
        f"above the largest run ({high:.3g}" if flops > high else f"below the smallest ({low:.3g}"
    )
    sentence = f"the budget lies {decades:.2g} decades {side} FLOPs)"
    if decades > FAR:
        sentence += "; intervals do not know by how much the law's form may fail there"
    return sentence
