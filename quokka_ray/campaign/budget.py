"""The budget: a cap on exact FLOPs that holds whatever happens to the trials.

Everything that a study computes counts: training, evaluation, and work that was lost and done
again. A trial is started only if what it will cost still fits, so the cap is kept in advance.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from quokka_ray.campaign.trajectory_state import TrajectoryState


def projected_flops(state: TrajectoryState) -> float:
    """Return what a trajectory will have cost when it ends: exact FLOPs of all its attempts.

    An ended one costs what it spent. One that goes on costs what it has spent so far plus what
    the rest of its path and its missing observations take, and never less than its reservation.
    """
    config = state.config
    if state.ended is not None:
        return state.flops_spent
    training = config.flops_exact - len(config.points) * config.flops_evaluation
    missing = len(config.points) - len(state.observations) - len(state.diverged)
    remaining = training * max(0.0, 1.0 - state.processed / config.path_tokens)
    remaining += missing * config.flops_evaluation
    return max(config.flops_exact, state.flops_spent + remaining)


@dataclass(frozen=True)
class Account:
    """Where the budget stands. All values are exact FLOPs."""

    cap: float
    spent: float
    committed: float
    """Spent, and what the trajectories that have not ended may still take."""

    @property
    def available(self) -> float:
        """What a new trajectory may cost."""
        return self.cap - self.committed


def account(cap: float, trajectories: Iterable[TrajectoryState]) -> Account:
    """Add up `trajectories` against a cap of `cap` exact FLOPs."""
    states = list(trajectories)
    return Account(
        cap=cap,
        spent=sum(state.flops_spent for state in states),
        committed=sum(projected_flops(state) for state in states),
    )
