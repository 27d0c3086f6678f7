"""IsoFLOP parabolas: grouping, minima, and the flag that both arms are seen."""

import numpy as np
import pandas as pd
import pytest
from laboratory import true_loss, true_optimum

from analysis.fitting.isoflop import (
    group_budgets,
    isoflop_bias,
    isoflop_parabolas,
    isoflop_samples,
)
from analysis.laws.chinchilla import CHINCHILLA


def curve(flops: float, params: np.ndarray) -> pd.DataFrame:
    tokens = flops / 6 / params
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": true_loss(params, tokens)})


def test_budgets_within_a_tenth_are_one():
    found = group_budgets(np.array([1.0e18, 3.2e18, 1.08e18, 3.0e18, 9.0e18]))
    assert list(found) == [0, 1, 0, 1, 2]


def test_a_chain_of_near_budgets_is_not_one_budget():
    assert len(set(group_budgets(np.geomspace(1e18, 2e18, 15)))) > 4


def test_minima_near_the_laws_optimum_and_both_arms_seen():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(0.4, 2.5, 7)) for c in (1e10, 1e11, 1e12)]
    )
    found = isoflop_parabolas(runs)
    assert found.minima["both_arms"].all()
    best = [true_optimum(c)[0] for c in (1e10, 1e11, 1e12)]
    np.testing.assert_allclose(found.minima["params"], best, rtol=0.05)
    np.testing.assert_allclose(
        6 * found.minima["params"] * found.minima["tokens"], found.minima["flops"]
    )
    assert found.params_law is not None
    assert found.params_law.exponent == pytest.approx(0.38 / 0.80, abs=0.01)
    assert found.params_law(1e11) == pytest.approx(best[1], rel=0.05)


def test_one_arm_alone_is_flagged_and_gives_no_power_law():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(3.0, 20.0, 5)) for c in (1e10, 1e11)]
    )
    found = isoflop_parabolas(runs)
    assert not found.minima["both_arms"].any()
    assert found.params_law is None


def test_budgets_of_fewer_than_three_sizes_are_left_out():
    runs = pd.concat([curve(1e10, np.array([1e3, 1e4, 1e5])), curve(1e11, np.array([1e4, 1e5]))])
    found = isoflop_parabolas(runs)
    assert len(found.minima) == 1
    assert list(found.group) == [0, 0, 0, -1, -1]


def test_losses_given_take_the_place_of_the_column():
    runs = curve(1e11, true_optimum(1e11)[0] * np.geomspace(0.3, 3, 7))
    doubled = isoflop_parabolas(runs, loss=2 * runs["loss"].to_numpy())
    assert doubled.minima["loss"][0] == pytest.approx(
        2 * isoflop_parabolas(runs).minima["loss"][0]
    )


@pytest.mark.parametrize(("sizes", "low", "high"), [(24, 0.8, 1.25), (8, 1.0, 3.0)])
def test_resamples_scatter_as_noise_does_and_wider_for_few_sizes(sizes, low, high):
    rng = np.random.default_rng(0)
    budgets = np.geomspace(1e9, 1e12, 6)
    reach = np.geomspace(0.2, 5.0, sizes)
    clean = pd.concat([curve(c, true_optimum(c)[0] * reach) for c in budgets])

    def noisy() -> pd.DataFrame:
        return clean.assign(loss=clean["loss"] * np.exp(0.004 * rng.standard_normal(len(clean))))

    repeated = [isoflop_parabolas(noisy()).params_law.exponent for _ in range(300)]
    drawn = [isoflop_samples(noisy(), count=300, seed=s)[:, 1] for s in range(5)]
    widths = [np.subtract(*np.percentile(d, [95, 5])) / 3.29 for d in drawn]
    assert low < np.mean(widths) / np.std(repeated) < high
    assert isoflop_samples(noisy(), count=7).shape == (7, 2)


def test_resamples_agree_with_polyfit_on_the_drawn_runs():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(0.3, 3, 8)) for c in (1e10, 1e12)]
    )
    found = isoflop_samples(runs, count=1, seed=4)
    rng = np.random.default_rng(4)
    minima = []
    for budget in (runs[:8], runs[8:]):
        counts = rng.multinomial(8, np.full(8, 1 / 8), size=1)[0]
        drawn = budget.iloc[np.repeat(np.arange(8), counts)]
        c2, c1, _ = np.polyfit(np.log(drawn["params"]), drawn["loss"], 2)
        minima.append(-c1 / (2 * c2))
    slope = (minima[1] - minima[0]) / np.log(100)
    assert found[0, 1] == pytest.approx(slope, rel=1e-6)
    assert found[0, 0] == pytest.approx(minima[0] - slope * np.log(1e10), rel=1e-6)


def test_resamples_of_one_arm_give_no_law():
    runs = pd.concat(
        [curve(c, true_optimum(c)[0] * np.geomspace(3.0, 20.0, 5)) for c in (1e10, 1e11)]
    )
    assert np.isnan(isoflop_samples(runs, count=5)).all()


@pytest.mark.parametrize(("reach", "off"), [(1.5, 1.0), (16.0, 1.0), (8.0, 3.0)])
def test_bias_is_what_parabolas_get_wrong_without_noise(reach, off):
    theta = CHINCHILLA.theta(np.array([1.9, 40.0, 90.0, 0.42, 0.38]))
    # Off the optimum by more at larger budgets, as a grid of fixed sizes is.
    runs = pd.concat(
        [
            curve(c, off**i * true_optimum(c)[0] * np.geomspace(1 / reach, reach, 9))
            for i, c in enumerate(np.geomspace(1e9, 1e11, 3))
        ]
    )
    bias = isoflop_bias(runs, CHINCHILLA, theta, 1e13)
    assert bias is not None
    law = isoflop_parabolas(runs).params_law
    assert law is not None
    assert bias.exponent == pytest.approx(law.exponent - 0.38 / 0.80, abs=1e-9)
    truth = np.log(true_optimum(1e13)[0])
    assert bias.log_params == pytest.approx(np.log(law(1e13)) - truth, abs=1e-9)
    if reach == 1.5:
        assert abs(bias.log_params) < 0.01
    else:
        assert abs(bias.log_params) > 0.03


def test_budgets_that_are_not_six_n_d_group_the_runs_and_keep_their_own_line():
    tables = []
    for c in (1e10, 1e11, 1e12):
        params = true_optimum(c)[0] * np.geomspace(0.4, 2.5, 9)
        # Exact FLOPs: small models pay more than 6 N D for each token.
        tokens = c / 6 / params * (params / params.max()) ** 0.2
        loss = true_loss(params, tokens)
        tables.append(
            pd.DataFrame({"params": params, "tokens": tokens, "loss": loss, "planned": c})
        )
    runs = pd.concat(tables, ignore_index=True)
    assert len(isoflop_parabolas(runs).minima) != 3
    found = isoflop_parabolas(runs, budget=runs["planned"].to_numpy())
    assert list(found.minima["runs"]) == [9, 9, 9]
    for (_, row), table in zip(found.minima.iterrows(), tables, strict=True):
        tokens = np.interp(np.log(row["params"]), np.log(table["params"]), np.log(table["tokens"]))
        assert np.log(row["tokens"]) == pytest.approx(tokens, abs=1e-6)
        assert row["flops"] == pytest.approx(6 * row["params"] * row["tokens"])
    samples = isoflop_samples(runs, budget=runs["planned"].to_numpy(), count=20)
    assert np.isfinite(samples).all()
