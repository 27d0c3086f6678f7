"""Refusals: values that no run can have, columns in another unit, rows that do not belong."""

import numpy as np
import pandas as pd

from analysis.errors import RunTableError
from analysis.runtable.schema import REGIMES, SHOWN, SINGLE_VALUED, STATUSES, rows

_SMALLEST_COUNT = 50.0
_LARGEST_LOSS = 30.0
"""Nats per token: above, even a uniform guess over 1e13 tokens is better."""

_FEWEST_PER_PARAM = 0.1
_MOST_PER_PARAM = 1e6
_FLOPS_APART = 1e3
_EPOCHS_APART = 0.01


def check_status(table: pd.DataFrame) -> None:
    """Refuse a status that the schema does not know."""
    known = table["status"].isin(STATUSES) | table["status"].isna()
    if not known.all():
        wrong = (~known).to_numpy()
        raise RunTableError(
            f"status {table['status'][wrong].iloc[0]!r} is unknown in {rows(table, wrong)}; "
            f"use one of {', '.join(STATUSES)}"
        )


def check_regime(table: pd.DataFrame) -> None:
    """Refuse a regime that the schema does not know."""
    known = table["regime"].isin(REGIMES) | table["regime"].isna()
    if not known.all():
        wrong = (~known).to_numpy()
        raise RunTableError(
            f"regime {table['regime'][wrong].iloc[0]!r} is unknown in {rows(table, wrong)}; "
            f"use {', '.join(REGIMES)}, or leave the cell empty"
        )


def check_loss(table: pd.DataFrame) -> None:
    """Refuse losses that are no loss in nats per token."""
    loss = table["loss"].to_numpy(dtype=float)
    wrong = ~(np.isfinite(loss) & (loss > 0))
    if wrong.any():
        raise RunTableError(
            f"the loss must be finite and positive, but is not in {rows(table, wrong)}; remove "
            "these rows, or give them status 'diverged' or 'failed' so that they are counted"
        )
    if (loss > _LARGEST_LOSS).all():
        raise RunTableError(
            f"every loss is above {_LARGEST_LOSS:g} (from {loss.min():.3g} in "
            f"{rows(table, loss == loss.min())}): that looks like perplexity; give the loss in "
            "nats per token, which is the natural logarithm of perplexity"
        )


def check_given_flops(table: pd.DataFrame) -> None:
    """Refuse FLOPs, as they were given, that no training can have."""
    if "flops" not in table:
        return
    flops = table["flops"].to_numpy(dtype=float)
    wrong = flops <= 0
    if wrong.any():
        raise RunTableError(f"flops must be above 0, but is not in {rows(table, wrong)}")
    wrong = flops < 6.0 * _SMALLEST_COUNT**2
    if wrong.any():
        raise RunTableError(
            f"flops is {flops[wrong][0]:g} in {rows(table, wrong)}: the column is in another "
            "unit, such as 1e18 FLOPs; multiply it so that it counts FLOPs"
        )


def check_counts(table: pd.DataFrame) -> None:
    """Refuse params and tokens that are no counts: none, negative, or in millions."""
    for column in ("params", "tokens"):
        values = table[column].to_numpy(dtype=float)
        wrong = ~(np.isfinite(values) & (values > 0))
        if wrong.any():
            raise RunTableError(f"{column} must be above 0, but is not in {rows(table, wrong)}")
        wrong = values < _SMALLEST_COUNT
        if wrong.any():
            raise RunTableError(
                f"{column} is {values[wrong][0]:g} in {rows(table, wrong)}: it looks like "
                f"millions or billions; multiply the column{_by(table, column)} so that it "
                f"counts {column}"
            )
    for column in ("unique_tokens", "epochs", "lr", "batch_tokens", "seq_len", "weight"):
        if column in table:
            values = table[column].to_numpy(dtype=float)
            wrong = (values <= 0) | np.isinf(values)
            if wrong.any():
                raise RunTableError(
                    f"{column} must be above 0 where it is given, but is not in "
                    f"{rows(table, wrong)}; leave the cell empty where it is unknown"
                )
    ratio = (table["tokens"] / table["params"]).to_numpy(dtype=float)
    every = np.ones(len(table), dtype=bool)
    # The median, since a grid's smallest model on its most tokens spans three decades of ratio.
    middle = float(np.median(ratio))
    span = f"from {ratio.min():.2g} to {ratio.max():.2g}"
    if middle < _FEWEST_PER_PARAM:
        raise RunTableError(
            f"most rows have fewer than {_FEWEST_PER_PARAM:g} tokens per parameter ({span}): "
            f"tokens look like thousands, millions or billions in {rows(table, every)}; multiply "
            f"the column{_by(table, 'tokens')} so that it counts tokens"
        )
    if middle > _MOST_PER_PARAM:
        raise RunTableError(
            f"most rows have more than {_MOST_PER_PARAM:g} tokens per parameter ({span}): params "
            f"look like thousands or millions in {rows(table, every)}; multiply the column"
            f"{_by(table, 'params')} so that it counts params"
        )


