"""A campaign over repeated data whose trials are drawn from a known law of N, U and epochs."""

import numpy as np
from support.simulated import corpus, ended, report

from analysis.laws.base import Points, get_law
from analysis.ushape import past_minimum
from quokka_ray.campaign.campaign import Campaign
from quokka_ray.campaign.data_menu import DataMenu
from quokka_ray.study.config import StudyConfig
from quokka_ray.study.folder import StudyFolder
from quokka_ray.study.trajectory import TrajectoryConfig

STUDY = {
    "name": "repeated",
    "model": {"seq_len": 64, "head_dim": 8, "ffn_multiple": 8},
    "training": {"batch_sequences": 8, "lr": 1e-2},
    "search": {
        "params": {"low": "30k", "high": "180k"},
        "unique_tokens": {"low": 4096, "high": 16384},
        "max_epochs": 1024,
        "observation_ratio": 2,
        "run_flops": {"low": 1e11, "high": 4e12},
        "tokens_per_param": {"low": 0.1, "high": 10000},
        "lr_factor": {"low": 1, "high": 1},
        "lr_schedule": "constant",
        "initial_fraction": 0.8,
    },
    "budget": {"flops": 1.2e13},
    "target": {"unique_tokens": 32768},
    "law": {"bootstrap": 20},
}
LAW = get_law("data_constrained")
TRUTH = LAW.theta(np.array([0.8, 60.0, 8.0, 0.5, 0.14, 1.5, 30.0, 0.39, 0.5, 0.42]))
NOISE = 0.003


def study(**sections: dict) -> StudyConfig:
    merged = {name: {**STUDY.get(name, {}), **values} for name, values in sections.items()}
    return StudyConfig.model_validate({**STUDY, **merged})


def menu_of(config: StudyConfig) -> DataMenu:
    facts = corpus()
    return DataMenu(config, facts.vocab_size, facts.train_tokens)


def rows_of(config: TrajectoryConfig) -> list[dict]:
    """Return what a trial of `config` reports: its curve, ended early as its rule says."""
    rng = np.random.default_rng(config.seed)
    points = np.array(config.points, dtype=float)
    there = Points.of(config.params, points, config.unique_tokens)
    losses = np.exp(LAW.log_loss(TRUTH, there) + NOISE * rng.normal(size=points.size))
    training = config.flops_exact - len(points) * config.flops_evaluation
    rows, rule = [], config.early_end
    for number, (tokens, loss) in enumerate(zip(config.points, losses.tolist(), strict=True), 1):
        spent = training * tokens / config.path_tokens + number * config.flops_evaluation
        rows.append(
            {
                "kind": "observation", "trajectory": config.id, "tokens": tokens,
                "observation": f"{config.id}@{tokens}", "processed_tokens": tokens, "loss": loss,
                "loss_stderr": 0.03, "loss_stderr_paired": NOISE * loss, "cooled": False,
                "evaluator": "data/bound", "flops_spent": spent,
            }
        )  # fmt: skip
        if rule is not None and past_minimum(
            losses[:number].tolist(), [NOISE * loss] * number, margin=rule.margin
        ):
            break
    return [*rows, ended(config, spent=spent)]


def run(campaign: Campaign, trajectories: int = 10**9) -> list[TrajectoryConfig]:
    """Run a campaign, one trial at a time; return what was trained."""
    return report(campaign, rows_of, trajectories)


def open_campaign(config: StudyConfig, folder: StudyFolder) -> Campaign:
    return Campaign(config, corpus(), menu_of(config), folder)
