"""A campaign whose trials report what they are told to: nothing is trained, and nobody waits.

Plans are played before they are paid for (`outlook.py`), and tests and benchmarks play them too.
All decisions are the campaign's own; a trial is reduced to the rows that it would report.
"""

from collections.abc import Callable, Iterator, Sequence

from quokka_ray.campaign.beliefs import missing_points
from quokka_ray.campaign.budget import projected_flops
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState
from quokka_ray.study.trajectory import TrajectoryConfig

Losses = Callable[[TrajectoryConfig], Sequence[float]]
"""Returns the loss at each of a trajectory's points, [K]."""


Evaluator = Callable[[TrajectoryConfig], str]
"""Returns the name of the evaluator that a trajectory's observations carry."""


def same_evaluator(config: TrajectoryConfig) -> str:
    """Return the evaluator of losses that are all of one kind."""
    return "simulated"


def spent_at(config: TrajectoryConfig, processed: int, evaluations: int) -> float:
    """Return the exact FLOPs of a trial that was never interrupted.

    Args:
        config: The trial.
        processed: Tokens of its whole path that lie behind it, branches included.
        evaluations: How often it was observed.
    """
    training = config.flops_exact - len(config.points) * config.flops_evaluation
    return training * processed / config.path_tokens + evaluations * config.flops_evaluation


def observation(
    config: TrajectoryConfig,
    point: int,
    loss: float,
    *,
    evaluator: str = "simulated",
    cooled: bool = True,
) -> Record:
    """Return what a trial of `config` reports at one of its points."""
    before = sum(leg.steps for leg in config.legs if leg.last * config.batch_tokens <= point)
    processed = min(before * config.batch_tokens, config.path_tokens)
    return {
        "kind": "observation",
        "trajectory": config.id,
        "observation": f"{config.id}@{point}" + ("+cooldown" if cooled else ""),
        "tokens": point,
        "processed_tokens": processed,
        "loss": loss,
        "evaluator": evaluator,
        "cooled": cooled,
        "flops_spent": spent_at(config, processed, config.points.index(point) + 1),
    }


def ended(
    config: TrajectoryConfig, status: str = "finished", spent: float | None = None
) -> Record:
    """Return what a trial of `config` reports last; `spent`: exact FLOPs, unset: its price."""
    return {
        "kind": "ended",
        "trajectory": config.id,
        "status": status,
        "reason": "",
        "flops_spent": config.flops_exact if spent is None else spent,
    }


def rest_of(
    state: TrajectoryState, losses: Losses, *, evaluator: Evaluator, cooled: bool
) -> Iterator[Record]:
    """Yield what a trial has still to report: all of it, or what a real one left to be done."""
    config, cost = state.config, projected_flops(state)
    name = evaluator(config)
    found = dict(zip(config.points, losses(config), strict=True))
    for point in missing_points(state):
        row = observation(config, point, float(found[point]), evaluator=name, cooled=cooled)
        spent = max(state.flops_spent, min(row["flops_spent"], cost))
        yield {**row, "flops_spent": spent}
    yield ended(config, spent=cost)


def play(
    campaign: Campaign,
    losses: Losses,
    *,
    at_once: int,
    evaluator: Evaluator = same_evaluator,
    cooled: bool = True,
    before_end: Callable[[float], None] = lambda spent: None,
) -> None:
    """Run a campaign until it has nothing to give, the oldest trial in flight ending first.

    Args:
        campaign: The campaign, which stands before its first `ask`.
        losses: What trials observe.
        at_once: Trials in flight.
        evaluator: Names the evaluator that observations carry.
        cooled: Whether they are made after a cooldown.
        before_end: Told the exact FLOPs that all trials will have spent when the next one has
            ended, before its rows are told to the campaign.
    """
    flying: list[str] = []
    while True:
        answer = campaign.ask() if len(flying) < at_once else None
        if isinstance(answer, TrajectoryConfig):
            flying.append(answer.id)
        elif flying:
            state = campaign.ledger.trajectories[flying.pop(0)]
            before_end(campaign.account.spent + projected_flops(state) - state.flops_spent)
            for row in rest_of(state, losses, evaluator=evaluator, cooled=cooled):
                campaign.tell(row)
        else:
            return
