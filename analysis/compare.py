"""Laws beside each other: parameters, optima, the budget where one becomes better, scores."""

import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import pandas as pd

from analysis.comparison.budgets import (
    budget_row,
    crossovers,
    default_budgets,
    union_of_ranges,
)
from analysis.comparison.parameters import joint_test, parameter_rows
from analysis.comparison.scores import score
from analysis.errors import LawFileError
from analysis.lawfile import LawFile

_MOST = len(string.ascii_uppercase)


@dataclass(frozen=True)
class Comparison:
    """Several laws beside each other; every later law is held against the first.

    Attributes:
        laws: what each is: `label`, `path`, `law`, `formula`, `runs`, `evaluator`, `kernel`.
        losses_comparable: whether their losses are of the same validation data.
        reason: why not, else None.
        parameters: see `comparison.parameters.parameter_rows`.
        tests: for every later law, Wald's test of all parameters; None for another form.
        budgets: see `comparison.budgets.budget_row`.
        crossovers: for every later law, see `comparison.budgets.crossovers`; None where losses
            cannot be compared.
        scores: for every law, see `comparison.scores.score`; empty without runs, None for a law
            whose losses are not those of the runs.
        warnings: what a reader must know.
    """

    laws: list[dict[str, Any]]
    losses_comparable: bool
    reason: str | None
    unique_tokens: float | None
    parameters: list[dict[str, Any]]
    tests: list[dict[str, float] | None]
    budgets: list[dict[str, Any]]
    crossovers: list[dict[str, Any] | None]
    scores: list[dict[str, Any] | None] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare_laws(
    laws: Sequence[LawFile],
    flops: Sequence[float] = (),
    unique_tokens: float | None = None,
    runs: pd.DataFrame | None = None,
) -> Comparison:
    """Compare laws with the first of them, each an independent fit.

    Args:
        laws: two or more.
        flops: budgets in 6 N D besides the powers of ten over the laws' ranges.
        unique_tokens: distinct tokens, for laws of repeated data; unset: all tokens are new.
        runs: a checked table of runs to score the laws on.

    Raises:
        LawFileError: fewer than two laws, or more than there are letters.
    """
    if not 2 <= len(laws) <= _MOST:
        raise LawFileError(f"{len(laws)} laws; a comparison takes two to {_MOST}")
    states = [law.state for law in laws]
    labels = string.ascii_uppercase[: len(laws)]
    reason = _losses_apart(laws, labels)
    comparable = reason is None
    budgets = sorted({*default_budgets(states), *flops})
    span = union_of_ranges(states)
    scores: list[dict[str, Any] | None] = []
    warnings = _warnings(laws, labels)
    plain = [a for a, s in zip(labels, states, strict=True) if not s.law.needs_unique]
    if unique_tokens is not None and plain:
        warnings.append(
            f"{', '.join(plain)}: a law of N and D takes repeated tokens for new ones; its losses "
            "are too good where a budget repeats the data"
        )
    if runs is not None:
        scores = [
            _score(law, runs, label, warnings) for law, label in zip(laws, labels, strict=True)
        ]
    return Comparison(
        laws=[_described(law, label) for law, label in zip(laws, labels, strict=True)],
        losses_comparable=comparable,
        reason=reason,
        unique_tokens=unique_tokens,
        parameters=parameter_rows(states),
        tests=[joint_test(states[0], s) for s in states[1:]],
        budgets=[budget_row(states, c, unique_tokens, comparable) for c in budgets],
        crossovers=[
            crossovers(states[0], s, span, unique_tokens) if comparable else None
            for s in states[1:]
        ],
        scores=scores,
        warnings=warnings,
    )


def _described(law: LawFile, label: str) -> dict[str, Any]:
    document = law.document
    return {
        "label": label,
        "path": str(law.path),
        "law": document["law"],
        "formula": document.get("formula"),
        "runs": document["runs"]["count"],
        "flops": list(law.state.validity.get("flops", ())),
        **{k: document.get(k) for k in ("evaluator", "kernel", "corpus", "tokenizer")},
    }


def data_part(evaluator: object) -> str | None:
    """Return the part of an evaluator's identity, `data/bound`, that names its data."""
    return evaluator.split("/", 1)[0] if isinstance(evaluator, str) and evaluator else None


def _losses_apart(laws: Sequence[LawFile], labels: str) -> str | None:
    """Return why the laws' losses cannot be compared, or None where they can."""
    for what, of in (("evaluator", data_part), ("tokenizer", lambda v: v)):
        named = [
            (label, of(law.document.get(what))) for label, law in zip(labels, laws, strict=True)
        ]
        for (a, first), (b, second) in combinations(named, 2):
            if first and second and first != second:
                data = "validation data" if what == "evaluator" else "tokens"
                return (
                    f"{a} and {b} measure losses on different {data} ({what} {first} and "
                    f"{second}): their losses are not compared, only how N and D grow"
                )
    return None


def _warnings(laws: Sequence[LawFile], labels: str) -> list[str]:
    result = []
    unnamed = [a for a, law in zip(labels, laws, strict=True) if not law.document.get("evaluator")]
    if unnamed:
        result.append(
            f"{', '.join(unnamed)} {'names' if len(unnamed) == 1 else 'name'} no evaluator: that "
            "the losses are of the same validation data is taken on trust"
        )
    for what in ("flops_convention", "params_convention"):
        values = sorted({str(law.document.get(what)) for law in laws if law.document.get(what)})
        if len(values) > 1:
            result.append(
                f"the laws differ in {what} ({', '.join(values)}): N and C do not count the same "
                "things"
            )
    corpora = sorted({str(law.document["corpus"]) for law in laws if law.document.get("corpus")})
    if len(corpora) > 1:
        result.append(f"the laws are of different training text ({', '.join(corpora)})")
    hashes = [law.document["runs"]["hash"] for law in laws]
    if len(set(hashes)) < len(hashes):
        result.append(
            "some laws were fitted to the same runs: their errors go together, so that intervals "
            "of differences are too wide"
        )
    for label, law in zip(labels, laws, strict=True):
        result += [f"{label}: {note}" for note in law.notes]
    return result


def _score(
    law: LawFile, runs: pd.DataFrame, label: str, warnings: list[str]
) -> dict[str, Any] | None:
    own = data_part(law.document.get("evaluator"))
    given = {data_part(v) for v in runs["evaluator"].dropna()} if "evaluator" in runs else set()
    if own and given and given != {own}:
        warnings.append(
            f"{label} is not scored: the runs' losses are of {', '.join(map(str, given))}, its "
            f"own of {own}"
        )
        return None
    result = score(law, runs)
    if result["seen"]:
        warnings.append(
            f"{result['seen']} of the {len(runs)} rows are among the runs that {label} was fitted "
            "to: its score flatters it"
        )
    return result
