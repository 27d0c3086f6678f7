"""The start of a search: several sizes at each of a few shared levels of compute.

Cheap ones come first, so that both arms of each IsoFLOP curve are seen before any law is trusted.
"""

import pandas as pd

from analysis.design import space_filling
from quokka_ray.campaign.menu import LEVELS_PER_DECADE, Menu
from quokka_ray.study.config import StudyConfig

START_SIZES = 6
"""Sizes at each level of the start."""

START_LEVELS = LEVELS_PER_DECADE // 2
"""The start takes every so manieth level of the menu: two in a factor of ten."""


def start_design(study: StudyConfig, menu: Menu) -> pd.DataFrame:
    """Return the space-filling start.

    Returns:
        Columns params, tokens, cost, flops (the level, 6ND), and observed_at (token counts) where
        a run is observed more than once. Its total cost is at most
        `search.initial_fraction` of the budget, or that of one level if even this does not fit.
    """
    levels = menu.levels[::START_LEVELS]
    start = space_filling(
        [menu.at_level(level) for level in levels],
        allowance=study.search.initial_fraction * study.budget.flops,
        sizes=START_SIZES,
    )
    start["flops"] = [levels[int(level)] for level in start["level"]]
    if study.search.observations > 1:
        start["observed_at"] = [
            " ".join(map(str, menu.points(int(tokens)))) for tokens in start["tokens"]
        ]
    return start.drop(columns="level")
