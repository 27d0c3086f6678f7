"""What an import is asked for, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

KINDS = ("csv", "tensorboard", "optuna", "ray")
"""What a source may be; `csv` is any table."""

STEPS = ("tokens", "epochs", "flops")
"""What the steps of an Optuna study may count."""


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of the sources; every importer reads what concerns it.

    Attributes:
        columns: names to take the schema's columns from, such as `{"loss": "eval/nll"}`.
        constants: values of schema columns that hold for all rows, as text.
        results: `last` takes one observation a run, `all` every one; `auto` takes all of a
            validation loss and the last, smoothed, of a training loss.
        tag: TensorBoard's tag of the loss.
        pattern: regular expression with named groups for the name of a TensorBoard folder.
        window: steps of the Gaussian window over a training loss; 1 takes the last value.
        study_name: of several studies in one Optuna storage.
        step: what the steps of Optuna's intermediate values count; unset: only final values.
        loss_metric: Ray Tune's metric to take as the loss.
        tokens_metric: Ray Tune's metric to take as tokens.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    results: Literal["auto", "last", "all"] = "auto"
    tag: str | None = None
    pattern: str | None = None
    window: int = 301
    study_name: str | None = None
    step: str | None = None
    loss_metric: str | None = None
    tokens_metric: str | None = None


@dataclass(frozen=True)
class Imported:
    """Rows as they were found or, from `import_runs`, a checked run table.

    Attributes:
        table: one observation a row.
        notes: what was assumed, left out or damaged, in sentences.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()
