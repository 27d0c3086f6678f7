"""Writing a law where people look: the law file, a page, tables, figures."""

from pathlib import Path

import pandas as pd

from analysis.fitting.result import Fit
from analysis.lawfile import LawFile, load_law, save_law
from analysis.report import default_budgets, document_markdown, optimum_table
from analysis.state import LawState

PAGE_NAME = "law.md"
_CAPTIONS = {
    "isoflop": "IsoFLOP curves",
    "frontier": "Compute-optimal size",
    "residuals": "Predicted and observed",
}


def write_law(fit: Fit, folder: str | Path, target_flops: float | None = None) -> list[Path]:
    """Write a fit's law file, its page and figures into `folder`; return the paths."""
    path = save_law(fit, folder)
    return [path, *export_law(load_law(path), folder, target_flops)]


def export_law(law: LawFile, folder: str | Path, target_flops: float | None = None) -> list[Path]:
    """Write a law's page, its optimum and prediction tables, and figures into `folder`.

    Predictions and figures need the runs, which `fit --out` leaves beside the law file.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    runs = law.runs
    budgets = default_budgets(law.state, target_flops)
    paths = [_write_csv(optimum_table(law.state, budgets), target / "optimum.csv")]
    shown: dict[str, str] = {}
    if runs is not None:
        from analysis.figures import save_figures

        paths.append(_write_csv(prediction_table(law.state, runs), target / "predictions.csv"))
        figures = save_figures(law.state, target / "figures", runs, target_flops)
        shown = {_CAPTIONS[p.stem]: f"figures/{p.name}" for p in figures}
        paths += figures
    page = target / PAGE_NAME
    text = document_markdown(law.document, law.state, runs, target_flops, shown)
    return [write_text(text, page), *paths]


def prediction_table(state: LawState, runs: pd.DataFrame) -> pd.DataFrame:
    """Return each run with the law's loss, its interval and what the run's lr cost."""
    found = state.predict(runs["params"], runs["tokens"], noise=True)
    ids = [c for c in ("trajectory", "observation", "run_id") if c in runs]
    table = runs[[*ids, "params", "tokens", "loss"]].copy()
    return table.assign(predicted=found.value, low=found.low, high=found.high)


def write_text(text: str, path: Path) -> Path:
    """Write a text file whole or not at all, with its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _write_csv(table: pd.DataFrame, path: Path) -> Path:
    return write_text(table.to_csv(index=False), path)
