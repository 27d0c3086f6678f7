"""What a run table may hold, and how its rows are named in messages."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

COLUMNS: dict[str, str] = {
    "study": "name of the search that the run belongs to",
    "trajectory": "identity of the training run; its observations share their noise",
    "observation": "identity of the observation, unique",
    "params": "N, total parameters, tied embeddings counted once",
    "params_non_embedding": "parameters without embeddings",
    "tokens": "D, tokens processed",
    "unique_tokens": "U, distinct tokens available",
    "epochs": "D / U",
    "flops": "training FLOPs in the table's convention",
    "flops_convention": "6nd or exact",
    "loss": "validation loss, nats per token",
    "loss_stderr": "its standard error, most of it shared by all runs",
    "loss_stderr_paired": "standard error of a difference between two runs",
    "train_loss": "smoothed training loss",
    "weight": "precision of the loss relative to other rows'; 1 where it is empty",
    "lr": "peak learning rate",
    "batch_tokens": "tokens of one optimiser step",
    "seq_len": "tokens of one sequence",
    "warmup_tokens": "tokens of warmup",
    "warmup_fraction": "warmup as a share of the run to its first observation",
    "lr_schedule": "wsd, cosine, constant, ...",
    "cooldown_tokens": "tokens of cooldown",
    "kernel": "mask, uniform or hybrid",
    "noise_schedule": "linear, cosine, poly2, ...",
    "objective": "what was trained on",
    "curriculum": "curriculum over noise levels",
    "weight_decay": "weight decay",
    "dropout": "share of elements dropped in training",
    "seed": "seed of the run",
    "corpus": "identity of the training text",
    "tokenizer": "identity of the tokenizer",
    "evaluator": "identity of the evaluation: data/bound",
    "params_convention": "what `params` counts",
    "flops_spent": "FLOPs that the observation cost, marginal",
    "parent": "trajectory that this one branched from",
    "cooled": "whether the learning rate was cooled down before the observation",
    "status": "finished, diverged, hopeless, failed or stopped",
    "regime": "second_descent past the peak of a curve of repeated data that falls again",
    "device_seconds": "device time",
    "device": "device name",
}

STATUSES = ("finished", "diverged", "hopeless", "failed", "stopped")

REGIMES = ("second_descent",)
"""Regimes that a fit leaves out; an empty cell is the first descent."""

SINGLE_VALUED = (
    "evaluator",
    "kernel",
    "corpus",
    "tokenizer",
    "seq_len",
    "flops_convention",
    "params_convention",
    "cooled",
    "dropout",
)
"""Columns in which one fit cannot have two values; kernels differ where one study varied them."""

NUMERIC = (
    "params",
    "params_non_embedding",
    "tokens",
    "unique_tokens",
    "epochs",
    "flops",
    "loss",
    "loss_stderr",
    "loss_stderr_paired",
    "train_loss",
    "weight",
    "lr",
    "batch_tokens",
    "seq_len",
    "warmup_tokens",
    "warmup_fraction",
    "cooldown_tokens",
    "weight_decay",
    "dropout",
    "flops_spent",
    "device_seconds",
)

WITH_UNITS = tuple(
    column
    for column in NUMERIC
    if column.startswith(("params", "flops")) or column.endswith("tokens") or column == "seq_len"
)
"""Columns whose cells may carry a unit, such as `300M`."""

SHOWN = 5
"""How many rows or values a message lists."""


def rows(table: pd.DataFrame, wrong: Iterable[bool]) -> str:
    """Name rows by their number in the table (from 1, below the header) and their id."""
    picked = table[np.asarray(list(wrong), dtype=bool)]
    ids = next((c for c in ("observation", "trajectory", "run_id") if c in picked), None)
    names = []
    for index, row in picked.head(SHOWN).iterrows():
        number = int(index) + 1 if isinstance(index, (int, np.integer)) else index
        label = "" if ids is None or pd.isna(row[ids]) else f" ({row[ids]})"
        names.append(f"{number}{label}")
    more = f" and {len(picked) - SHOWN} more" if len(picked) > SHOWN else ""
    return f"row{'s' if len(picked) > 1 else ''} {', '.join(names)}{more}"
