"""An Optuna sampler whose choices are the campaign's.

Through it a study of Optuna (and of Ray Tune's `OptunaSearch`) runs the steering: size and data
come from the law, the other dimensions from Optuna's own estimator in relative coordinates.
"""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.dimensions import Dimensions
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.proposals import Proposal
from quokka_ray.study.config import StudyConfig


def search_space(study: StudyConfig, menu: Menu | DataMenu) -> dict[str, BaseDistribution]:
    """Return the whole static space: size, data and the other dimensions.

    Args:
        study: What is searched.
        menu: The runs that may be bought.
    """
    repeats = isinstance(menu, DataMenu)
    most = menu.largest_unique if isinstance(menu, DataMenu) else menu.unique_tokens
    largest_tokens = max(most, int(menu.table["tokens"].max()))
    unique = FloatDistribution(1.0, float(most), log=True)
    return {
        **({"unique_tokens": unique} if repeats else {}),
        "params": IntDistribution(min(menu.rungs), max(menu.rungs), log=True),
        "tokens": FloatDistribution(1.0, float(largest_tokens), log=True),
        **Dimensions(study).space,
    }


class SteeredSampler(BaseSampler):
    """Samples the campaign's next run.

    Args:
        study: The study that it searches.
        space: The static space that proposals lie in.
    """

    def __init__(self, study: StudyConfig, space: dict[str, BaseDistribution]) -> None:
        self._searched = study
        self._dimensions = Dimensions(study)
        self._space = space
        self.proposal: Proposal | None = None
        """What is sampled next: set before Optuna is asked."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space: all dimensions are placed together."""
        return self._space

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the campaign's next proposal as Optuna's values."""
        proposal = self.proposal
        assert proposal is not None, "the campaign proposes before Optuna is asked"
        unique = {"unique_tokens": float(proposal.unique_tokens)}
        own = self._searched.with_recipe(proposal.recipe)
        return {
            **(unique if "unique_tokens" in search_space else {}),
            "params": proposal.params,
            "tokens": float(proposal.tokens),
            **self._dimensions.values(
                proposal.lr_factor,
                proposal.lr_schedule,
                proposal.weights,
                own.training,
                own.diffusion,
            ),
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuse: a dimension outside the static space is a fault of ours."""
        raise RuntimeError(f"{param_name} is not in the search space of the study")
