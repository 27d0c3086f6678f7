"""The verbs `export` and `import`."""

import argparse
from pathlib import Path

from analysis.cli.arguments import add_columns, add_json, quantity
from analysis.cli.output import check_writable, say_warnings, write, write_json
from analysis.errors import RunTableError


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` and `import`."""
    _add_export(subparsers)
    _add_import(subparsers)


def _add_export(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("export", help="write a law as Markdown, CSV and figures")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")
    verb.add_argument("--target", type=quantity, metavar="FLOPS", help="budget to show in 6ND")
    add_json(verb)
    verb.set_defaults(func=run_export)


def _add_import(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("import", help="turn tables of other names into a run table")
    verb.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="CSV or Parquet")
    verb.add_argument("--out", type=Path, required=True, metavar="RUNS", help="CSV or Parquet")
    add_columns(verb)
    add_json(verb)
    verb.set_defaults(func=run_import)


def run_export(options: argparse.Namespace) -> int:
    """Write a law's page, tables and figures; print the paths."""
    from analysis.export import export_law
    from analysis.lawfile import load_law

    law = load_law(options.law)
    check_writable(options.out)
    paths = [str(path) for path in export_law(law, options.out, options.target)]
    if options.json:
        write_json({"files": paths, "warnings": law.notes})
    else:
        write("\n".join(paths) + "\n")
        say_warnings(law.notes)
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Write one run table from tables of other names, checked."""
    from analysis.runs import read_runs, validate_runs, write_runs

    if options.out.suffix not in (".csv", ".parquet"):
        raise RunTableError(f"{options.out}: name a run table that ends in .csv or .parquet")
    table = validate_runs(read_runs(options.tables, dict(options.column)), for_fit=False)
    check_writable(options.out.parent)
    write_runs(table, options.out)
    if options.json:
        write_json({"file": str(options.out), "rows": len(table)})
    else:
        write(f"{options.out}: {len(table)} rows\n")
    return 0
