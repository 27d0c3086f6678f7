"""What a study searches of the recipe, as `plan` says it."""

from typing import Any

from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.campaign.menu import Menu, Rung
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.recipe import Recipe, batch_levels, noises


def recipe_choices(study: StudyConfig) -> dict[str, Any]:
    """Return what is searched of the recipe, by name: batches, ranges, and names."""
    found: dict[str, Any] = {}
    for name in study.search.varied:
        value = getattr(study.search, name)
        if name == "batch_sequences":
            found[name] = list(batch_levels(study.search, study.training.batch_sequences))
        else:
            found[name] = list(value) if isinstance(value, tuple) else [value.low, value.high]
    return found


def recipe_lines(study: StudyConfig, menu: Menu | DataMenu) -> list[str]:
    """Return lines on what is searched of the recipe, and what the dearest noise costs."""
    lines = []
    for name, values in recipe_choices(study).items():
        ends = name in ("warmup_fraction", "weight_decay")
        listed = (" to " if ends else ", ").join(str(value) for value in values)
        lines.append(f"searched {name} {listed}")
    if isinstance(menu, Menu) and (dearest := _dearest(study, menu)) > 1.005:
        lines.append(
            f"         the dearest noise costs {dearest:.2f} times a run's price below, which is "
            "the study's own"
        )
    return lines


def _dearest(study: StudyConfig, menu: Menu) -> float:
    """Return by how much runs cost more with the dearest noise, at most."""

    def ratio(rung: Rung, row: Any) -> float:
        prices = [
            menu.run(rung.params, int(row.tokens), Recipe(noise=noise)).cost
            for noise in noises(study.search, study.diffusion)
        ]
        return max(prices) / float(row.cost)

    first = menu.table.drop_duplicates("params")
    return max(ratio(menu.rungs[int(row.params)], row) for row in first.itertuples())
