"""How far to trust the fit: its optimum, the runs it hangs on, other approaches, coverage."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.gates import DECISIVE
from analysis.units import format_quantity

_FAR = 10.0
_SHIFTS = ("shift_ln_params", "shift_ln_loss")


def search_lines(document: Mapping[str, Any]) -> list[str]:
    """Return whether the fit's optimum is the global one, and the runs with most influence."""
    check = document.get("global_check")
    lines = ["## Whether it is the best fit", ""] if check else []
    if check:
        lines += [_global_sentence(check), ""]
    if not document["fit"]["converged"]:
        lines += ["The fit did not converge.", ""]
    lines += _form_lines(document.get("form"))
    return lines + _influence_lines(document.get("influence"))


def _form_lines(form: Mapping[str, Any] | None) -> list[str]:
    if not form:
        return []
    return [
        f"Evidence against the five-parameter form, as odds: {form['total']:.2g} (coupling, drift "
        f"and offsets {form['directions']:.2g}; a break in compute {form['hinges']:.2g}; a smooth "
        f"misfit {form['smooth']:.2g}). It is decisive from {DECISIVE:.0f}, however often it is "
        "read.",
        "",
    ]


def _influence_lines(influence: Mapping[str, Any] | None) -> list[str]:
    if not influence or not influence["trajectories"]:
        return []
    lines = [
        "## Most influential runs",
        "",
        f"What leaving a run out would do, at {influence['flops']:.3g} FLOPs. Above a distance of "
        "1 the law without it lies at the edge of what its interval allows; far: beyond what one "
        "step from the fit can tell.",
        "",
        "| run | N | D | observations | distance | best N | loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for run in influence["trajectories"]:
        size = ["" if run[k] is None else format_quantity(run[k]) for k in ("params", "tokens")]
        # One step from the fit is no guide to where a fit that moves so far would end.
        far = run["distance"] > _FAR
        moved = ["far" if far else f"{100 * math.expm1(run[k]):+.2g} %" for k in _SHIFTS]
        lines.append(
            f"| {run['trajectory']} | {size[0]} | {size[1]} | {run['rows']:.0f} "
            f"| {run['distance']:.2g} | {moved[0]} | {moved[1]} |"
        )
    return [*lines, ""]


def _global_sentence(check: Mapping[str, Any]) -> str:
    text = f"{check['starts']} starts of two searches ended in "
    if check["minima"] == 1:
        text += "one law."
    else:
        text += f"{check['minima']} different laws; the next one"
        gap = check["gap"]
        text += "'s objective is not known." if gap is None else f" lies {gap:.3g} above the fit."
    if check["found_by_regrid"]:
        text += " Only the second search found the law: there may be a better one still."
    if check["resamples"]:
        text += (
            f" Of {check['resamples']} resamples, {check['improved'] or 0} had a better law than "
            "the one next to the fit."
        )
    return text


def approach_lines(approaches: Mapping[str, Any] | None) -> list[str]:
    """Return what each approach says of one budget, these runs' and published ones."""
    if not approaches:
        return []
    lines = [
        "## Approaches side by side",
        "",
        f"For {approaches['flops']:.3g} FLOPs, the largest run. The bias is what an approach gets "
        "wrong where the law is the truth, at these runs' own sizes.",
        "",
        "| | approach | a in N ~ C^a | N | D | bias of N |",
        "| --- | --- | --- | --- | --- | ---: |",
    ]
    notes = []
    for row in approaches["rows"]:
        bias = row["params_bias"]
        lines.append(
            f"| {row['source']} | {row['approach']} | {_ranged(row, 'a', '{:.3f}'.format)} "
            f"| {_ranged(row, 'params', format_quantity)} "
            f"| {_ranged(row, 'tokens', format_quantity)} "
            f"| {'' if bias is None else f'{100 * math.expm1(bias):+.1f} %'} |"
        )
        if row["note"]:
            notes.append(f"- {row['source']}, {row['approach']}: {row['note']}.")
    return [*lines, "", *notes, ""]


def _ranged(row: Mapping[str, Any], name: str, show: Callable[[float], str]) -> str:
    value, low, high = (row[k] for k in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    return show(value) if low is None else f"{show(value)} ({show(low)} to {show(high)})"


def calibration_lines(calibration: Mapping[str, Any]) -> list[str]:
    """Return how often intervals have covered, with each test on the law's own runs."""
    from analysis.calibration import sentence

    if "splits" not in calibration:
        return []
    lines = ["## Calibration", "", sentence(dict(calibration)), ""]
    splits: Sequence[Mapping[str, Any]] = calibration["splits"]
    if not splits:
        return lines
    lines += [
        "| runs held out above | fitted | held out | decades beyond | covered | half width "
        "| RMSE of log loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for split in splits:
        lines.append(
            f"| 1/{split['hold_out']:g} of the largest C | {split['kept']} | {split['held_out']} "
            f"| {split['decades']:.2g} | {split['coverage']:.0%} | {split['half_width']:.2%} "
            f"| {split['rmse']:.2%} |"
        )
    return [*lines, ""]
