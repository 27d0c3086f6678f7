"""What a run's folder is called: the released Quokka logs' patterns, or one of the user's."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from analysis.errors import RunTableError
from analysis.runs import COLUMNS
from analysis.runtable.schema import NUMERIC
from analysis.units import parse_quantity

_COUNT = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?[kKmMbBgGtT]?"
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"

PATTERNS: dict[str, str] = {
    "data-constrained": (
        rf"^(?P<params_M>{_COUNT})_(?P<unique_tokens>{_COUNT})_(?P<epochs>{_NUMBER})"
        rf"_(?P<anneal_steps>{_COUNT})_(?P<warmup_steps>{_COUNT})_(?P<micro_batch_size>\d+)"
        rf"_(?P<global_batch_size>\d+)_(?P<lr>{_NUMBER})$"
    ),
    "compute-constrained": (rf"^(?P<flops>{_COUNT})_(?P<params_M>{_COUNT})_(?P<tokens>{_COUNT})$"),
    "ablation": (
        r"(?:^|_)(?P<unique_tokens>\d+(?:\.\d+)?[mbtMBT])_(?P<epochs>\d+(?:\.\d+)?)e_"
        r"(?:difflm|dlm|ar)(?:_(?P<params>\d+(?:\.\d+)?[mbMB]))?(?:_|$)"
    ),
    "MaskGIT ablation": r"^mask_git_loss_(?P<tokens>\d+(?:\.\d+)?[mbtMBT])$",
}
"""Names of the released logs. A group's name is a column; `_k`, `_M`, `_B` or `_T` after it is
the unit of a number that has none."""

_ADDITIONS: dict[str, str] = {
    "lr": r"_lr_(\d[\d.e-]*)(?:_|$)",
    "global_batch_size": r"_bsz_(\d+)(?:_|$)",
    "noise_schedule": r"_schedule_(?:fixed_)?([a-z]+\d*)(?:_|$)",
    "weight_decay": r"_(0)wd(?:_|$)",
}
_UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_UNITS_TRIED = (1.0, 1e6, 1e9, 1e12)
_FEWEST_TOKENS = 1e5
_FLOPS_APART = 1.3


def read_name(parts: Sequence[str], pattern: str | None = None) -> dict[str, Any] | None:
    """Return the columns that a folder's name gives, from its deepest part that matches.

    Args:
        parts: of the folder's path.
        pattern: regular expression to use instead of the released logs'.

    Returns:
        The columns, or None where no part matches.

    Raises:
        RunTableError: the pattern is none, or a number in a name has no unit that fits.
    """
    patterns = PATTERNS if pattern is None else {"--pattern": pattern}
    for part in reversed(parts):
        for kind, expression in patterns.items():
            match = _search(expression, part)
            if match is not None:
                return _columns(match, part, kind)
    return None


def no_name(path: PurePath, pattern: str | None) -> RunTableError:
    """Return the error that shows a name and the patterns tried."""
    tried = PATTERNS if pattern is None else {"--pattern": pattern}
    listed = "\n".join(f"  {kind}: {expression}" for kind, expression in tried.items())
    return RunTableError(
        f"{path}: no part of the folder's name tells the model and its tokens, and its events "
        f"hold no hyperparameters that do. Tried:\n{listed}\nGive --pattern with named groups, "
        r"such as --pattern '(?P<params_M>\d+)M_(?P<tokens_B>[\d.]+)B_lr(?P<lr>.+)', or what "
        "holds for all runs with --constant params=300M"
    )


def _search(expression: str, part: str) -> re.Match[str] | None:
    try:
        return re.search(expression, part)
    except re.error as error:
        raise RunTableError(f"--pattern {expression!r} is no regular expression: {error}") from (
            error
        )


def _columns(match: re.Match[str], name: str, kind: str) -> dict[str, Any]:
    if not match.groupdict():
        raise RunTableError(
            f"--pattern {match.re.pattern!r} has no named group, such as (?P<params_M>\\d+)"
        )
    found: dict[str, Any] = {}
    for group, text in match.groupdict().items():
        if text is not None:
            column, value = _value(group, text, name)
            found[column] = value
    if kind == "compute-constrained":
        found = _with_unit_by_flops(found, name)
    if kind == "data-constrained" and found["unique_tokens"] < _FEWEST_TOKENS:
        raise RunTableError(
            f"{name}: {found['unique_tokens']:g} tokens have no unit; give the name's meaning "
            r"with --pattern, such as '^(?P<params_M>\d+)_(?P<unique_tokens_M>\d+)_"
            r"(?P<epochs>\d+)_.*_(?P<lr>[^_]+)$'"
        )
    if kind in ("ablation", "MaskGIT ablation"):
        found |= _ablation(name)
    if "unique_tokens" in found and "epochs" in found:
        found.setdefault("tokens", found["unique_tokens"] * found["epochs"])
    if "flops" in found and "params" in found:
        found.setdefault("tokens", found["flops"] / (6.0 * found["params"]))
    return found


def _value(group: str, text: str, name: str) -> tuple[str, Any]:
    stem, _, unit = group.rpartition("_")
    column, scale = (stem, _UNITS[unit]) if stem in COLUMNS and unit in _UNITS else (group, 1.0)
    if column in COLUMNS and column not in NUMERIC:
        return column, text
    try:
        value = parse_quantity(text.replace("b", "B").replace("m", "M").replace("t", "T"))
    except ValueError as error:
        if column in COLUMNS:
            raise RunTableError(f"{name}: {column} is {text!r}, which is no number") from error
        return column, text
    return column, value if text[-1].isalpha() else value * scale


def _with_unit_by_flops(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Settle the unit of tokens by FLOPs = 6 N D."""
    six_nd = 6.0 * found["params"] * found["tokens"]
    for unit in _UNITS_TRIED:
        if abs(math.log(found["flops"] / (six_nd * unit))) < math.log(_FLOPS_APART):
            return {**found, "tokens": found["tokens"] * unit}
    raise RunTableError(
        f"{name}: {found['flops']:g} FLOPs are not 6 N D for N = {found['params']:g} and D = "
        f"{found['tokens']:g}, or that many millions, billions or trillions; give the name's "
        "meaning with --pattern"
    )


def _ablation(name: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {"kernel": "uniform" if name.startswith("uniform") else "mask"}
    if re.search(r"(?:^|_)ar(?:_|$)", name):
        del found["kernel"]
    for column, expression in _ADDITIONS.items():
        match = re.search(expression, name)
        if match is not None:
            text = match.group(1)
            found[column] = text if column == "noise_schedule" else float(text)
    if name.startswith("mask_git"):
        found["objective"] = "maskgit"
    return found
