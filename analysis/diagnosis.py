"""What the runs decide about a law and what they do not, in words."""

from typing import TYPE_CHECKING

import numpy as np

from analysis.uncertainty import Estimate

if TYPE_CHECKING:
    from analysis.fitting.result import Fit

_WIDEST = {"scale": np.log(3.0), "exponent": 0.35, "floor": 0.15, "shape": np.log(2.0)}
"""Half width of a 90 % interval, in the logarithm, up to which a parameter counts as identified:
a factor of 3 for A and B, 35 % for exponents, 15 % for E, whose error adds to every prediction."""

_LEAST_DECADES = 2.0
"""Compute that runs must span before E counts as identified: over less, the loss has not bent
enough to show its floor, and E, with alpha, moves by several standard errors as larger runs come,
however narrow its interval is."""

_FEW = 24
"""Trajectories under which intervals far out were seen to hold less often than they say, with
none of the corrections that were tried any better (docs/log.md)."""

_LEAST_LEARNED = 0.5
"""Share of a prior's spread that the runs must have removed."""


def identified(fit: "Fit") -> dict[str, bool]:
    """Return, for each parameter of the law, whether the runs decide it if the form is right.

    That is a question to the runs: whether their sizes could tell parameters apart. How far the
    form may be wrong is another, which the intervals answer.
    """
    result = {}
    widths = _relative_widths(fit)
    learned = fit.learned if fit.learned.size else np.ones(len(fit.law.parameters))
    for index, (name, kind) in enumerate(zip(fit.law.parameters, fit.law.kinds, strict=True)):
        narrow = widths[index] <= _WIDEST[kind]
        free = not (fit.at_bound.size and fit.at_bound[index])
        # Only exponents and shapes mean the same before and after centring.
        told = kind in ("floor", "scale") or learned[index] > _LEAST_LEARNED
        spanned = kind != "floor" or _decades(fit) >= _LEAST_DECADES
        result[name] = bool(narrow and free and told and spanned)
    if fit.settings.law_prior:
        # A floor or a scale that rests on an exponent which a prior decides is a prior's too.
        kinds = dict(zip(fit.law.parameters, fit.law.kinds, strict=True))
        if not any(result[name] for name, kind in kinds.items() if kind == "exponent"):
            result |= {n: False for n, kind in kinds.items() if kind in ("floor", "scale")}
    if fit.response.lr_fitted:
        first = len(fit.law.parameters)
        result["lr"] = bool(fit.learned[first + 1] > _LEAST_LEARNED)
        result["lr_slopes"] = bool((fit.learned[first + 2 : first + 4] > _LEAST_LEARNED).all())
    design = None if fit.problem is None else fit.problem.design
    for column in fit.response.bowls:
        if design is None:
            break
        best = len(fit.law.parameters) + design.places[column].start + 1
        result[column] = bool(fit.learned[best] > _LEAST_LEARNED)
    return result


def _relative_widths(fit: "Fit") -> list[float]:
    """Return half the width of each parameter's interval in its logarithm, were the form right."""
    if fit.discrepancy is None:
        return [fit.parameters[name].relative_width for name in fit.law.parameters]
    half = 1.645 * fit.form_spread
    ends = (fit.law.natural(fit.theta - half), fit.law.natural(fit.theta + half))
    return [
        Estimate(value, low, high).relative_width
        for value, low, high in zip(fit.law.natural(fit.theta), *ends, strict=True)
    ]


def _count(fit: "Fit") -> int:
    return fit.runs["trajectory"].nunique() if "trajectory" in fit.runs else len(fit.runs)


def _trajectories(fit: "Fit") -> str:
    return f"{_count(fit)} {'trajectories' if 'trajectory' in fit.runs else 'runs'}"


def _decades(fit: "Fit") -> float:
    low, high = fit.state.validity["flops"]
    return float(np.log10(high / low))


def warnings(fit: "Fit") -> list[str]:
    """Return sentences that a reader must see before trusting the numbers."""
    result = list(fit.notes)
    copies = int(fit.runs.astype("object").duplicated().sum())
    if copies:
        result.append(
            f"{copies} rows equal another in every column, loss included: they were taken as "
            "replicates; if they are copies, leave them out"
        )
    params = np.log(fit.runs["params"].to_numpy(dtype=np.float64))
    tokens = np.log(fit.runs["tokens"].to_numpy(dtype=np.float64))
    sizes = len(np.unique(np.round(params, 2)))
    if np.ptp(params + tokens) < np.log(1.5):
        result.append(
            "all runs lie on one IsoFLOP line: how the loss falls with compute is not in the data"
        )
    elif np.std(tokens - params) < 0.2:
        result.append(
            "all runs have nearly the same tokens per parameter: the data cannot tell the effect "
            "of N from that of D"
        )
    if _decades(fit) < _LEAST_DECADES:
        result.append(
            f"the runs span {_decades(fit):.2g} decades of compute: E and the exponents may move "
            "beyond their intervals as larger runs come"
        )
    if sizes < 4:
        result.append(f"only {sizes} model sizes: the exponent of N rests on very little")
    vague = [n for n, yes in fit.identified.items() if not yes and n in fit.law.parameters]
    if vague:
        result.append(
            f"the runs do not identify {', '.join(vague)}: predictions beyond the runs rest on "
            + ("priors" if fit.settings.law_prior else "the formula")
        )
    if fit.response.lr_fitted and not fit.identified["lr"]:
        result.append("the best learning rate is not identified: the prior decides it")
    for column in fit.response.bowls:
        if not fit.identified.get(column, True):
            name = column.replace("_", " ")
            result.append(f"the best {name} is not identified: it may be any that was tried")
    if fit.discrepancy is not None:
        if _count(fit) < _FEW:
            result.append(
                f"{_trajectories(fit)} are few: with under {_FEW}, 90 % intervals of the loss two "
                "decades beyond the runs held some 82 % of the time in simulated searches"
            )
        evidence = fit.form_evidence
        if evidence is not None and evidence.rejected:
            result.append(
                f"the runs speak against the five-parameter form, {evidence.total:.3g} to 1: the "
                "intervals allow for that, a fit without the discrepancy would not"
            )
    elif fit.settings.law_prior:
        result.append(
            f"weak priors from published laws were used, since {_trajectories(fit)} are few; "
            "priors='none' leaves them off"
        )
    if not fit.converged:
        result.append("the fit did not converge")
    return result
