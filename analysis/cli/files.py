"""The verbs `export` and `import`."""

import argparse
from pathlib import Path

from analysis.cli.arguments import add_columns, add_json, pair, quantity, whole_number
from analysis.cli.output import check_writable, say, say_warnings, write, write_json
from analysis.errors import RunTableError
from analysis.importers.options import KINDS, STEPS


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export` and `import`."""
    _add_export(subparsers)
    _add_import(subparsers)


def _add_export(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("export", help="write a law as Markdown, CSV and figures")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    verb.add_argument("--target", type=quantity, metavar="FLOPS", help="budget to show in 6ND")
    add_json(verb)
    verb.set_defaults(func=run_export)


def _add_import(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser(
        "import",
        help="make a run table of other tables, TensorBoard, Optuna or Ray Tune results",
        description="Make one checked run table of tables under other names, of folders of "
        "TensorBoard event files, Optuna journals or databases, or Ray Tune result folders.",
    )
    verb.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a file, a folder, or a database's URL"
    )
    verb.add_argument(
        "--from",
        dest="kind",
        choices=("auto", *KINDS),
        default="auto",
        help="what SOURCE is (default: auto, by its content)",
    )
    verb.add_argument("--out", type=Path, required=True, metavar="RUNS", help="CSV or Parquet")
    add_columns(verb)
    verb.add_argument(
        "--constant",
        type=pair("NAME=VALUE", "flops_convention=6nd"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a column for all rows, such as params=300M; may be repeated",
    )
    verb.add_argument(
        "--results",
        choices=("auto", "last", "all"),
        default="auto",
        help="observations of a run to take; auto: all of a TensorBoard validation loss, else "
        "the last",
    )
    board = verb.add_argument_group("TensorBoard")
    board.add_argument("--tag", help="of the loss, such as 'lm loss validation'")
    board.add_argument(
        "--pattern",
        metavar="REGEX",
        help=r"named groups for folder names, such as '(?P<params_M>\d+)M_(?P<tokens_B>\d+)B'",
    )
    board.add_argument(
        "--smooth",
        type=whole_number(1),
        default=301,
        metavar="STEPS",
        help="Gaussian window over a training loss before its end is taken (default: 301)",
    )
    study = verb.add_argument_group("Optuna")
    study.add_argument("--study-name", metavar="NAME", help="needed where there are several")
    study.add_argument(
        "--step", choices=STEPS, help="take intermediate values too; their steps count this"
    )
    trials = verb.add_argument_group("Ray Tune")
    trials.add_argument("--loss-metric", metavar="NAME", help="default: loss or val_loss")
    trials.add_argument("--tokens-metric", metavar="NAME", help="default: tokens")
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
    """Write one checked run table of all sources; say what was assumed and left out."""
    from analysis.importers import ImportOptions, import_runs
    from analysis.runs import validate_runs, write_runs

    if options.out.suffix not in (".csv", ".parquet"):
        raise RunTableError(f"{options.out}: name a run table that ends in .csv or .parquet")
    check_writable(options.out.parent)
    asked = ImportOptions(
        columns=dict(options.column),
        constants=dict(options.constant),
        results=options.results,
        tag=options.tag,
        pattern=options.pattern,
        window=options.smooth,
        study_name=options.study_name,
        step=options.step,
        loss_metric=options.loss_metric,
        tokens_metric=options.tokens_metric,
    )
    found = import_runs(options.sources, options.kind, asked)
    warnings = []
    try:
        validate_runs(found.table)
    except RunTableError as error:
        warnings.append(f"no law can be fitted to this table as it is: {error}")
    write_runs(found.table, options.out)
    rows = len(found.table)
    if options.json:
        write_json(
            {"file": str(options.out), "rows": rows, "notes": found.notes, "warnings": warnings}
        )
        return 0
    write(f"{options.out}: {rows} row{'' if rows == 1 else 's'}\n")
    for note in found.notes:
        say(f"note: {note}")
    say_warnings(warnings)
    return 0
