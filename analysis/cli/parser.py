"""The parser of all verbs, and what their errors end as."""

import argparse
from collections.abc import Sequence

from analysis.cli import asking, comparing, files, fitting, replaying
from analysis.cli.output import say
from analysis.errors import AnalysisError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description="Scaling laws from tables of runs."
    )
    add_verbs(parser.add_subparsers(metavar="VERB", required=True))
    try:
        options = parser.parse_args(arguments)
        return int(options.func(options))
    except AnalysisError as error:
        say(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        return int(stop.code or 0)


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the laws' verbs to a parser; each sets `func(args) -> int`."""
    fitting.add_verbs(subparsers)
    asking.add_verbs(subparsers)
    comparing.add_verbs(subparsers)
    replaying.add_verbs(subparsers)
    files.add_verbs(subparsers)
