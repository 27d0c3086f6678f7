"""How `plan` prints what a search is expected to reach."""

import textwrap

from analysis.units import format_flops, format_half_width
from quokka_ray.campaign.outlook import Outlook, Row, Spread
from quokka_ray.cli.output import WIDTH, say
from quokka_ray.reporting.live import duration


def say_outlook(outlook: Outlook) -> None:
    """Print the expected state at shares of the budget, and whether the budget should do."""
    timed = outlook.timed_by is not None
    count = outlook.searches
    searches = "search" if count == 1 else "searches"
    fewer = f" ({outlook.asked} were wanted)" if outlook.searches < outlook.asked else ""
    text = (
        f"what to expect, by {count} simulated {searches}{fewer}: nothing was trained, "
        f"losses were drawn from {outlook.drawn_from}"
    )
    if outlook.begins_with:
        text += f"; they go on from the {outlook.begins_with} trajectories that are there"
    say("\n" + textwrap.fill(text, WIDTH))
    head = ("FLOPs", "of budget", "trials", "N_opt to", "loss to", "arrived")
    say(_line([*head, *(["device time"] if timed else [])]))
    for row in outlook.rows:
        time = [] if row.device_seconds is None else [f"about {duration(row.device_seconds)}"]
        say(_line([*_cells(row, outlook.searches), *time]))
    meaning = (
        "medians of half widths of 90 % intervals at the target; what exceeds the budget is the "
        "same search, resumed with more"
    )
    if timed:
        meaning += (
            f"; device time by {outlook.timed_by}, divided by the trials that run at once it is "
            "the elapsed time"
        )
    say(textwrap.fill(f"({meaning})", WIDTH))
    of_params, of_loss = outlook.held
    notes = [
        f"When the budget was spent {of_params} of {outlook.searches} intervals of N_opt held the "
        f"simulated truth, and {of_loss} of the loss."
    ]
    if outlook.end.no_claim:
        notes.append(f"{outlook.end.no_claim} searches ended without a claim: their law failed.")
    say("\n" + textwrap.fill(" ".join([outlook.verdict, *notes]), WIDTH))


def _cells(row: Row, searches: int) -> list[str]:
    return [
        format_flops(row.flops),
        f"{100.0 * row.share:.0f} %",
        _trials(row.trials),
        "no law yet" if row.params is None else format_half_width(row.params.value),
        "no law yet" if row.loss is None else format_half_width(row.loss.value),
        f"{row.met} of {searches}",
    ]


def _trials(trials: Spread) -> str:
    if trials.low == trials.high:
        return f"{trials.value:.0f}"
    return f"{trials.low:.0f} to {trials.high:.0f}"


def _line(cells: list[str]) -> str:
    widths = (7, 9, 9, 16, 10, 8, 12)
    padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=False))
    return " ".join(padded)
