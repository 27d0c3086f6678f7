"""Gates that may be read after every run: no false alarms, power where the form fails."""

import numpy as np
import pandas as pd
import pytest

from analysis.gates import DECISIVE, form_evidence, surprise_evidence, trusted_from


def world(count: int, seed: int, bend=None) -> pd.DataFrame:
    """Return runs of a five-parameter law over 3.5 decades with .4 % noise, bent by a function."""
    rng = np.random.default_rng(seed)
    flops = np.exp(rng.uniform(np.log(1e17), np.log(3e20), count))
    params = 0.05 * np.sqrt(flops) * np.exp(rng.uniform(-1.8, 1.8, count))
    tokens = flops / 6 / params
    x, z = np.log(params / 3e8), np.log(tokens / 6e9)
    loss = 1.8 + 0.5 * np.exp(-0.35 * x) + 0.4 * np.exp(-0.37 * z)
    off = 0.0 if bend is None else bend(x, z, flops)
    noise = 0.004 * rng.standard_normal(count)
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(off + noise)})


def small_runs_apart(x, z, flops):
    return 0.03 * np.maximum(0, np.log(1e18 / flops))


def test_a_true_form_raises_no_alarm_however_often_it_is_looked_at():
    for seed in range(8):
        runs = world(60, seed)
        assert max(form_evidence(runs.iloc[:n]).total for n in range(12, 61, 6)) < DECISIVE


@pytest.mark.parametrize(
    "bend",
    [
        pytest.param(small_runs_apart, id="a break in compute"),
        pytest.param(lambda x, z, flops: 0.04 * np.exp(-x / 2), id="offsets of small models"),
        pytest.param(lambda x, z, flops: 0.006 * x * z, id="coupled terms"),
    ],
)
def test_a_wrong_form_is_rejected(bend):
    rejected = [form_evidence(world(70, seed, bend)).rejected for seed in range(6)]
    assert np.mean(rejected) >= 0.8


def test_dropping_the_small_runs_that_lie_apart_restores_trust():
    runs = world(120, 1, small_runs_apart)
    floor, evidence = trusted_from(runs)
    assert not evidence.rejected
    assert 1e17 < floor < 1e19
    whole, _ = trusted_from(world(120, 1))
    assert whole == pytest.approx(float((6 * runs["params"] * runs["tokens"]).min()))


def test_surprises_are_rare_for_honest_predictions_and_come_for_biased_ones():
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((400, 40))
    alarms = [
        max(surprise_evidence(z[: n + 1]) for n in range(z.size)) >= DECISIVE for z in honest
    ]
    assert np.mean(alarms) <= 0.02
    assert surprise_evidence(np.full(8, 2.0)) >= DECISIVE
    assert surprise_evidence([3.5, -4.0, 3.0, -3.8]) >= DECISIVE
    assert surprise_evidence([]) == 1.0
