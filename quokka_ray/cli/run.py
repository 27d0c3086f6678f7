"""`train`: one given run, without a search."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from analysis.units import format_flops, format_quantity, parse_quantity
from quokka_ray.cli.arguments import add_study
from quokka_ray.cli.output import note, say
from quokka_ray.errors import ConfigurationError
from quokka_ray.study.loader import load_study


def add_verbs(verbs: Any) -> None:
    """Add the verb to the parser."""
    parser = verbs.add_parser("train", help="train one model of a study's family")
    add_study(parser)
    parser.add_argument("--params", type=parse_quantity, required=True, metavar="N",
                        help="such as 15k or 300M")  # fmt: skip
    parser.add_argument("--tokens", type=parse_quantity, required=True, metavar="D",
                        help="such as 1M or 20B")  # fmt: skip
    parser.add_argument(
        "--observe-at", type=parse_quantity, nargs="+", default=None, metavar="TOKENS",
        help="token counts below --tokens at which it is observed too, rounded to whole steps; "
        "unset: as search.observations says",
    )  # fmt: skip
    parser.add_argument("--lr", type=parse_quantity, help="peak learning rate; unset: training.lr")
    parser.add_argument("--lr-schedule", choices=["wsd", "cosine", "constant"], default="wsd",
                        help="(default: wsd)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0,
                        help="of weights, masks and window order (default: 0)")  # fmt: skip
    parser.add_argument("--device", help="such as cpu or cuda:0; unset: a GPU where there is one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(func=run_train)


def run_train(options: argparse.Namespace) -> int:
    """Train, resuming from the folder's last checkpoint if it holds one of the same run."""
    import torch

    from quokka_ray.campaign.data_menu import DataMenu
    from quokka_ray.campaign.ledger import read_rows
    from quokka_ray.campaign.menu import plan_run, price
    from quokka_ray.cluster.driver import prepare_study
    from quokka_ray.cluster.interrupt import interruptible
    from quokka_ray.cluster.workers import train_by_itself
    from quokka_ray.model.shapes import shape_for
    from quokka_ray.training.run import train

    study = load_study(options.study, options.overrides)
    prepared = prepare_study(study, note)
    corpus, menu = prepared.corpus, prepared.menu
    unique = menu.largest_unique if isinstance(menu, DataMenu) else menu.unique_tokens
    shape = shape_for(options.params, study.model, corpus.vocab_size)
    rung = price(shape, study, corpus.vocab_size)
    steps = round(options.tokens / rung.step_tokens)
    if steps < 1:
        raise ConfigurationError(
            f"--tokens {format_quantity(options.tokens)} is less than one optimiser step of "
            f"{rung.step_tokens:,} tokens"
        )
    if options.observe_at is None:
        tokens = steps * rung.step_tokens
        earlier = (
            menu.points(tokens, unique) if isinstance(menu, DataMenu) else menu.points(tokens)
        )[:-1]
    else:
        earlier = tuple(
            round(point / rung.step_tokens) * rung.step_tokens
            for point in sorted(options.observe_at)
        )
    config = plan_run(
        options.out.name,
        study,
        corpus,
        rung,
        tokens=steps * rung.step_tokens,
        unique_tokens=unique,
        lr=options.lr or study.training.lr,
        lr_schedule=options.lr_schedule,
        seed=options.seed,
        earlier_points=earlier,
    )
    stop = False
    stop_file = options.out / "stop"
    report = _print_row if sys.stderr.isatty() else lambda row: None
    several = study.resources.workers_per_trial != 1
    if several:
        options.out.mkdir(parents=True, exist_ok=True)
        stop_file.unlink(missing_ok=True)

    def request_stop() -> None:
        nonlocal stop
        stop = True
        if several:
            stop_file.touch()

    with interruptible(request_stop) as interruption:
        if several:
            if options.device:
                raise ConfigurationError(
                    "--device is for one process: workers get their devices from the cluster; "
                    "leave it out, or set resources.workers_per_trial=1"
                )
            outcome = train_by_itself(config, options.out, study.resources, report, stop_file)
        else:
            outcome = train(
                config,
                options.out,
                report=report,
                should_stop=lambda: stop,
                device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
                threads=study.resources.threads,
            )
    if outcome.status == "interrupted":
        note("stopped after a checkpoint; the same command goes on")
        return interruption.exit_code
    answer = {
        "status": outcome.status,
        "params": config.params,
        "tokens": outcome.tokens,
        "loss": outcome.loss,
        "loss_stderr": outcome.loss_stderr,
        "flops_spent": outcome.flops_spent,
    }
    shown = ("tokens", "loss", "loss_stderr", "cooled")
    rows: list[dict[str, Any]] = [
        {name: row.get(name) for name in shown}
        for row in read_rows(options.out / "metrics.jsonl")
        if row["kind"] == "observation"
    ]
    if options.json:
        say(json.dumps({**answer, "observations": rows}))
    else:
        say(f"status       {outcome.status}")
        say(f"parameters   {format_quantity(config.params)}")
        say(f"tokens       {format_quantity(outcome.tokens)}")
        say(f"loss         {outcome.loss:.4f} ± {outcome.loss_stderr:.4f} nats per token")
        say(f"spent        {format_flops(outcome.flops_spent)} exact FLOPs")
        for row in rows if len(rows) > 1 else ():
            loss = "diverged" if row["loss"] is None else f"{row['loss']:.4f}"
            say(f"{'at ' + format_quantity(row['tokens']):<12} {loss}")
    return 0


def _print_row(row: dict[str, Any]) -> None:
    if row["kind"] == "progress":
        note(f"{format_quantity(row['tokens']):>8} tokens  training loss {row['train_loss']:.4f}")
