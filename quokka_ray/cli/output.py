"""Where the command line prints: answers to stdout, everything else to stderr."""

import shutil
import sys

WIDTH = 80
"""Columns that sentences are filled to."""


def say(text: str) -> None:
    """Print an answer on stdout."""
    print(text)  # noqa: T201


def note(text: str) -> None:
    """Print a remark on stderr, where it disturbs no pipe."""
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(erase + text, file=sys.stderr, flush=True)  # noqa: T201


def passing(text: str) -> None:
    """Show on a terminal's stderr a line that replaces the one before; elsewhere, nothing."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = text[:width]
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)  # noqa: T201
