"""A trajectory as rows of the run table: one for each observation, and one where there is none."""

from typing import Any

from analysis.laws.mixture import PREFIX
from analysis.ushape import SECOND_DESCENT, curve_of, second_descent
from quokka_ray.campaign.trajectory_state import Record, TrajectoryState, tokens_of
from quokka_ray.study.trajectory import TrajectoryConfig

RUN_COLUMNS = [
    "study", "trajectory", "observation", "params", "params_non_embedding", "tokens",
    "unique_tokens", "epochs", "flops", "flops_convention", "params_convention", "loss",
    "loss_stderr", "train_loss", "lr", "lr_schedule", "warmup_tokens", "warmup_fraction",
    "cooldown_tokens",
    "batch_tokens", "seq_len", "kernel", "noise_schedule", "objective", "weight_decay",
    "dropout", "seed", "corpus", "tokenizer", "evaluator", "cooled", "parent", "flops_spent",
    "device_seconds", "status", "loss_stderr_paired", "regime",
]  # fmt: skip


def run_rows(state: TrajectoryState) -> list[dict[str, Any]]:
    """Return a trajectory's rows of the run table, by `RUN_COLUMNS` and its mixture's shares."""
    config, ended = state.config, state.ended
    seen = [*state.observations, *state.diverged]
    seen.sort(key=lambda record: tokens_of(config, record))
    rows = [_run_row(config, record, record.get("status", "finished")) for record in seen]
    if ended is not None and ended["status"] != "finished" and len(seen) < len(config.points):
        rows.append(_run_row(config, ended, ended["status"]))
    if config.tokens > config.unique_tokens:
        marked = [row for row in rows if row["loss"] is not None]
        first = second_descent(*curve_of(marked))
        for row in marked[first:] if first is not None else ():
            row["regime"] = SECOND_DESCENT
    for name in ("flops_spent", "device_seconds"):
        before = 0.0
        for row in rows:
            if row[name] is not None:
                row[name], before = row[name] - before, row[name]
    return rows


def _run_row(config: TrajectoryConfig, record: Record, status: str) -> dict[str, Any]:
    tokens = tokens_of(config, record)
    unique = min(tokens, config.unique_tokens)
    return {
        "study": config.study,
        "trajectory": config.id,
        "observation": record.get("observation"),
        "params": config.params,
        "params_non_embedding": config.params_non_embedding,
        "tokens": tokens,
        "unique_tokens": unique,
        "epochs": tokens / unique,
        "flops": 6.0 * config.params * tokens,
        "flops_convention": "6ND",
        "params_convention": "total",
        "loss": record.get("loss"),
        "loss_stderr": record.get("loss_stderr"),
        "train_loss": record.get("train_loss"),
        "lr": config.lr,
        "lr_schedule": config.lr_schedule,
        "warmup_tokens": config.warmup_steps * config.batch_tokens,
        "warmup_fraction": config.training.warmup_fraction,
        "cooldown_tokens": config.cooldown_tokens(tokens) if record.get("cooled") else None,
        "batch_tokens": config.batch_tokens,
        "seq_len": config.model.seq_len,
        "kernel": config.diffusion.kernel,
        "noise_schedule": config.diffusion.noise_schedule,
        "objective": config.diffusion.objective,
        "weight_decay": config.training.weight_decay,
        "dropout": config.training.dropout,
        "seed": config.seed,
        "corpus": config.corpus_hash,
        "tokenizer": config.tokenizer,
        "evaluator": record.get("evaluator"),
        "cooled": record.get("cooled"),
        "parent": record.get("parent"),
        "flops_spent": record.get("flops_spent"),
        "device_seconds": record.get("device_seconds"),
        "status": status,
        "loss_stderr_paired": record.get("loss_stderr_paired"),
        "regime": None,
        **{PREFIX + part: share for part, share in config.mixture_shares.items()},
    }
