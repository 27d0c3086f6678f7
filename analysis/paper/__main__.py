"""Write the document: `python -m analysis.paper [--out FILE] [--data CURVES.csv]`."""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis.errors import AnalysisError
from analysis.paper.alternatives import kept_rows, objectives
from analysis.paper.document import document
from analysis.paper.figures import save
from analysis.paper.laws import recompute_laws


def main(arguments: list[str] | None = None) -> int:
    """Recompute the paper and write it down; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.paper",
        description="Recompute the Quokka paper's laws and tables 1 to 5.",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/paper.md"))
    parser.add_argument(
        "--data", type=Path, help="curves of repeated data (CSV), to compute the objectives on"
    )
    asked = parser.parse_args(arguments)
    try:
        measured = None
        if asked.data is not None:
            measured = objectives(kept_rows(pd.read_csv(asked.data)))
        laws = recompute_laws()
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        save(laws, asked.out.parent / asked.out.stem)
        text = document(laws, measured, figures=asked.out.stem)
        asked.out.write_text(text, encoding="utf-8")
    except (AnalysisError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return getattr(error, "exit_code", 3)
    sys.stdout.write(f"{asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
