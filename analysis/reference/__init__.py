"""Published numbers as tables, digit for digit as they were printed. README.md has the sources."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent


def printed_table(number: int) -> pd.DataFrame:
    """Return one of the Quokka paper's tables 1 to 5, every cell the text that was printed.

    The text keeps how many digits there were, which is how far a cell can be compared.
    """
    return pd.read_csv(FOLDER / f"table{number}.csv", dtype=str, keep_default_na=False)


def constants(law: str, status: str = "printed") -> dict[str, float]:
    """Return a published law's numbers by name.

    Args:
        law: `isoflop`, `eq13`, `eq15`, `eq21`, `eq23`, `chinchilla` or `objective`.
        status: `printed`, or `recovered`: to more digits, from the curves that the paper draws.

    Raises:
        KeyError: there is no such law.
    """
    table = pd.read_csv(FOLDER / "laws.csv")
    rows = table[(table["law"] == law) & (table["status"] == status)]
    if rows.empty:
        raise KeyError(f"no published law is called {law!r} with status {status!r}")
    return dict(zip(rows["parameter"], rows["value"].astype(float), strict=True))


def compute_runs() -> pd.DataFrame:
    """Return the 87 runs of the paper's figure 3 as a run table."""
    runs = pd.read_csv(FOLDER / "quokka_compute.csv")
    return runs.rename(columns={"train_loss": "loss"})
