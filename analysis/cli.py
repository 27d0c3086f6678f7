"""The command line of the laws: `python -m analysis VERB`. `quokka-ray` mounts the same verbs."""

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import pandas as pd

from analysis.errors import AnalysisError, OutputError, RunTableError
from analysis.units import format_quantity, parse_quantity

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
        _say(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as stop:
        return int(stop.code or 0)


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add fit, predict, recommend, export and import; each parser sets `func(args) -> int`."""
    _add_fit(subparsers)
    _add_predict(subparsers)
    _add_recommend(subparsers)
    _add_export(subparsers)
    _add_import(subparsers)


def _add_fit(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("fit", help="fit a law to run tables")
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="CSV or Parquet")
    verb.add_argument("--law", default="auto", help="auto or chinchilla (default: %(default)s)")
    verb.add_argument("--out", type=Path, metavar="DIR", help="write law.json, law.md, figures/")
    verb.add_argument(
        "--huber-delta",
        type=_delta,
        default="auto",
        metavar="DELTA",
        help="threshold on log loss; auto: 1.345 times the noise; published fits: 1e-3",
    )
    verb.add_argument("--bootstrap", type=_positive_count, default=1000, metavar="N")
    verb.add_argument("--seed", type=_seed, default=0)
    verb.add_argument(
        "--priors",
        choices=("auto", "weak", "none"),
        default="auto",
        help="weak priors on the law's parameters; auto: for fewer than 60 trajectories",
    )
    verb.add_argument(
        "--response",
        choices=("auto", "none"),
        default="auto",
        help="fit how learning rate and schedule move the loss; none: take runs as they are",
    )
    verb.add_argument(
        "--lr-prior", type=_quantity, metavar="LR", help="a learning rate thought good"
    )
    verb.add_argument("--target", type=_quantity, metavar="FLOPS", help="budget to show in 6ND")
    _add_columns(verb)
    _add_json(verb)
    verb.set_defaults(func=run_fit)


def _add_predict(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("predict", help="the loss of a model of N parameters on D tokens")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--params", type=_quantity, metavar="N", help="such as 1.3B")
    verb.add_argument("--tokens", type=_quantity, metavar="D", help="such as 30B")
    verb.add_argument("--unique-tokens", type=_quantity, metavar="U")
    verb.add_argument("--points", type=Path, metavar="CSV", help="rows of params, tokens")
    _add_json(verb)
    verb.set_defaults(func=run_predict)


def _add_recommend(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("recommend", help="what to train for a compute budget")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--flops", type=_quantity, required=True, metavar="C", help="6ND")
    verb.add_argument("--unique-tokens", type=_quantity, metavar="U")
    _add_json(verb)
    verb.set_defaults(func=run_recommend)


def _add_export(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("export", help="write a law as Markdown, CSV and figures")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR")
    verb.add_argument("--target", type=_quantity, metavar="FLOPS", help="budget to show in 6ND")
    _add_json(verb)
    verb.set_defaults(func=run_export)


def _add_import(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("import", help="turn tables of other names into a run table")
    verb.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="CSV or Parquet")
    verb.add_argument("--out", type=Path, required=True, metavar="RUNS", help="CSV or Parquet")
    _add_columns(verb)
    _add_json(verb)
    verb.set_defaults(func=run_import)


def _add_columns(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--column",
        type=_column,
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="take a column from another name, such as loss=val_loss; may be repeated",
    )


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON")


def run_fit(options: argparse.Namespace) -> int:
    """Fit a law; print its page, or the law file with `--json`; write it to `--out`."""
    from analysis.fitting.fit import fit_law
    from analysis.lawdocument import law_document
    from analysis.report import law_markdown
    from analysis.runs import read_runs

    if options.out is not None:
        _check_writable(options.out)
    runs = read_runs(options.runs, dict(options.column))
    fit = fit_law(
        runs,
        law=options.law,
        huber_delta=options.huber_delta,
        bootstrap=options.bootstrap,
        seed=options.seed,
        lr_prior=options.lr_prior,
        priors=options.priors,
        response=options.response,
    )
    if options.out is not None:
        from analysis.export import write_law

        for path in write_law(fit, options.out, options.target):
            _say(f"wrote {path}")
    if options.json:
        _print_json(law_document(fit))
    else:
        _print(law_markdown(fit, options.target))
    return 0


def run_predict(options: argparse.Namespace) -> int:
    """Print the loss at one point, or a table with the losses of many."""
    from analysis.lawfile import load_law

    one = (options.params, options.tokens)
    if options.points is None and None in one:
        raise RunTableError("predict needs --params and --tokens, or --points with a CSV of them")
    if options.points is not None and one != (None, None):
        raise RunTableError("predict takes --points, or --params with --tokens, but not both")
    law = load_law(options.law)
    if options.points is not None:
        table = _read_points(options.points)
        found = law.predict(table["params"], table["tokens"])
        table = table.assign(
            loss=found.value,
            low=found.low,
            high=found.high,
            extrapolation_decades=found.extrapolation_decades,
        )
        if options.json:
            _print_json(json.loads(table.to_json(orient="records")))
        else:
            buffer = io.StringIO()
            table.to_csv(buffer, index=False)
            _print(buffer.getvalue())
        return 0
    found = law.predict(options.params, options.tokens, options.unique_tokens)
    decades = float(found.extrapolation_decades[0])
    loss = {k: float(getattr(found, k)[0]) for k in ("value", "low", "high")}
    warnings = law.warnings
    if decades > 0:
        warnings.append(f"the point lies {decades:.2g} decades beyond the runs")
    if options.unique_tokens is not None and options.unique_tokens < options.tokens:
        warnings.append("this law takes repeated tokens for new ones; its loss is too good")
    if options.json:
        _print_json({"loss": loss, "extrapolation_decades": decades, "warnings": warnings})
    else:
        _print(f"loss {loss['value']:.4f}  ({loss['low']:.4f} to {loss['high']:.4f})\n")
        _say_warnings(warnings)
    return 0


def run_recommend(
    options: argparse.Namespace, complete: Callable[[dict[str, Any]], None] = lambda answer: None
) -> int:
    """Print what to train for a budget.

    Args:
        options: the parsed verb.
        complete: adds to the answer what a caller knows of the model family, such as its shape.
    """
    from analysis.allocation import recommend
    from analysis.lawfile import load_law

    law = load_law(options.law)
    answer = recommend(law, options.flops, options.unique_tokens)
    complete(answer)
    if options.json:
        _print_json(answer)
    else:
        schedule = law.state.response.best_schedule
        _print(recommendation_text(answer, options.flops, schedule))
        _say_warnings(answer["warnings"])
    return 0


def recommendation_text(answer: dict[str, Any], flops: float, schedule: str | None = None) -> str:
    """Return a recommendation as lines for a terminal."""

    def line(name: str, key: str, show: Any) -> str:
        e = answer[key]
        return f"{name:<15}{show(e['value'])}  ({show(e['low'])} to {show(e['high'])})"

    lines = [
        f"{'compute':<15}{flops:.3g} FLOPs (6ND)",
        line("parameters", "params", format_quantity),
        line("tokens", "tokens", format_quantity),
    ]
    if answer["epochs"]["value"] != 1:
        lines.append(line("epochs", "epochs", lambda v: f"{v:.3g}"))
    lines.append(line("loss", "loss", lambda v: f"{v:.4f}"))
    if answer["lr"] is not None:
        lines.append(f"{'learning rate':<15}{answer['lr']:.3g}")
    if schedule is not None:
        lines.append(f"{'schedule':<15}{schedule}")
    if answer["batch_tokens"] is not None:
        lines.append(f"{'batch':<15}{format_quantity(answer['batch_tokens'])} tokens, as the runs")
    if answer["shape"] is not None:
        shape = ", ".join(f"{k} {v}" for k, v in answer["shape"].items())
        lines.append(f"{'shape':<15}{shape}")
    return "\n".join(lines) + "\n"


def run_export(options: argparse.Namespace) -> int:
    """Write a law's page, tables and figures; print the paths."""
    from analysis.export import export_law
    from analysis.lawfile import load_law

    law = load_law(options.law)
    _check_writable(options.out)
    paths = [str(path) for path in export_law(law, options.out, options.target)]
    if options.json:
        _print_json({"files": paths, "warnings": law.notes})
    else:
        _print("\n".join(paths) + "\n")
        _say_warnings(list(law.notes))
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Write one run table from tables of other names, checked."""
    from analysis.runs import read_runs, validate_runs, write_runs

    if options.out.suffix not in (".csv", ".parquet"):
        raise RunTableError(f"{options.out}: name a run table that ends in .csv or .parquet")
    table = validate_runs(read_runs(options.tables, dict(options.column)), for_fit=False)
    _check_writable(options.out.parent)
    write_runs(table, options.out)
    if options.json:
        _print_json({"file": str(options.out), "rows": len(table)})
    else:
        _print(f"{options.out}: {len(table)} rows\n")
    return 0


def _read_points(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise RunTableError(f"{path}: no such file; --points names a CSV of params, tokens")
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise RunTableError(f"{path}: not a readable CSV ({error})") from error
    for column in ("params", "tokens"):
        if column not in table:
            raise RunTableError(f"{path}: no column {column!r}; --points needs params and tokens")
        values = pd.to_numeric(table[column], errors="coerce").astype("float64")
        wrong = ~(values > 0) | values.map(math.isinf)
        if wrong.any():
            number = int(wrong.to_numpy().argmax()) + 1
            raise RunTableError(f"{path}: row {number} has no {column} above 0")
        table[column] = values
    return table


def _check_writable(folder: Path) -> None:
    """Refuse early where `folder` cannot be made, before anything is computed or created."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is not writable" if there.is_dir() else "is a file"
        raise OutputError(f"{folder}: cannot write there, since {there} {reason}; choose another")


def _delta(text: str) -> float | Literal["auto"]:
    return "auto" if text == "auto" else _quantity(text)


def _quantity(text: str) -> float:
    try:
        value = parse_quantity(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def _positive_count(text: str) -> int:
    value = _quantity(text)
    if value != round(value) or value < 20:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 20")
    return int(value)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 0")
    return int(text)


def _column(text: str) -> tuple[str, str]:
    name, sign, source = text.partition("=")
    if not (name and sign and source):
        raise argparse.ArgumentTypeError(f"{text!r} must read NAME=SOURCE, such as loss=val_loss")
    return name, source


def _print(text: str, stream: TextIO | None = None) -> None:
    (stream or sys.stdout).write(text)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _say(text: str) -> None:
    _print(text + "\n", sys.stderr)


def _say_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        _say(f"warning: {warning}")
