"""The laws of a search while it runs: one refitted after every observation, one when it is due.

The steering reads the guide alone, the five-parameter law with its response, so what a search
proposes follows from its observations and from no clock. The law that is reported counts what
its form misses; it takes many times as long, and is refitted as often as a share of the elapsed
time allows, and whenever somebody asks for the last word.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.fitting.fit import Fit, fit_law
from analysis.laws.mixture import PREFIX
from analysis.runs import taken_rows
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.pacing import Pace
from quokka_ray.study.config import StudyConfig

REPORT_SHARE = 0.05
"""Share of the elapsed time that refits of the reported law, and showing it, may take."""

SEARCH_GROWTH = 1.25
"""The guide searches the whole space again when its rows have grown by this factor: a dozen times
from 30 rows to 500. In between it starts from the guide before."""

SEARCH_BELOW = 30
"""With fewer rows it always searches: a few rows more can move the optimum to another valley."""

_READ = (
    "trajectory", "observation", "params", "tokens", "loss", "lr", "lr_schedule", "evaluator",
    "cooled", "status", "regime",
)  # fmt: skip
"""Columns that the guide reads. The reported law has all of them checked."""


class Refits:
    """Both laws of one study.

    Args:
        study: The study.
        clock: Seconds, for the rate of the reported law's refits.
    """

    def __init__(self, study: StudyConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings: dict[str, Any] = {
            "huber_delta": study.law.huber_delta,
            "seed": study.seed,
            "lr_prior": study.training.lr,
            "priors": "weak",
        }
        self._law = study.law
        self._name = study.law_name
        self._guiding = study.law_name if study.search.repeats else "chinchilla"
        repeated = ("unique_tokens", "epochs") if study.search.repeats else ()
        kernels = ("study",) if study.search.kernel else ()
        self.read = (*_READ, *repeated, *Dimensions(study).columns, *kernels)
        """Columns of the run table that refits of the guide need."""
        self.guide: Fit | None = None
        """The five-parameter law alone, or the search's own law of repeated data, which the
        steering takes as true. It has no resamples."""
        self.reported: Fit | None = None
        """The law as it is reported, with what its form misses."""
        self.no_law_because = "no observation yet"
        self.pace = Pace(REPORT_SHARE, clock)
        self._searched = 0
        self._behind = False

    @property
    def behind(self) -> bool:
        """Whether there are observations that the reported law does not count."""
        return self._behind

    def refit_guide(self, runs: pd.DataFrame) -> None:
        """Refit the guide to all of `runs`; without enough of them it stays as it was.

        Args:
            runs: The run table, or its columns `read`.
        """
        self._behind = True
        searches = len(runs) < SEARCH_BELOW or len(runs) >= SEARCH_GROWTH * self._searched
        near = None if searches else self.guide
        table = runs[[c for c in runs if c in self.read or str(c).startswith(PREFIX)]]
        try:
            self.guide = fit_law(
                table if near is None else taken_rows(table),
                law=self._guiding,
                discrepancy="none",
                bootstrap=0,
                near=near,
                # What checking finds, it finds where the whole space is searched.
                checked=near is not None,
                **self._settings,
            )
        except AnalysisError as error:
            self.no_law_because = str(error)
            return
        if near is None:
            self._searched = len(runs)

    def refit_reported(self, runs: pd.DataFrame, notes: tuple[str, ...] = ()) -> Fit | None:
        """Refit the reported law to all of `runs`; None where they are too few.

        Args:
            runs: The run table.
            notes: What a reader of the law must know besides, in sentences.
        """
        self._behind = False
        try:
            fit = fit_law(runs, law=self._name, bootstrap=self._law.bootstrap, **self._settings)
        except AnalysisError as error:
            self.no_law_because = str(error)
            return None
        self.reported = replace(fit, notes=(*notes, *fit.notes))
        return self.reported
