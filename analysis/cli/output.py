"""What the verbs print: data to stdout, words to stderr."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from analysis.errors import OutputError


def write(text: str, stream: TextIO | None = None) -> None:
    """Write `text` to stdout as it is."""
    (stream or sys.stdout).write(text)


def write_json(value: Any) -> None:
    """Write plain values as JSON."""
    write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def say(text: str) -> None:
    """Write one line for the reader to stderr."""
    write(text + "\n", sys.stderr)


def say_warnings(warnings: Iterable[str]) -> None:
    """Write each warning on a line of its own to stderr."""
    for warning in warnings:
        say(f"warning: {warning}")


def check_writable(folder: Path) -> None:
    """Refuse early where `folder` cannot be made, before anything is computed or created.

    Raises:
        OutputError: something on the way is a file, or may not be written.
    """
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is not writable" if there.is_dir() else "is a file"
        raise OutputError(f"{folder}: cannot write there, since {there} {reason}; choose another")
