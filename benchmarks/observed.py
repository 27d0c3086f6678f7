"""What trajectories that a benchmark trained by itself have observed, as a run table."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from quokka_ray.campaign.ledger import read_rows
from quokka_ray.campaign.run_rows import run_rows
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState
from quokka_ray.study.trajectory import TrajectoryConfig


def observations(folder: Path) -> list[Record]:
    """Return the observations with a loss that a trajectory's folder holds, by their tokens."""
    rows = read_rows(folder / "metrics.jsonl")
    kept = {row["tokens"]: row for row in rows if row["kind"] == "observation" and row["loss"]}
    return [kept[tokens] for tokens in sorted(kept)]


def run_table(
    trained: Iterable[tuple[TrajectoryConfig, list[Record]]], study: str
) -> pd.DataFrame:
    """Return the observations of trajectories, one a row, as a run table of the study `study`."""
    rows = [
        row
        for config, seen in trained
        for row in run_rows(TrajectoryState(config, {}, observations=seen))
    ]
    return pd.DataFrame(rows).assign(study=study)
