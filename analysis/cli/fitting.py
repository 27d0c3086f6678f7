"""The verb `fit`."""

import argparse
from pathlib import Path

from analysis.cli.arguments import add_columns, add_json, delta, quantity, whole_number
from analysis.cli.output import check_writable, say, write, write_json
from analysis.errors import RunTableError
from analysis.laws.base import law_names

_OWN = "own_formula"


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `fit`."""
    verb = subparsers.add_parser("fit", help="fit a law to run tables")
    verb.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="CSV or Parquet")
    verb.add_argument(
        "--law",
        choices=("auto", *law_names()),
        default="auto",
        metavar="LAW",
        help="auto (super with what its form misses, chinchilla where a fit like published ones "
        f"is asked for), or one of {', '.join(law_names())} (default: %(default)s)",
    )
    verb.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write law.json, law.md, law.tex, tables and figures/",
    )
    verb.add_argument(
        "--huber-delta",
        type=delta,
        default="auto",
        metavar="DELTA",
        help="threshold on log loss; auto: 1.345 times the noise; published fits: 1e-3",
    )
    verb.add_argument(
        "--bootstrap",
        type=whole_number(20),
        default=1000,
        metavar="N",
        help="resamples, or draws of the posterior beside a discrepancy (default: 1000)",
    )
    verb.add_argument("--seed", type=whole_number(0), default=0, help="of resamples (default: 0)")
    verb.add_argument(
        "--priors",
        choices=("auto", "weak", "none"),
        default="auto",
        help="weak priors on the law's parameters; auto: for fewer than 60 trajectories",
    )
    verb.add_argument(
        "--discrepancy",
        choices=("auto", "none"),
        default="auto",
        help="fit what the law's form misses with it, for intervals that cover; auto: for laws "
        "of N and D, unless --huber-delta or --priors none ask for a fit like published ones",
    )
    verb.add_argument(
        "--formula",
        metavar="TEXT",
        help="fit a formula of your own, such as 'E + A/N**alpha + B/D**beta', in N, D, and "
        "U and e for repeated data",
    )
    verb.add_argument(
        "--verify",
        action="store_true",
        help="search for a better optimum of each resample too; takes several times as long",
    )
    verb.add_argument(
        "--response",
        choices=("auto", "none"),
        default="auto",
        help="fit how learning rate and schedule move the loss; none: take runs as they are",
    )
    verb.add_argument(
        "--lr-prior", type=quantity, metavar="LR", help="a learning rate thought good"
    )
    verb.add_argument(
        "--per-decade",
        type=quantity,
        metavar="ROWS",
        help="keep so many rows of each curve for a factor of ten in tokens (default: all)",
    )
    verb.add_argument("--target", type=quantity, metavar="FLOPS", help="budget to show in 6ND")
    add_columns(verb)
    add_json(verb)
    verb.set_defaults(func=run_fit)


def run_fit(options: argparse.Namespace) -> int:
    """Fit a law; print its page, or the law file with `--json`; write it to `--out`."""
    from analysis.fitting.fit import fit_law
    from analysis.lawdocument import law_document
    from analysis.report import default_budgets, document_markdown, optimum_table
    from analysis.runs import read_runs, validate_runs

    if options.out is not None:
        check_writable(options.out)
    runs = read_runs(options.runs, dict(options.column))
    if options.per_decade is not None:
        from analysis.spacing import log_spaced

        runs = log_spaced(validate_runs(runs), options.per_decade)
    fit = fit_law(
        runs,
        law=_law(options),
        huber_delta=options.huber_delta,
        bootstrap=options.bootstrap,
        seed=options.seed,
        lr_prior=options.lr_prior,
        priors=options.priors,
        response=options.response,
        discrepancy=options.discrepancy,
        verify=options.verify,
    )
    if options.out is None:
        document = law_document(fit)
    else:
        from analysis.export import write_law
        from analysis.lawfile import load_law

        for path in write_law(fit, options.out, options.target):
            say(f"wrote {path}")
        document = load_law(options.out).document
    if options.json:
        write_json(document)
    else:
        optima = optimum_table(fit.state, default_budgets(fit.state, options.target))
        write(document_markdown(document, fit.state, fit.runs, optima))
    return 0


def _law(options: argparse.Namespace) -> str:
    """Return the name of the law to fit; one from `--formula` is registered first."""
    if options.formula is None:
        return str(options.law)
    from analysis.laws.formula import register_formula

    if options.law != "auto":
        raise RunTableError("--formula is a law of its own: leave out --law")
    return register_formula(_OWN, options.formula).name
