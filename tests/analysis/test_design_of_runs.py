"""The next run: scores against brute force, and a search that beats random choice."""

import numpy as np
import pandas as pd
import pytest
from laboratory import fit_plain, observe, true_optimum, untuned

from analysis.design import (
    Tolerances,
    answer_gradients,
    condition_on,
    expected_widths,
    score_candidates,
    space_filling,
)
from analysis.laws.base import Points

TARGET = 1e14
LARGEST = 1e11


@pytest.fixture(scope="module")
def fit():
    return fit_plain(untuned(12, 0), bootstrap=20)


def candidates() -> pd.DataFrame:
    rows = [
        (np.sqrt(work / 6 / ratio), np.sqrt(work / 6 * ratio), work)
        for work in np.geomspace(1e8, LARGEST, 10)
        for ratio in np.geomspace(1, 500, 12)
    ]
    return pd.DataFrame(rows, columns=["params", "tokens", "cost"])


def test_score_is_the_fall_of_the_answers_variance(fit):
    """(g V f)^2 / (s^2 + f V f), summed over answers, is what conditioning on the run removes."""
    run = candidates().iloc[[37]]
    g = answer_gradients(fit.law, fit.theta, TARGET, Tolerances(0.1, 0.02))
    f = fit.law.gradient(fit.theta, Points.of(run["params"], run["tokens"]))
    precision = np.linalg.inv(fit.covariance) + f.T @ f / fit.sigma**2
    before, after = (np.trace(g @ v @ g.T) for v in (fit.covariance, np.linalg.inv(precision)))
    score = score_candidates(
        fit, run, target_flops=TARGET, tolerances=Tolerances(0.1, 0.02), exponent=0.0
    )
    assert score[0] == pytest.approx(before - after, rel=1e-4)


def test_cost_and_overhead_lower_the_score(fit):
    runs = candidates()
    free = score_candidates(fit, runs, target_flops=TARGET, exponent=0.0)
    priced = score_candidates(fit, runs, target_flops=TARGET, exponent=0.7, overhead=1e9)
    np.testing.assert_allclose(priced, free / (runs["cost"] + 1e9) ** 0.7)


def test_a_pending_run_makes_its_twin_worth_less(fit):
    runs = candidates()
    alone = score_candidates(fit, runs, target_flops=TARGET)
    best = int(alone.argmax())
    pending = runs.iloc[[best]]
    after = score_candidates(fit, runs, target_flops=TARGET, pending=pending)
    assert after[best] < 0.6 * alone[best]
    nothing = score_candidates(fit, runs, target_flops=TARGET, pending=runs.head(0))
    np.testing.assert_array_equal(nothing, alone)


def test_conditioning_matches_the_information_form(fit):
    f = fit.law.gradient(fit.theta, Points.of([1e4, 3e5], [1e7, 1e6]))
    found = condition_on(fit.covariance, f, 1e-4)
    expected = np.linalg.inv(np.linalg.inv(fit.covariance) + f.T @ f / 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


def test_expected_widths_shrink_with_runs(fit):
    now = expected_widths(fit, TARGET)
    later = expected_widths(fit, TARGET, candidates().iloc[::10])
    assert later["params"] < now["params"]
    assert later["loss"] < now["loss"]


def test_tighter_tolerance_on_loss_moves_the_choice_towards_it(fit):
    """Each answer's own best run must score higher when that answer is what is wanted."""
    runs = candidates()
    for_params = score_candidates(
        fit, runs, target_flops=TARGET, tolerances=Tolerances(0.01, 10.0), exponent=0
    )
    for_loss = score_candidates(
        fit, runs, target_flops=TARGET, tolerances=Tolerances(10.0, 0.001), exponent=0
    )
    assert np.corrcoef(for_params, for_loss)[0, 1] < 0.999


def level(work: float, low: float, high: float) -> pd.DataFrame:
    """Forty sizes that share a budget, of D / N from `low` to `high`."""
    ratio = np.geomspace(low, high, 40)
    columns = {"params": np.sqrt(work / 6 / ratio), "tokens": np.sqrt(work / 6 * ratio)}
    return pd.DataFrame({**columns, "cost": work})


def test_first_runs_share_budgets_spread_sizes_and_start_cheap_from_the_middle():
    levels = [level(work, 5, 800) for work in (1e9, 1e10, 1e11)]
    runs = space_filling(levels, allowance=np.inf, sizes=5)
    assert runs["cost"].is_monotonic_increasing
    for number, drawn in runs.groupby("level"):
        steps = np.diff(np.sort(np.log(drawn["params"])))
        np.testing.assert_allclose(steps, np.log(160) / 8, rtol=0.15)
        middle = np.median(levels[int(number)]["params"])
        distance = np.abs(np.log(drawn["params"] / middle)).to_numpy()
        assert distance[0] < 0.1
        assert distance[-1] > distance[1]


def test_first_runs_keep_to_their_allowance_in_whole_levels():
    levels = [level(work, 5, 800) for work in (1e9, 1e10, 1e11)]
    runs = space_filling(levels, allowance=1e11, sizes=5)
    assert set(runs["level"]) == {0, 1}
    assert runs["cost"].sum() == pytest.approx(5.5e10)
    assert len(space_filling(levels, allowance=0, sizes=5)) == 5, "one level is always bought"
    assert space_filling([levels[0].head(0)], allowance=1e12).empty


def search(seed: int, adaptive: bool, budget: float) -> tuple[float, float]:
    """Spend `budget`; return the errors of ln N_opt and ln L_opt at the target."""
    rng = np.random.default_rng(seed)
    pool, runs, spent = candidates(), [], 0.0

    def train(params: float, tokens: float) -> float:
        runs.append(observe(np.array([params]), np.array([tokens]), rng))
        return 6 * params * tokens

    if adaptive:
        levels = [level(work, 3, 130) for work in (1e8, 1e9)]
        first = space_filling(levels, allowance=np.inf, sizes=4)
        spent += sum(train(r.params, r.tokens) for r in first.itertuples())
    while True:
        ceiling = max(spent / 3, 3e8) if adaptive else np.inf
        room = pool[pool["cost"] <= min(budget - spent, ceiling)]
        if room.empty or len(runs) >= 60:
            break
        if adaptive:
            fit = fit_plain(pd.concat(runs, ignore_index=True), bootstrap=1)
            score = score_candidates(fit, room, target_flops=TARGET, overhead=1e9)
            chosen = room.iloc[int(score.argmax())]
        else:
            chosen = room.iloc[int(rng.integers(len(room)))]
        spent += train(chosen["params"], chosen["tokens"])
    best = fit_plain(pd.concat(runs, ignore_index=True), bootstrap=1, priors="weak").optimum(
        TARGET
    )
    params, loss = true_optimum(TARGET)
    return abs(np.log(best.params.value / params)), abs(np.log(best.loss.value / loss))


def test_adaptive_runs_beat_random_ones_at_equal_flops():
    """Noise .4 %, target a thousand times the largest run, medians over 14 seeds."""
    budget = 0.5 * LARGEST
    adaptive = np.median([search(s, True, budget) for s in range(14)], axis=0)
    random = np.median([search(s, False, budget) for s in range(14)], axis=0)
    assert adaptive[0] < 0.6 * random[0]
    assert adaptive[1] < 0.9 * random[1]
