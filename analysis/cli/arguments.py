"""Types of arguments, and the options that several verbs share."""

import argparse
from collections.abc import Callable
from typing import Literal

from analysis.units import parse_quantity


def add_columns(verb: argparse.ArgumentParser) -> None:
    """Add `--column`."""
    verb.add_argument(
        "--column",
        type=pair("NAME=SOURCE", "loss=val_loss"),
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="take a column from another name, such as loss=val_loss; may be repeated",
    )


def add_json(verb: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    verb.add_argument("--json", action="store_true", help="print JSON")


def quantity(text: str) -> float:
    """Return a number above 0, with or without a unit."""
    try:
        value = parse_quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def delta(text: str) -> float | Literal["auto"]:
    """Return a Huber threshold, or `auto`."""
    return "auto" if text == "auto" else quantity(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Return a type: whole numbers of at least `least`, with or without a unit."""

    def parse(text: str) -> int:
        try:
            value = parse_quantity(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        if value != round(value) or value < least:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be a whole number of at least {least}"
            )
        return int(value)

    return parse


def pair(form: str, example: str) -> Callable[[str], tuple[str, str]]:
    """Return a type: two words with `=` between them."""

    def parse(text: str) -> tuple[str, str]:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise argparse.ArgumentTypeError(f"{text!r} must read {form}, such as {example}")
        return name, value

    return parse
