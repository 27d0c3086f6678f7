"""A budget in, a training configuration out."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.answers import Source, state_of, warnings_of
from analysis.epochs import ADVICE, DataAllocation, allocate_data
from analysis.errors import AllocationError
from analysis.inference import lifetime_optimum
from analysis.lawfile import LawFile
from analysis.laws.response import Response
from analysis.reference.quokka import power_laws, published_state
from analysis.state import LawState
from analysis.units import format_flops

FAR = 2.0
"""Decades beyond the largest run after which intervals are known to be too narrow."""

_ONE = {"value": 1.0, "low": 1.0, "high": 1.0}


def recommend(
    law: Source,
    flops: float | None = None,
    unique_tokens: float | None = None,
    inference_tokens: float | None = None,
    *,
    passes_per_token: float = 1.0,
) -> dict[str, Any]:
    """Return what to train for a compute budget, a data budget or both, ready for JSON.

    Both budgets are ceilings: a law of repeated data may leave compute unspent. A law of N and D
    alone takes repeated tokens for new ones, says so, and needs a compute budget.

    Args:
        law: a law file, a fit, or a law with its numbers.
        flops: C, 6 N D; unset: compute is unlimited.
        unique_tokens: U, distinct tokens available; unset: as many as are needed.
        inference_tokens: T, tokens to serve over the model's life: adds `inference`, the model
            that reaches the same loss with the least training and inference (Sardana et al.
            2024), and leaves the rest as it is.
        passes_per_token: passes of the network for each of the T tokens; diffusion models need
            as many as they take denoising steps for each token.

    Returns:
        `params`, `tokens`, `epochs`, `loss` (each value, low, high; one epoch where
        `unique_tokens` is not given), `flops` (spent), `lr`, `batch_tokens`, `shape` (None where
        unknown; a caller who knows a model family fills it in), `extrapolation_decades`,
        `warnings`, `paper` (`paper_answer`), `mixture` (the best share of each text, where the
        runs' mixtures varied), `recipe` (the best of each other dimension that the runs varied
        in, see `Response.recommended`; `batch_tokens` is then its value, and says its
        `sequences`) and, when asked for, `inference`.

    Raises:
        AllocationError: no budget is given, or the law cannot answer for the one that is.
    """
    state = state_of(law)
    if flops is None and unique_tokens is None:
        raise AllocationError("name a compute budget, a number of unique tokens, or both")
    if flops is None and not state.law.needs_unique:
        raise AllocationError(
            f"a data budget alone needs a law of repeated data, and {state.law.name!r} takes "
            f"repeated tokens for new ones; fit one of {ADVICE}, or give a compute budget too"
        )
    if flops is None and inference_tokens is not None:
        raise AllocationError("inference_tokens needs a compute budget, which sets the loss")
    warnings = warnings_of(law)
    if unique_tokens is not None and state.law.needs_unique:
        answer = _for_data(allocate_data(state, unique_tokens, flops), warnings)
    else:
        assert flops is not None
        answer = _for_compute(state, flops, unique_tokens, warnings)
    decades = answer["extrapolation_decades"]
    lr = float(state.response.lr_optimum(answer["params"]["value"], answer["tokens"]["value"]))
    if decades > 0 and not math.isnan(lr):
        warnings.append("the learning rate is extrapolated with the law; check it on a short run")
    document = law.document if isinstance(law, LawFile) else {}
    batch, seq_len = document.get("batch_tokens"), document.get("seq_len")
    answer |= {
        "lr": None if math.isnan(lr) else lr,
        "batch_tokens": None if batch is None else int(batch),
        "shape": None,
        "extrapolation_decades": decades,
        "warnings": warnings,
        "paper": paper_answer(flops, unique_tokens),
    }
    recipe = state.response.recommended(answer["params"]["value"], answer["tokens"]["value"])
    if recipe:
        answer["recipe"] = recipe
        if "batch_tokens" in recipe:
            tokens = answer["batch_tokens"] = round(recipe["batch_tokens"]["value"])
            if seq_len:
                recipe["batch_tokens"]["sequences"] = max(1, round(tokens / seq_len))
        warnings += recipe_warnings(state.response, recipe)
    if state.response.mixture is not None:
        answer["mixture"] = state.response.mixture.shares_document()
    if inference_tokens is not None and flops is not None:
        answer["inference"] = lifetime_optimum(
            state, flops, inference_tokens, unique_tokens, passes_per_token=passes_per_token
        ).as_dict()
    return answer


def recipe_warnings(response: Response, recipe: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a reader must know of a recommended recipe: where it leaves what was tried."""
    result = []
    for column, found in recipe.items():
        if column in response.choices:
            stated = response.choices[column].names[0]
            gain = found["offsets"][stated]["value"]
            if gain > 0:
                result.append(
                    f"the law is stated for {column} {stated}; at the target {found['value']} is "
                    f"expected to be {100 * gain:.2g} % lower in loss, which is not counted"
                )
            continue
        low, high = found["tried"]
        if not low <= found["value"] <= high:
            result.append(
                f"the best {column}, {found['value']:.3g}, lies outside the runs' "
                f"({low:.3g} to {high:.3g}): check it on a short run"
            )
    return result


