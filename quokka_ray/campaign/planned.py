"""From a proposal to its trajectory's complete configuration, and to the ledger's record of it."""

import math
from dataclasses import asdict

from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.menu import Menu, plan_run
from quokka_ray.campaign.proposals import Proposal
from quokka_ray.campaign.trajectory_state import Record
from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.trajectory import TrajectoryConfig


def trajectory_of(
    proposal: Proposal,
    index: int,
    study: StudyConfig,
    corpus: TokenCorpus,
    menu: Menu | DataMenu,
) -> TrajectoryConfig:
    """Return the trajectory that a proposal buys.

    Args:
        proposal: Where it lies, and its recipe.
        index: Number of trajectories before it: of its name and its seed.
        study: The study.
        corpus: Its prepared corpus.
        menu: What the proposal was chosen from.
    """
    search = study.search
    if isinstance(menu, DataMenu):
        run = menu.run(proposal.params, proposal.tokens, proposal.unique_tokens)
    else:
        run = menu.run(proposal.params, proposal.tokens, proposal.recipe)
    data = f"U{_short(proposal.unique_tokens)}" if search.repeats else f"D{_short(run.tokens)}"
    return plan_run(
        f"{index:04d}-N{_short(run.rung.params)}-{data}",
        run.study,
        corpus,
        run.rung,
        tokens=run.tokens,
        earlier_points=run.points[:-1],
        unique_tokens=proposal.unique_tokens,
        early_end=search.early_end if search.repeats else None,
        lr=proposal.lr,
        lr_schedule=proposal.lr_schedule,
        mixture=study.corpus.weights_at(proposal.weights) if proposal.weights else None,
        # Neighbouring studies share no seeds, and a trajectory's seed survives a resume.
        seed=study.seed * 1_000_003 + index,
    )


def planned_record(proposal: Proposal, config: TrajectoryConfig) -> Record:
    """Return the ledger's record of a plan: why it is bought, what it should show and may cost."""
    place, own = (proposal.params, proposal.tokens), (config.params, config.tokens)
    return {
        "kind": "planned",
        "trajectory": config.id,
        "reason": proposal.reason,
        "predicted": asdict(proposal.predicted) if proposal.predicted else None,
        "lr_factor": proposal.lr_factor,
        **({} if place == own else {"place": place}),
        "reserved_flops": config.flops_exact,
        "config": config.model_dump(mode="json"),
    }


def _short(count: float) -> str:
    """Return a count for a file name: three significant digits and a suffix."""
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.{max(0, 2 - int(math.log10(count / scale)))}f}{suffix}"
    return str(int(count))
