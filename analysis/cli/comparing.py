"""The verb `compare`."""

import argparse
import json
from pathlib import Path

from analysis.cli.arguments import add_columns, add_json, quantity
from analysis.cli.output import check_writable, say, write, write_json


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `compare`."""
    verb = subparsers.add_parser(
        "compare",
        help="two or more laws beside each other",
        description="Hold laws against the first of them: parameters, optima, the budget where "
        "another becomes better and, with --runs, scores on held-out runs.",
    )
    verb.add_argument("laws", nargs="+", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument(
        "--flops",
        type=quantity,
        action="append",
        default=[],
        metavar="C",
        help="a budget in 6ND besides powers of ten over the laws' ranges; may be repeated",
    )
    verb.add_argument("--unique-tokens", type=quantity, metavar="U")
    verb.add_argument(
        "--runs",
        type=Path,
        action="append",
        default=[],
        metavar="TABLE",
        help="score the laws on these runs, CSV or Parquet",
    )
    add_columns(verb)
    verb.add_argument("--out", type=Path, metavar="DIR", help="write compare.md and compare.json")
    add_json(verb)
    verb.set_defaults(func=run_compare)


def run_compare(options: argparse.Namespace) -> int:
    """Print laws beside each other as Markdown or JSON; write both to `--out`."""
    from analysis.compare import compare_laws
    from analysis.comparison.page import comparison_markdown
    from analysis.export import write_text
    from analysis.lawfile import load_law
    from analysis.runs import read_runs, validate_runs

    if options.out is not None:
        check_writable(options.out)
    laws = [load_law(path) for path in options.laws]
    runs = None
    if options.runs:
        runs = validate_runs(read_runs(options.runs, dict(options.column)))
    found = compare_laws(laws, options.flops, options.unique_tokens, runs)
    page, document = comparison_markdown(found), found.as_dict()
    if options.out is not None:
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        for name, content in (("compare.md", page), ("compare.json", text)):
            say(f"wrote {write_text(content, options.out / name)}")
    if options.json:
        write_json(document)
    else:
        write(page)
    return 0
