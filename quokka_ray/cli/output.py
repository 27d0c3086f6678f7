"""Where the command line prints: answers to stdout, everything else to stderr."""

import sys


def say(text: str) -> None:
    """Print an answer on stdout."""
    print(text)  # noqa: T201


def note(text: str) -> None:
    """Print a remark on stderr, where it disturbs no pipe."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