def _by(table: pd.DataFrame, column: str) -> str:
    """Return the factor that `flops` shows a column to lack, in words, or nothing."""
    ratio = (table["flops"] / (6.0 * table["params"] * table["tokens"])).to_numpy(dtype=float)
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if not ratio.size or np.ptp(np.log(ratio)) > np.log(4.0):
        return ""
    factor = float(np.exp(np.median(np.log(ratio))))
    return f" by {_rounded(factor)}" if factor > _FLOPS_APART / 2 else ""


def _rounded(factor: float) -> str:
    """Return a factor as the power of a thousand that it is nearly, or to two digits."""
    power = 3 * round(np.log10(factor) / 3)
    near = abs(np.log10(factor) - power) < 0.4
    return f"1e{power}" if near else f"{factor:.2g}"


def check_flops(table: pd.DataFrame) -> None:
    """Refuse FLOPs and 6 N D that lie a factor of a thousand or more apart."""
    ratio = (table["flops"] / (6.0 * table["params"] * table["tokens"])).to_numpy(dtype=float)
    wrong = (ratio > _FLOPS_APART) | (ratio < 1.0 / _FLOPS_APART)
    if not wrong.any():
        return
    apart = (
        f"flops and 6 * params * tokens differ by more than a factor of {_FLOPS_APART:g} in "
        f"{rows(table, wrong)}"
    )
    logs = np.log(ratio[np.isfinite(ratio)])
    if wrong.all() and np.ptp(logs) < np.log(10.0):
        factor = float(np.exp(np.median(logs)))
        if factor < 1:
            raise RunTableError(
                f"{apart}: the column flops is in another unit, too small by a factor of about "
                f"{_rounded(1.0 / factor)}; multiply it"
            )
        per_param = float((table["tokens"] / table["params"]).median())
        column = "tokens" if per_param < 1 else "params"
        raise RunTableError(
            f"{apart}: one of the three columns is in another unit, most likely {column}, too "
            f"small by a factor of about {_rounded(factor)}; multiply it"
        )
    raise RunTableError(f"{apart}; one of the three columns is in another unit there")


def check_epochs(table: pd.DataFrame) -> None:
    """Refuse epochs that are not tokens / unique_tokens within a hundredth."""
    expected = table["tokens"] / table["unique_tokens"]
    wrong = ((table["epochs"] / expected - 1.0).abs() > _EPOCHS_APART).to_numpy()
    if wrong.any():
        first = table[wrong].iloc[0]
        raise RunTableError(
            f"epochs are not tokens / unique_tokens in {rows(table, wrong)} (such as "
            f"{first['epochs']:g}, where {first['tokens']:g} / {first['unique_tokens']:g} is "
            f"{first['tokens'] / first['unique_tokens']:.4g}); correct one of the three columns, "
            "or leave epochs out"
        )


def check_repeats(table: pd.DataFrame) -> None:
    """Refuse one observation twice. Rows without ids may repeat: those are replicates."""
    if "observation" in table:
        keys = table["observation"]
        named = keys.notna()
    elif "trajectory" in table:
        cooled = table["cooled"].astype(str) if "cooled" in table else ""
        keys = table["trajectory"].astype(str) + "@" + table["tokens"].astype(str) + cooled
        named = table["trajectory"].notna()
    else:
        return
    wrong = (keys.duplicated(keep=False) & named).to_numpy()
    if wrong.any():
        raise RunTableError(
            f"the same observation stands more than once in {rows(table, wrong)}; keep one row "
            "of each, or give replicates different trajectory ids"
        )


def check_single_valued(table: pd.DataFrame) -> None:
    """Refuse tables that mix what no law can compare, such as two evaluators.

    Kernels may differ within one study: a search varied them on purpose, on equal data, and a fit
    gives each an offset. Each kernel has a bound of its own then.
    """
    if _searched_kernels(table):
        data = table["evaluator"].astype("string").str.split("/").str[0]
        check_single_valued(table.drop(columns=["kernel", "evaluator"]).assign(evaluator=data))
        for _, own in table.groupby("kernel"):
            check_single_valued(own)
        return
    for column in SINGLE_VALUED:
        if column not in table:
            continue
        known = table[column].dropna()
        values = known.unique()
        if len(values) > 1:
            minority = known.value_counts().index[-1]
            wrong = (table[column] == minority).to_numpy()
            listed = ", ".join(repr(v.item() if hasattr(v, "item") else v) for v in values[:SHOWN])
            raise RunTableError(
                f"one fit cannot mix {len(values)} values of {column!r} ({listed}); "
                f"for example {rows(table, wrong)} differ from the rest. Fit them as separate "
                f"tables, one {column} each"
            )


def _searched_kernels(table: pd.DataFrame) -> bool:
    """Return whether all rows are of one study, and their kernels differ."""
    if not {"study", "kernel", "evaluator"} <= set(table):
        return False
    known = table[["study", "kernel"]].notna().all(axis=None)
    return bool(known and table["study"].nunique() == 1 and table["kernel"].nunique() > 1)
