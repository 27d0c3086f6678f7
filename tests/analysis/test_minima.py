"""Where curves of repeated data are lowest, without a law, and how that moves with N and U."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.minima import NOT_REACHED, ROSE, TURNED, curve_minima, minima_trend

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "quokka_data_constrained.csv"
SIZES, UNIQUE = (5e4, 1e5, 2e5, 4e5), (8192.0, 16384.0, 32768.0)
M, K = 0.5, 0.3


def lowest_at(params: float, unique: float) -> float:
    return 60.0 * (unique / 16384.0) ** M / (params / 1e5) ** K


def curve(
    params: float, unique: float, last: float, noise: float, rng: np.random.Generator
) -> pd.DataFrame:
    """A curve to `last` epochs that falls more slowly than it rises about its minimum."""
    epochs = np.exp(np.arange(np.log(4.0), np.log(last) + 1e-9, 0.3))
    x = np.log(epochs / lowest_at(params, unique))
    loss = 2.4 * np.exp(0.02 * x**2 + 0.004 * x**3 + noise * rng.normal(size=epochs.size))
    return pd.DataFrame(
        {
            "trajectory": f"N{params:g}-U{unique:g}", "params": params, "unique_tokens": unique,
            "tokens": epochs * unique, "loss": loss, "loss_stderr_paired": 0.004,
        }
    )  # fmt: skip


def table(last: float = 600.0, noise: float = 0.004, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.concat([curve(n, u, last, noise, rng) for n in SIZES for u in UNIQUE])


def test_minima_lie_where_the_curves_are_lowest_as_often_as_their_intervals_say():
    inside = []
    for seed in range(20):
        found = curve_minima(table(seed=seed))
        assert (found["shape"] == TURNED).all()
        truth = [
            lowest_at(n, u) for n, u in zip(found["params"], found["unique_tokens"], strict=True)
        ]
        inside += ((found["epochs_low"] <= truth) & (truth <= found["epochs_high"])).tolist()
        assert np.abs(np.log(found["epochs"] / truth)).median() < 0.15
    assert 0.8 <= np.mean(inside) <= 0.99


def test_a_table_says_the_same_in_any_order_of_its_rows():
    one = curve_minima(table())
    other = curve_minima(table().sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(one, other)


def test_a_curve_that_only_fell_has_no_minimum_but_a_bound():
    rng = np.random.default_rng(0)
    (row,) = curve_minima(curve(1e5, 16384.0, 30.0, 0.0, rng)).itertuples()
    assert row.shape == NOT_REACHED
    assert np.isnan(row.epochs)
    assert row.epochs_low == row.last
    assert row.rise == 0


def test_a_curve_that_rose_by_less_than_the_margin_has_no_upper_end():
    rng = np.random.default_rng(0)
    (row,) = curve_minima(curve(1e5, 16384.0, 110.0, 0.0, rng)).itertuples()
    assert row.shape == ROSE
    assert row.epochs == pytest.approx(60.0, rel=0.1)
    assert np.isnan(row.epochs_high)


def test_rows_past_a_peak_and_curves_of_one_epoch_are_passed_by():
    falls_again = curve(1e5, 16384.0, 600.0, 0.0, np.random.default_rng(0))
    more = falls_again.tail(4).assign(loss=[2.3, 2.1, 1.9, 1.8])
    more["tokens"] *= 4
    (row,) = curve_minima(pd.concat([falls_again, more])).itertuples()
    assert row.epochs == pytest.approx(60.0, rel=0.1)
    once = falls_again.assign(unique_tokens=1e9)
    assert curve_minima(once).empty
    assert minima_trend(curve_minima(once)) is None


def test_the_trend_is_the_truths():
    inside = []
    for seed in range(20):
        trend = minima_trend(curve_minima(table(seed=seed)))
        assert trend is not None
        assert trend.count == 12
        assert trend.with_unique.value == pytest.approx(M, abs=0.25)
        assert trend.with_params.value == pytest.approx(K, abs=0.2)
        inside += [trend.with_unique.low <= M <= trend.with_unique.high]
        inside += [trend.with_params.low <= K <= trend.with_params.high]
    assert 0.75 <= np.mean(inside) <= 1.0


def test_one_level_of_unique_tokens_or_too_few_curves_say_nothing_of_a_trend():
    found = curve_minima(table())
    assert minima_trend(found[found["unique_tokens"] == UNIQUE[0]]) is None
    assert minima_trend(found.head(3)) is None


def test_the_papers_own_curves_turn_earlier_for_larger_models():
    if not DATA.is_file():
        pytest.skip("quokka_data_constrained.csv lies outside the repository, in ../shared/data")
    runs = pd.read_csv(DATA).rename(columns={"curve_id": "trajectory", "val_loss": "loss"})
    found = curve_minima(runs[runs["before_step_256"] == 0])
    trend = minima_trend(found)
    assert trend is not None
    assert trend.count > 35
    assert 0.3 < trend.with_params.low < trend.with_params.high < 0.45
    assert trend.with_unique.low > 0
