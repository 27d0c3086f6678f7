"""The verbs `predict` and `recommend`."""

import argparse
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.cli.arguments import add_json, quantity
from analysis.cli.output import say_warnings, write, write_json
from analysis.errors import AllocationError, RunTableError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.lawfile import LawFile


def add_verbs(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `predict` and `recommend`."""
    _add_predict(subparsers)
    _add_recommend(subparsers)


def _add_predict(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser("predict", help="the loss of a model of N parameters on D tokens")
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--params", type=quantity, metavar="N", help="such as 1.3B")
    verb.add_argument("--tokens", type=quantity, metavar="D", help="such as 30B")
    verb.add_argument(
        "--unique-tokens", type=quantity, metavar="U", help="of repeated data; unset: one epoch"
    )
    verb.add_argument(
        "--points", type=Path, metavar="CSV", help="rows of params, tokens[, unique_tokens]"
    )
    add_json(verb)
    verb.set_defaults(func=run_predict)


def _add_recommend(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    verb = subparsers.add_parser(
        "recommend",
        help="what to train for a compute budget, a data budget, or both",
        description="The best model and its tokens for a compute budget, a number of unique "
        "tokens, or both; with --params, how often to repeat the unique tokens.",
    )
    verb.add_argument("law", type=Path, metavar="LAW", help="law.json or its folder")
    verb.add_argument("--flops", type=quantity, metavar="C", help="compute budget, 6ND")
    verb.add_argument(
        "--unique-tokens", type=quantity, metavar="U", help="distinct tokens available"
    )
    verb.add_argument(
        "--more-unique-tokens",
        type=quantity,
        nargs="+",
        metavar="U",
        help="with --unique-tokens: corpora to compare with (default: 3 and 10 times as many)",
    )
    verb.add_argument(
        "--inference-tokens",
        type=quantity,
        metavar="T",
        help="tokens to serve: adds the model that is cheapest over its lifetime",
    )
    verb.add_argument(
        "--passes",
        type=quantity,
        default=1.0,
        metavar="K",
        help="passes of the network for each token served (default: 1; a diffusion model: its "
        "denoising steps per token)",
    )
    verb.add_argument(
        "--params",
        type=quantity,
        metavar="N",
        help="with --unique-tokens alone: the best epochs of a model of this size",
    )
    add_json(verb)
    verb.set_defaults(func=run_recommend)


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
        return _predict_many(law, options)
    found = law.predict(options.params, options.tokens, options.unique_tokens)
    decades = float(found.extrapolation_decades[0])
    loss = {k: float(getattr(found, k)[0]) for k in ("value", "low", "high")}
    warnings = law.warnings
    if decades > 0:
        warnings.append(f"the point lies {decades:.2g} decades beyond the runs")
    repeats = options.unique_tokens is not None and options.unique_tokens < options.tokens
    if repeats and not law.state.law.needs_unique:
        warnings.append(_TOO_GOOD)
    if options.json:
        write_json({"loss": loss, "extrapolation_decades": decades, "warnings": warnings})
    else:
        write(f"loss {loss['value']:.4f}  ({loss['low']:.4f} to {loss['high']:.4f})\n")
        say_warnings(warnings)
    return 0


_TOO_GOOD = "this law takes repeated tokens for new ones; its loss is too good"


def _predict_many(law: "LawFile", options: argparse.Namespace) -> int:
    table = read_points(options.points)
    unique = table.get("unique_tokens", options.unique_tokens)
    found = law.predict(table["params"], table["tokens"], unique)
    table = table.assign(
        loss=found.value,
        low=found.low,
        high=found.high,
        extrapolation_decades=found.extrapolation_decades,
    )
    repeats = unique is not None and bool((table["tokens"] > unique).any())
    if repeats and not law.state.law.needs_unique:
        say_warnings([_TOO_GOOD])
    if options.json:
        write_json(json.loads(table.to_json(orient="records")))
    else:
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        write(buffer.getvalue())
    return 0


def read_points(path: Path) -> "pd.DataFrame":
    """Read rows of `params`, `tokens` and maybe `unique_tokens`, units allowed.

    Raises:
        RunTableError: names the row that is no count.
    """
    from analysis.runs import parse_numbers, read_table

    table = read_table(path)
    for column in ("params", "tokens"):
        if column not in table:
            raise RunTableError(f"{path}: no column {column!r}; --points needs params and tokens")
    for column in ("params", "tokens", "unique_tokens"):
        if column not in table:
            continue
        values = parse_numbers(table[column])[0]
        wrong = ~(values > 0) | values.map(math.isinf)
        if wrong.any():
            number = int(wrong.to_numpy().argmax()) + 1
            raise RunTableError(f"{path}: row {number} has no {column} above 0")
        table[column] = values
    return table


def run_recommend(
    options: argparse.Namespace, complete: Callable[[dict[str, Any]], None] = lambda answer: None
) -> int:
    """Print what to train for a budget, or how often to repeat data.

    Args:
        options: the parsed verb.
        complete: adds to the answer what a caller knows of the model family, such as its shape.
    """
    from analysis.allocation import recommend
    from analysis.cli.recommending import recommendation_text
    from analysis.lawfile import load_law

    if options.params is not None:
        return _limit_of_epochs(options)
    law = load_law(options.law)
    answer = recommend(
        law,
        options.flops,
        options.unique_tokens,
        options.inference_tokens,
        passes_per_token=options.passes,
    )
    complete(answer)
    more = _value_of_more(law, options, answer)
    if options.json:
        write_json(answer)
    else:
        schedule = law.state.response.best_schedule
        write(recommendation_text(answer, options.flops, schedule) + more)
        say_warnings(answer["warnings"])
    return 0


def _value_of_more(law: "LawFile", options: argparse.Namespace, answer: dict[str, Any]) -> str:
    """Set `more_data` of an answer about unique tokens, and return it as lines."""
    from analysis.cli.recommending import more_data_text
    from analysis.more_data import value_of_data

    wanted = options.more_unique_tokens
    if options.unique_tokens is None or not law.state.law.needs_unique:
        if wanted:
            raise AllocationError(
                "--more-unique-tokens asks what a larger corpus would buy: give --unique-tokens "
                "with it, and a law of repeated data"
            )
        return ""
    factors = [u / options.unique_tokens for u in wanted] if wanted else [3.0, 10.0]
    rows = value_of_data(law.state, options.unique_tokens, options.flops, factors)
    answer["more_data"] = [row.as_dict() for row in rows]
    return more_data_text(rows)


def _limit_of_epochs(options: argparse.Namespace) -> int:
    from analysis.cli.recommending import epochs_text
    from analysis.epochs import epochs_limit
    from analysis.lawfile import load_law

    if options.unique_tokens is None or options.flops is not None:
        raise AllocationError(
            "--params asks how often to repeat data: give --unique-tokens with it, and no --flops"
        )
    law = load_law(options.law)
    limit = epochs_limit(law, options.params, options.unique_tokens)
    answer = {**limit.as_dict(), "warnings": [*law.warnings, *limit.warnings]}
    if options.json:
        write_json(answer)
    else:
        write(epochs_text(limit))
        say_warnings(answer["warnings"])
    return 0
