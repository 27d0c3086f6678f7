"""A simulated laboratory: a known law, runs with noise, learning rates off by a known factor."""

import numpy as np
import pandas as pd

from analysis.fitting.fit import fit_law

E, A, B, ALPHA, BETA = 1.9, 40.0, 90.0, 0.42, 0.38
LR, LR_SLOPE_PARAMS, LR_SLOPE_TOKENS = 6e-3, -0.2, 0.05
CURVATURE = 0.03


def true_loss(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return E + A / params**ALPHA + B / tokens**BETA


def true_optimum(flops: float) -> tuple[float, float]:
    """Return the best N for 6 N D = flops and the loss there."""
    ratio = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    params = ratio * (flops / 6) ** (BETA / (ALPHA + BETA))
    return params, float(true_loss(np.array(params), np.array(flops / 6 / params)))


def true_lr(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return LR * (params / 1e4) ** LR_SLOPE_PARAMS * (tokens / 1e6) ** LR_SLOPE_TOKENS


def observe(
    params: np.ndarray, tokens: np.ndarray, rng: np.random.Generator, noise: float = 0.004
) -> pd.DataFrame:
    """Return runs at these sizes with noise, learning rates all at their best."""
    loss = true_loss(params, tokens) * np.exp(noise * rng.standard_normal(len(params)))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})


def scattered(
    count: int, rng: np.random.Generator, flops: tuple[float, float] = (1e9, 1e12)
) -> tuple[np.ndarray, np.ndarray]:
    """Return N and D at random: C over `flops`, D / N from 3 to 1000."""
    work = np.exp(rng.uniform(*np.log(flops), count))
    ratio = np.exp(rng.uniform(np.log(3), np.log(1000), count))
    params = np.sqrt(work / 6 / ratio)
    return params, params * ratio


def untuned(count: int, seed: int, noise: float = 0.004) -> pd.DataFrame:
    """Return runs whose learning rates are off by up to a factor of 4, half of them on cosine."""
    rng = np.random.default_rng(seed)
    params, tokens = scattered(count, rng)
    runs = observe(params, tokens, rng, noise)
    off = rng.uniform(-np.log(4), np.log(4), count)
    cosine = np.arange(count) % 2 == 1
    runs["loss"] *= np.exp(CURVATURE * off**2 + 0.012 * cosine)
    runs["lr"] = true_lr(params, tokens) * np.exp(off)
    runs["lr_schedule"] = np.where(cosine, "cosine", "wsd")
    return runs


def fit_plain(runs, **settings):
    """Return the five-parameter law fitted the published way, without a discrepancy."""
    return fit_law(runs, **{"law": "chinchilla", "discrepancy": "none", **settings})


def difference(function, theta: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Return the central difference of function(theta), with theta's axis last."""
    columns = []
    for index in range(theta.size):
        move = np.zeros_like(theta)
        move[index] = step
        columns.append((function(theta + move) - function(theta - move)) / (2 * step))
    return np.stack(columns, axis=-1)
