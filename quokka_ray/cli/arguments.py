"""What several verbs ask for: study files, and values that override theirs."""

import argparse


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the study files and `--set`."""
    parser.add_argument(
        "study",
        nargs="+",
        help="study files, later ones override; a bare name is looked up in search_spaces/",
    )
    add_set(parser)


def add_set(parser: argparse.ArgumentParser, example: str = "budget.flops=1e13") -> None:
    """Add `--set`, whose help shows an example."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override one value, such as --set {example}",
    )
