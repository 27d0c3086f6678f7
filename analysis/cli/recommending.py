"""Recommendations as lines for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.epochs import EpochsLimit
from analysis.more_data import MoreData
from analysis.reporting.recipe import recipe_rows
from analysis.units import format_flops, format_quantity


def recommendation_text(
    answer: Mapping[str, Any], flops: float | None = None, schedule: str | None = None
) -> str:
    """Return what `allocation.recommend` answers as lines.

    Args:
        answer: the recommendation.
        flops: the compute budget, where one was given.
        schedule: the learning-rate schedule that did best in the runs.
    """
    spent = answer["flops"]["value"]
    lines = []
    if flops is not None:
        lines.append(_line("compute", f"{format_flops(flops)} FLOPs (6ND)"))
    # A law of repeated data may leave compute unspent, or choose it itself.
    if flops is None or spent < 0.999 * flops:
        lines.append(_line("compute spent", _interval(answer["flops"], format_flops)))
    lines += [
        _line("parameters", _interval(answer["params"], format_quantity)),
        _line("tokens", _interval(answer["tokens"], format_quantity)),
    ]
    if answer["epochs"]["value"] != 1:
        lines.append(_line("epochs", _interval(answer["epochs"], lambda v: f"{v:.3g}")))
    lines.append(_line("loss", _interval(answer["loss"], _loss)))
    if answer["lr"] is not None:
        lines.append(_line("learning rate", f"{answer['lr']:.3g}"))
    if schedule is not None:
        lines.append(_line("schedule", schedule))
    for part, share in answer.get("mixture", {}).items():
        bounded = share["low"] is not None
        text = _interval(share, lambda v: f"{v:.0%}") if bounded else f"{share['value']:.0%}"
        lines.append(_line(f"share of {part}", text))
    recipe = answer.get("recipe", {})
    lines += [
        _line(name, f"{value}  ({beside})" if beside else value)
        for name, value, beside in recipe_rows(recipe)
    ]
    if answer["batch_tokens"] is not None and "batch_tokens" not in recipe:
        lines.append(
            _line("batch", f"{format_quantity(answer['batch_tokens'])} tokens, as the runs")
        )
    if answer["shape"] is not None:
        lines.append(_line("shape", ", ".join(f"{k} {v}" for k, v in answer["shape"].items())))
    lines += _lifetime(answer.get("inference"))
    lines += _paper(answer.get("paper"))
    return "\n".join(lines) + "\n"


def more_data_text(rows: Sequence[MoreData]) -> str:
    """Return what larger corpora would buy as lines, each corpus at its own best."""
    lines = ["", "what more unique tokens would buy, each at its own best size and epochs"]
    for row in rows:
        best = row.allocation
        gain = {name: 100.0 * (1.0 - value) for name, value in row.gain.as_dict().items()}
        # A ratio's low end is the gain's high end, unless it is told as a loss.
        sign, word = (1.0, "lower") if gain["value"] >= 0 else (-1.0, "higher")
        ends = sorted((sign * gain["low"], sign * gain["high"]))
        gain = {"value": sign * gain["value"], "low": ends[0], "high": ends[1]}
        lines.append(
            _line(
                format_quantity(best.unique_tokens),
                f"loss {best.loss.value:.4f}, {word} by "
                f"{_interval(gain, lambda v: f'{v:.2g} %')}; "
                f"N {format_quantity(best.params.value)}, {best.epochs.value:.3g} epochs",
            )
        )
    return "\n".join(lines) + "\n"


def epochs_text(limit: EpochsLimit) -> str:
    """Return how often to repeat unique tokens for one model as lines."""

    def epochs(value: float) -> str:
        return f"{value:.3g}"

    lines = [
        _line("parameters", format_quantity(limit.params)),
        _line("unique tokens", format_quantity(limit.unique_tokens)),
    ]
    if limit.epochs is None:
        lines.append(_line("epochs", "as many as you can pay for: this law gains from each"))
    else:
        lines.append(_line("epochs", _interval(limit.epochs.as_dict(), epochs)))
    lines.append(_line("loss", _interval(limit.loss.as_dict(), _loss)))
    lines.append(_line("at one epoch", _interval(limit.one_epoch_loss.as_dict(), _loss)))
    if limit.interior is None or limit.interior_loss is None:
        return "\n".join(lines) + "\n"
    if limit.epochs is not None and limit.interior == limit.epochs:
        lines.append(_line("", "more epochs degrade it"))
    else:
        lines.append(
            _line("degrades past", f"{_interval(limit.interior.as_dict(), epochs)} epochs")
        )
        lines.append(_line("loss there", _interval(limit.interior_loss.as_dict(), _loss)))
    return "\n".join(lines) + "\n"


def _lifetime(inference: Mapping[str, Any] | None) -> list[str]:
    if inference is None:
        return []
    lines = [
        "",
        f"cheapest at that loss with {format_quantity(inference['inference_tokens'])} tokens to "
        f"serve, {inference['inference_flops_per_param']:g} FLOPs per parameter and token",
    ]
    for key, name, show in (
        ("params", "parameters", format_quantity),
        ("tokens", "tokens", format_quantity),
        ("training_flops", "training", format_flops),
        ("inference_flops", "serving", format_flops),
        ("saving", "cost ratio", lambda v: f"{v:.3f}"),
    ):
        if inference.get(key) is not None:
            lines.append(_line(name, _interval(inference[key], show)))
    return lines


def _paper(paper: Mapping[str, Any] | None) -> list[str]:
    if not paper:
        return []
    epochs = "" if paper["epochs"] == 1 else f", {paper['epochs']:.3g} epochs"
    lines = [
        "",
        f"the Quokka paper, for its own corpus ({paper['law']})",
        _line("parameters", format_quantity(paper["params"])),
        _line("tokens", f"{format_quantity(paper['tokens'])}{epochs}"),
    ]
    for key, name in (("isoflop", "by IsoFLOP"), ("chinchilla", "Chinchilla")):
        if key in paper:
            params, tokens = (format_quantity(paper[key][k]) for k in ("params", "tokens"))
            lines.append(_line(name, f"{params} on {tokens} tokens"))
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:<15}{text}"


def _interval(estimate: Mapping[str, float], show: Callable[[float], str]) -> str:
    value, low, high = (show(estimate[k]) for k in ("value", "low", "high"))
    return f"{value}  ({low} to {high})"


def _loss(value: float) -> str:
    return f"{value:.4f}"
