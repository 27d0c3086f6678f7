"""Run tables from what others leave behind: TensorBoard, Optuna, Ray Tune, other tables."""

from analysis.importers.options import KINDS, Imported, ImportOptions
from analysis.importers.sources import detect, import_runs

__all__ = ["KINDS", "ImportOptions", "Imported", "detect", "import_runs"]
