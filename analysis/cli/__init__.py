"""The command line of the laws: `python -m analysis VERB`. `quokka-ray` mounts the same verbs."""

from analysis.cli.asking import run_predict, run_recommend
from analysis.cli.comparing import run_compare
from analysis.cli.files import run_export, run_import
from analysis.cli.fitting import run_fit
from analysis.cli.parser import INTERRUPTED, add_verbs, main

__all__ = [
    "INTERRUPTED",
    "add_verbs",
    "main",
    "run_compare",
    "run_export",
    "run_fit",
    "run_import",
    "run_predict",
    "run_recommend",
]
