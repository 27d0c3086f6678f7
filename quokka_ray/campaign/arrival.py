"""Whether the target ends a search before its budget does.

The steering's forms of the law say when it is near; the law that is reported has the last word,
since its intervals are what a reader sees.
"""

import math
from collections.abc import Callable, Sequence

from analysis.fitting.fit import Fit
from quokka_ray.campaign.beliefs import Beliefs
from quokka_ray.campaign.ending import meets
from quokka_ray.campaign.trajectory_state import TrajectoryState
from quokka_ray.study.search import TargetConfig

ASK_AGAIN = 1.1
"""Growth of the observations before the reported law is asked again whether it has arrived."""


class Arrival:
    """One search on its way to its target.

    Args:
        target: What is wanted, and how well.
        beliefs: What the steering believes.
    """

    def __init__(self, target: TargetConfig, beliefs: Beliefs) -> None:
        self._target = target
        self._beliefs = beliefs
        self._ask_again_at = 0
        self.rows = 0
        """Observations with which the target was reached; 0: it was not."""

    def reached(
        self,
        guide: Fit,
        states: Sequence[TrajectoryState],
        reported: Callable[[], Fit | None],
    ) -> bool:
        """Return whether the search is over, since it knows enough or will never know.

        Args:
            guide: The five-parameter law of all runs.
            states: All trajectories.
            reported: Returns the reported law of every observation; it takes a while.
        """
        rows, beliefs = len(guide.runs), self._beliefs
        if rows == self.rows or beliefs.trust_now(guide, states).lost:
            return True
        if rows < self._ask_again_at or not self._near(guide, states):
            return False
        beliefs.afresh(guide, states)
        self._ask_again_at = math.ceil(ASK_AGAIN * rows)
        if not self._near(guide, states):
            return False
        law = reported()
        if law is None or not meets(law, self._target):
            return False
        # Runs in flight may yet widen the intervals: asked again when they have ended.
        self.rows, self._ask_again_at = rows, 0
        return True

    def _near(self, guide: Fit, states: Sequence[TrajectoryState]) -> bool:
        return self._beliefs.verdict(guide, states).kind == "reached"
