"""The terminal: one live table on stderr while a search runs, and the report at its end.

Where nobody watches (no terminal, `NO_COLOR`, `CI`) the table gives way to one plain line for
each trial that ends.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.reporting.recipe import recipe_rows
from analysis.uncertainty import Estimate
from analysis.units import format_flops, format_quantity
from quokka_ray.reporting.state import Optimum, SearchState

_LAST_EVENTS = 3
_NAMES = {"alpha": "α", "beta": "β"}
# Statuses in the order in which people ask for them, with the colour of those that are no good.
_STATUSES = {
    "finished": "green",
    "diverged": "yellow",
    "hopeless": "yellow",
    "failed": "red",
    "stopped": "yellow",
}


class LiveView:
    """Shows a search while it runs; a context manager.

    Args:
        console: Where to draw; None: stderr.
        plain: Lines instead of a table; None: decided by the console and the environment.
    """

    def __init__(self, console: Console | None = None, plain: bool | None = None) -> None:
        self._console = console or Console(stderr=True)
        if plain is None:
            quiet = any(os.environ.get(name) for name in ("NO_COLOR", "CI"))
            plain = quiet or not self._console.is_terminal
        self._plain = plain
        self._live: Live | None = None
        self._shown_events = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, state: SearchState) -> None:
        """Show `state`."""
        if self._plain:
            for line in state.events[self._shown_events :]:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._shown_events = len(state.events)
            return
        if self._live is None:
            # Begun with the first state, so that what is said before it scrolls as usual. Data
            # on stdout stays there: only stderr is lifted above the table.
            self._live = Live(
                console=self._console, auto_refresh=True, refresh_per_second=4,
                redirect_stdout=False, vertical_overflow="crop",
            )  # fmt: skip
            self._live.start()
        self._live.update(search_table(state))


def search_table(state: SearchState) -> RenderableType:
    """Return the live table of `state`."""
    rows = Table.grid(padding=(0, 1), expand=True)
    rows.add_column(style="bold", no_wrap=True, width=8)
    rows.add_column(ratio=1)
    rows.add_row("budget", _budget(state))
    rows.add_row("trials", _counts(state))
    if state.running:
        rows.add_row("", _running(state))
    rows.add_row("law", _law(state))
    if state.optimum is not None:
        rows.add_row("optimum", _optimum(state.optimum, _target(state)))
    if state.goal:
        rows.add_row("goal", Text(state.goal))
    for index, line in enumerate(state.events[-_LAST_EVENTS:]):
        rows.add_row(
            "" if index else "last", Text(line, style="dim", no_wrap=True, overflow="ellipsis")
        )
    title = Text.assemble(("quokka-ray", "bold"), "  ", state.name)
    return Panel(rows, title=title, title_align="left", border_style="dim")


def final_report(
    state: SearchState, *, law_folder: str | None = None, command: str | None = None
) -> RenderableType:
    """Return the report of a search that has ended, for stdout.

    Args:
        state: Its last state.
        law_folder: Where the law was written.
        command: The command that asks the law for another budget.
    """
    facts = Table.grid(padding=(0, 1))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    facts.add_row(
        "study",
        Text.assemble(
            f"{state.name}  {format_flops(state.spent_flops)} of "
            f"{format_flops(state.budget_flops)} FLOPs spent ({_share(state):.1%}): ",
            _counts(state),
        ),
    )
    if state.parameters:
        facts.add_row("law", Text(state.formula))
    facts.add_row("" if state.parameters else "law", _law(state))
    if state.goal:
        facts.add_row("ended", Text(state.goal))
    parts: list[RenderableType] = [facts]
    if state.optimum is not None:
        parts += [Text(), _recommendation(state.optimum, _target(state))]
    if state.warnings:
        warnings = Table.grid(padding=(0, 1))
        warnings.add_column(style="bold yellow", no_wrap=True)
        warnings.add_column()
        for line in state.warnings:
            warnings.add_row("warning", Text(line))
        parts += [Text(), warnings]
    if law_folder is not None:
        parts.append(Text.assemble("\n", ("law, figures and report: ", "bold"), law_folder))
    if command is not None:
        parts.append(Text.assemble(("for another budget: ", "bold"), command))
    return Group(*parts)


def trial_line(
    trajectory: str,
    status: str,
    loss: float | None,
    share_spent: float,
    reason: str = "",
    earlier: Sequence[float] = (),
) -> str:
    """Return the line of a trial that ended.

    Args:
        trajectory: Its id.
        status: How it ended.
        loss: Its last observed loss; None without one.
        share_spent: Share of the budget that is spent now.
        reason: Why it ended, where that is news.
        earlier: Losses that it was observed at on its way.
    """
    shown = "" if loss is None else f"  loss {loss:.4f}"
    if earlier:
        shown += f" (before: {', '.join(f'{value:.4f}' for value in earlier)})"
    why = f"  ({reason})" if reason and status != "finished" else ""
    return f"{trajectory:<18}  {status:<8}{shown}  {share_spent:.0%} spent{why}"


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3.4 h`, `2.1 d`."""
    for unit, size, digits in (("d", 86_400, 1), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _budget(state: SearchState) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    held = f", {format_flops(state.reserved_flops)} in flight" if state.reserved_flops else ""
    bar = ProgressBar(
        total=1.0, completed=min(1.0, _share(state)), width=20,
        complete_style="cyan", finished_style="cyan",
    )  # fmt: skip
    spent = f"{format_flops(state.spent_flops)} of {format_flops(state.budget_flops)} FLOPs"
    left = "" if state.seconds_left is None else f", about {duration(state.seconds_left)} left"
    line.add_row(bar, Text(f"{spent} ({_share(state):.0%}){held}{left}", no_wrap=True))
    return line


def _counts(state: SearchState) -> Text:
    parts = [
        Text(f"{state.counts[status]} {status}", style=style)
        for status, style in _STATUSES.items()
        if state.counts.get(status)
    ]
    if state.running:
        parts.append(Text(f"{len(state.running)} running"))
    return Text(", ").join(parts) if parts else Text("none yet", style="dim")


def _running(state: SearchState) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(width=8)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    for trial in state.running:
        table.add_row(
            trial.id,
            f"N {format_quantity(trial.params)}",
            f"D {format_quantity(trial.tokens)}",
            ProgressBar(total=1.0, completed=trial.progress, width=8, complete_style="green"),
            f"{trial.progress:.0%}",
            "" if trial.loss is None else f"loss {trial.loss:.3f}",
        )
    return table


def _law(state: SearchState) -> Text:
    if not state.parameters:
        return Text(f"not yet: {state.message}" if state.message else "not yet", style="dim")
    text = Text()
    for name, value in state.parameters.items():
        known = state.identified.get(name, True)
        shown = f"{_NAMES.get(name, name)} {value:.3g}{'' if known else '?'}"
        text.append(f"{shown}  ", style="" if known else "yellow")
    if state.sigma is not None:
        text.append(f"noise {state.sigma:.1%}")
    if not all(state.identified.get(name, True) for name in state.parameters):
        text.append("  (?: undecided)", style="dim")
    return text


def _target(state: SearchState) -> str:
    if state.target_unique_tokens is not None:
        return f"{format_quantity(state.target_unique_tokens)} unique tokens"
    return f"{format_flops(state.target_flops or 0.0)} FLOPs (6ND)"


def _optimum(optimum: Optimum, target: str) -> RenderableType:
    beyond = optimum.extrapolation_decades
    where = f", {beyond:.1f} decades beyond the runs" if beyond > 0 else ""
    numbers = Text("  ").join(
        Text.assemble(f"{name} ", _interval(estimate, spec))
        for name, estimate, spec in (
            ("N", optimum.params, ""),
            ("D", optimum.tokens, ""),
            ("loss", optimum.loss, ".3f"),
        )
    )
    return Group(Text(f"for {target}{where}"), numbers)


def _recommendation(optimum: Optimum, target: str) -> RenderableType:
    table = Table(
        title=f"for {target} train", title_justify="left",
        title_style="bold", box=None, padding=(0, 2), show_edge=False,
    )  # fmt: skip
    table.add_column("")
    table.add_column("value", justify="right", style="bold")
    table.add_column("90% interval", justify="left", no_wrap=True)
    rows = (("parameters", optimum.params, ""), ("tokens", optimum.tokens, ""))
    for name, estimate, spec in (*rows, ("loss, nats per token", optimum.loss, ".4f")):
        table.add_row(
            name,
            _number(estimate.value, spec),
            f"{_number(estimate.low, spec)} to {_number(estimate.high, spec)}",
        )
    if optimum.epochs is not None:
        epochs = optimum.epochs
        table.add_row("epochs", f"{epochs.value:.3g}", f"{epochs.low:.3g} to {epochs.high:.3g}")
    ratio = optimum.tokens.value / optimum.params.value
    table.add_row("tokens per parameter", f"{ratio:,.3g}" if ratio < 10 else f"{ratio:,.0f}", "")
    if optimum.lr is not None:
        table.add_row("learning rate", f"{optimum.lr:.3g}", "")
    for row in recipe_rows(optimum.recipe):
        table.add_row(*row)
    for part, (share, low, high) in optimum.mixture.items():
        between = "" if low is None or high is None else f"{low:.0%} to {high:.0%}"
        table.add_row(f"share of {part}", f"{share:.0%}", between)
    if optimum.extrapolation_decades > 0:
        table.add_row(
            "extrapolation", f"{optimum.extrapolation_decades:.1f}", "decades beyond the runs"
        )
    return table


def _interval(estimate: Estimate, spec: str = "") -> Text:
    low, high = _number(estimate.low, spec), _number(estimate.high, spec)
    return Text.assemble((_number(estimate.value, spec), "bold"), (f" ({low}–{high})", "dim"))


def _number(value: float, spec: str) -> str:
    return format(value, spec) if spec else format_quantity(value)


def _share(state: SearchState) -> float:
    return state.spent_flops / state.budget_flops
