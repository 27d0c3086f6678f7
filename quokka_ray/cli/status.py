"""`status`: where a study stands, and why each of its runs was made."""

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.units import format_flops, format_quantity
from quokka_ray.cli.output import say
from quokka_ray.study.folder import saved_study

if TYPE_CHECKING:
    import pandas as pd

    from quokka_ray.campaign.budget import Account
    from quokka_ray.campaign.trajectory_state import TrajectoryState


def run_status(options: argparse.Namespace) -> int:
    """Print every trajectory of a study with its reason, and the budget."""
    from quokka_ray.campaign.beliefs import surprise_of, trust_of
    from quokka_ray.campaign.budget import account
    from quokka_ray.campaign.ending import larger, trust_notes, trusted_flops
    from quokka_ray.campaign.ledger import Ledger
    from quokka_ray.campaign.speed import device_seconds_left
    from quokka_ray.reporting.live import duration

    study = saved_study(options.folder, [])
    ledger = Ledger(options.folder / "ledger.jsonl", read_only=True)
    ledger.merge_metrics(sorted((options.folder / "trajectories").glob("*")))
    states = list(ledger.trajectories.values())
    trust = trust_of(states, ledger.runs())
    stand = account(study.budget.flops, states)
    curves = _curves(ledger.runs()) if study.search.repeats else {}
    rows = [
        {
            "trajectory": state.config.id,
            "params": state.config.params,
            "tokens": state.config.tokens,
            "lr": state.config.lr,
            "lr_schedule": state.config.lr_schedule,
            "mixture": state.config.mixture_shares or None,
            "recipe": state.config.recipe(study.search.varied),
            "status": state.ended["status"] if state.ended else "unfinished",
            "ended_because": (state.ended or {}).get("reason") or None,
            "loss": _loss(state, lowest=study.search.repeats),
            "curve": curves.get(state.config.id),
            "observations": [
                {name: record[name] for name in ("tokens", "loss", "cooled")}
                for record in [*state.observations, *state.diverged]
            ],
            "predicted": _shown(state.planned["predicted"]),
            "surprise": surprise_of(state),
            "flops_spent": state.flops_spent,
            "reason": state.planned["reason"],
        }
        for state in states
    ]
    left = device_seconds_left(stand, states)
    tests = larger(states)
    if options.json:
        answer = {"study": study.name, "budget_flops": stand.cap, "flops_spent": stand.spent,
                  "device_seconds_left": left, "ended": _ended(options.folder),
                  "surprises": tests, "evidence_against_law": trust.evidence,
                  "trusted_flops": trusted_flops(trust),
                  "claims": not trust.lost}  # fmt: skip
        say(json.dumps({**answer, "trajectories": rows}))
        return 0
    spent, cap = format_flops(stand.spent), format_flops(stand.cap)
    say(f"study {study.name}: {spent} of {cap} FLOPs spent "
        f"({stand.spent / stand.cap:.0%}), {len(rows)} trajectories"
        + (f"; about {duration(left)} of device time left" if left and left >= 1 else "")
        )  # fmt: skip
    if tests:
        odds = "" if trust.raised else f"; odds that the law fails: {trust.evidence:.2g}"
        missed = ", ".join(f"{z:+.1f}" for z in tests)
        say(f"predictions of runs larger than all before: {missed} standard deviations off{odds}")
    for line in trust_notes(trust):
        say(f"the law: {line}")
    if ended := _ended(options.folder):
        say(f"ended: {ended}")
    say(f"{'trajectory':<24} {'status':<11} {'loss':>7} {'predicted':>17} {'off':>6} {'lr':>8}"
        "  reason")  # fmt: skip
    for row in rows:
        say(f"{row['trajectory']:<24} {row['status']:<11} {_number(row['loss']):>7} "
            f"{_interval(row['predicted']):>17} {_deviations(row['surprise']):>6} "
            f"{row['lr']:>8.2g}  {_mixed(row['mixture'])}{_trained(row['recipe'])}{row['reason']}"
            )  # fmt: skip
        if row["status"] != "finished" and row["ended_because"]:
            say(f"    {row['status']}: {row['ended_because']}")
        if curve := row["curve"]:
            say(f"    {curve['first']:.3g} to {curve['last']:.3g} epochs, lowest at "
                f"{curve['lowest_at']:.3g}, at the last {curve['rise']:+.1%}: {curve['shape']}"
                )  # fmt: skip
            continue
        for seen in row["observations"] if len(row["observations"]) > 1 else ():
            loss = "diverged" if seen["loss"] is None else f"{seen['loss']:.3f}"
            say(f"    at {format_quantity(seen['tokens']):<28} {loss:>12}")
    say("Reasons are of size and tokens; Optuna places the learning rate, about its law,")
    say("and what else is searched.")
    if not study.search.repeats and _goes_on(states, stand):
        command = shlex.join(["quokka-ray", "plan", str(options.folder)])
        say(f"What the rest is expected to reach: {command}")
    return 0


def _goes_on(states: "list[TrajectoryState]", stand: "Account") -> bool:
    """Return whether the budget holds another run, going by the cheapest one so far."""
    costs = [state.config.flops_exact for state in states]
    return bool(costs) and stand.available >= min(costs)


def _loss(state: "TrajectoryState", *, lowest: bool) -> float | None:
    """Return what stands for a trajectory: its last loss, or its lowest."""
    losses = [float(record["loss"]) for record in state.observations]
    if not losses:
        return None
    return min(losses) if lowest else losses[-1]


def _curves(runs: "pd.DataFrame") -> dict[str, dict[str, Any]]:
    """Return by trajectory where its curve along epochs is lowest, and whether it turned."""
    from analysis.minima import curve_minima

    names = ("first", "last", "lowest_at", "lowest", "rise", "shape")
    return {
        row["trajectory"]: {name: row[name] for name in names}
        for row in curve_minima(runs).to_dict("records")
    }


def _shown(predicted: dict[str, Any] | None) -> dict[str, float] | None:
    return predicted and {name: predicted[name] for name in ("value", "low", "high")}


def _ended(folder: Path) -> str | None:
    """Return how the search ended that wrote the latest law; None before."""
    laws = sorted((folder / "laws").glob("[0-9]*/law.json"))
    document = json.loads(laws[-1].read_text(encoding="utf-8")) if laws else {}
    words: str | None = document.get("search", {}).get("words")
    return words


def _mixed(shares: dict[str, float] | None) -> str:
    """Return the shares of a mixture that is searched, to stand before the reason."""
    if shares is None:
        return ""
    return ", ".join(f"{share:.0%} {part}" for part, share in shares.items()) + "; "


def _trained(recipe: dict[str, Any]) -> str:
    """Return a recipe as words, to stand before the reason."""
    words = {"batch_sequences": "batch ", "warmup_fraction": "warmup ", "weight_decay": "decay "}
    shown = [
        f"{words.get(name, '')}{value if isinstance(value, str) else format(value, '.2g')}"
        for name, value in recipe.items()
    ]
    return f"{', '.join(shown)}; " if shown else ""


def _deviations(z: float | None) -> str:
    return "-" if z is None else f"{z:+.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(predicted: dict[str, float] | None) -> str:
    if predicted is None:
        return "-"
    return f"{predicted['low']:.3f} to {predicted['high']:.3f}"
