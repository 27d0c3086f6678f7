"""How far to trust the fit: its optimum, the runs it hangs on, other approaches, coverage."""

from collections.abc import Mapping, Sequence
from typing import Any


def search_lines(document: Mapping[str, Any]) -> list[str]:
    """Return whether the fit's optimum is the global one, and the runs with most influence."""
    check = document.get("global_check")
    lines = ["## Whether it is the best fit", ""] if check else []
    if check:
        lines += [_global_sentence(check), ""]
    if not document["fit"]["converged"]:
        lines += ["The fit did not converge.", ""]
    return lines


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
