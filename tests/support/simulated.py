"""A campaign whose trials are drawn from a known law: no processes, no torch, no waiting."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.menu import Menu
from quokka_ray.campaign.observer import Observer
from quokka_ray.campaign.simulated import ended as ended
from quokka_ray.campaign.simulated import observation, play
from quokka_ray.corpus import TokenCorpus
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

STUDY: dict[str, Any] = {
    "name": "simulated",
    "model": {"seq_len": 64, "head_dim": 8, "ffn_multiple": 8},
    "training": {"batch_sequences": 8, "lr": 1e-2},
    "search": {
        "params": {"low": "4k", "high": "200k"},
        "run_flops": {"low": 1e10, "high": 1e12},
        "tokens_per_param": {"low": 2, "high": 600},
        "lr_factor": {"low": 0.5, "high": 2},
        "lr_schedule": ["wsd", "cosine"],
        "initial_fraction": 0.3,
    },
    "budget": {"flops": 6e12},
    "target": {"flops": 1e14},
    "law": {"bootstrap": 50},
}

# The truth: Chinchilla's form, a learning rate best at 1.3 times the prior, cosine 1 % worse.
E, A, ALPHA, B, BETA = 1.2, 200.0, 0.45, 400.0, 0.42
NOISE = 0.005


def study(**sections: dict[str, Any]) -> StudyConfig:
    merged = {k: {**STUDY.get(k, {}), **v} for k, v in sections.items()}
    return StudyConfig.model_validate({**STUDY, **merged})


def true_loss(params: float, tokens: float) -> float:
    return E + A / params**ALPHA + B / tokens**BETA


def true_optimum(flops: float) -> float:
    """N that minimises the truth at 6ND = flops."""
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    return g * (flops / 6) ** (BETA / (ALPHA + BETA))


def corpus() -> TokenCorpus:
    facts = SimpleNamespace(
        path=Path("corpus"), hash="c0ffee", tokenizer_id="bytes", vocab_size=257,
        train_tokens=30_000_000,
    )  # fmt: skip
    return cast(TokenCorpus, facts)


def open_campaign(
    config: StudyConfig,
    folder: StudyFolder,
    observers: Sequence[Observer] = (),
    clock: Callable[[], float] = lambda: 0.0,
) -> Campaign:
    """Open a campaign; its clock stands still unless given, so that every refit is due."""
    facts = corpus()
    menu = Menu(config, facts.vocab_size, facts.train_tokens)
    return Campaign(config, facts, menu, folder, observers, clock)


def observe(config: TrajectoryConfig, point: int | None = None) -> dict[str, Any]:
    """Return the observation that a trial of `config` makes: the same one however often asked.

    `point`: the token count; unset: the last one.
    """
    tokens = point or config.tokens
    return observation(config, tokens, observed_loss(config, tokens), evaluator="data/bound")


def observed_loss(config: TrajectoryConfig, tokens: int) -> float:
    """Return the loss of a trial at one token count. All of a trial share their luck."""
    off = 0.03 * math.log(config.lr / 1.3e-2) ** 2 + (
        0.01 if config.lr_schedule == "cosine" else 0
    )
    luck = NOISE * np.random.default_rng(config.seed).normal()
    return true_loss(config.params, tokens) * math.exp(off + luck)


def progress(config: TrajectoryConfig, share: float, spent: float | None = None) -> dict[str, Any]:
    return {
        "kind": "progress",
        "trajectory": config.id,
        "tokens": int(share * config.tokens),
        "train_loss": 3.0,
        "flops_spent": share * config.flops_exact if spent is None else spent,
    }


def write_rows(folder: StudyFolder, config: TrajectoryConfig, rows: Sequence[dict]) -> None:
    """Write what a trial leaves on the disk, for a driver that did not hear of it."""
    path = folder.trajectory(config.id)
    path.mkdir(parents=True, exist_ok=True)
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def finish(campaign: Campaign, config: TrajectoryConfig) -> None:
    for point in config.points:
        campaign.tell(observe(config, point))
    campaign.tell(ended(config))
    campaign.returned(config.id)


def run(campaign: Campaign, at_once: int = 2) -> None:
    """Run a campaign to its end, `at_once` trials in flight, the oldest ending first."""
    play(
        campaign,
        lambda config: [observed_loss(config, point) for point in config.points],
        at_once=at_once,
        evaluator=lambda config: "data/bound",
    )


def report(
    campaign: Campaign, rows_of: Callable[[TrajectoryConfig], Sequence[dict]], trials: int
) -> list[TrajectoryConfig]:
    """Run a campaign, one trial at a time, each reporting its `rows_of`; return the trials."""
    done: list[TrajectoryConfig] = []
    while len(done) < trials and isinstance(answer := campaign.ask(), TrajectoryConfig):
        for row in rows_of(answer):
            campaign.tell(row)
        campaign.returned(answer.id)
        done.append(answer)
    return done