def _for_compute(
    state: LawState, flops: float, unique_tokens: float | None, warnings: list[str]
) -> dict[str, Any]:
    """Answer for compute, with as many new tokens as it takes."""
    best = state.optimum(flops)
    decades = best.extrapolation_decades
    if decades > 0:
        warnings.append(_beyond(decades, flops, state))
    epochs = dict(_ONE)
    if unique_tokens is not None:
        epochs = {name: v / unique_tokens for name, v in best.tokens.as_dict().items()}
        if epochs["value"] > 1:
            warnings.append(
                f"the optimum repeats the data {epochs['value']:.3g} times; this law takes "
                "repeated tokens for new ones, so its loss is too good"
            )
    return {
        "params": best.params.as_dict(),
        "tokens": best.tokens.as_dict(),
        "epochs": epochs,
        "flops": {name: float(flops) for name in _ONE},
        "loss": best.loss.as_dict(),
        "extrapolation_decades": decades,
    }


def _for_data(best: DataAllocation, warnings: list[str]) -> dict[str, Any]:
    """Answer for unique tokens."""
    warnings += best.warnings
    decades = best.extrapolation_decades
    if decades > FAR:
        warnings.append(
            f"the answer lies {decades:.2g} decades outside the runs; intervals do not know by "
            "how much the law's form may fail there"
        )
    return {
        "params": best.params.as_dict(),
        "tokens": best.tokens.as_dict(),
        "epochs": best.epochs.as_dict(),
        "flops": best.flops.as_dict(),
        "loss": best.loss.as_dict(),
        "extrapolation_decades": decades,
    }


def paper_answer(flops: float | None, unique_tokens: float | None) -> dict[str, Any]:
    """Return what the Quokka paper's own laws say of the same budgets, without intervals.

    For compute, its equation 13 and its IsoFLOP power laws, with Chinchilla's beside them; for
    unique tokens, equation 15. Their losses are in nats per GPT-2 token, of training on one
    corpus (13) or validation on another (15): compare sizes and tokens, not losses.
    """
    if unique_tokens is not None:
        best = allocate_data(published_state("eq15"), unique_tokens, flops)
        return {
            "law": "equation 15, to recovered digits",
            "params": best.params.value,
            "tokens": best.tokens.value,
            "epochs": best.epochs.value,
            "flops": best.flops.value,
            "loss": best.loss.value,
        }
    assert flops is not None
    fitted = published_state("eq13").optimum(flops)
    chinchilla = published_state("chinchilla").optimum(flops)
    (k_n, a), (k_d, b) = power_laws()
    return {
        "law": "equation 13, to recovered digits",
        "params": fitted.params.value,
        "tokens": fitted.tokens.value,
        "epochs": 1.0,
        "flops": float(flops),
        "loss": fitted.loss.value,
        "isoflop": {"params": k_n * flops**a, "tokens": k_d * flops**b},
        "chinchilla": {"params": chinchilla.params.value, "tokens": chinchilla.tokens.value},
    }


def _beyond(decades: float, flops: float, state: LawState) -> str:
    low, high = state.validity["flops"]
    side, end = ("above the largest", high) if flops > high else ("below the smallest", low)
    sentence = f"the budget lies {decades:.2g} decades {side} run ({format_flops(end)} FLOPs)"
    if decades > FAR:
        sentence += "; intervals do not know by how much the law's form may fail there"
    return sentence
