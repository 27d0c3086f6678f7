"""The discrepancy beside a law: exact conditioning, wider away from runs, and coverage."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from laboratory import fit_plain, observe, scattered

from analysis.discrepancy import (
    Discrepancy,
    DiscrepancyPrior,
    correlation,
    reducible_share,
)
from analysis.fitting.fit import fit_law
from analysis.laws.base import Points, get_law

TARGET = 1e14
LAW = get_law("chinchilla")
THETA = np.array([np.log(1.8), np.log(480.0), np.log(2100.0), 0.35, 0.37])


def process(amplitude=0.02, trajectory=None, rows=12):
    rng = np.random.default_rng(0)
    return Discrepancy(
        amplitude=amplitude,
        length=4.0,
        sigma=0.004,
        log_params=rng.uniform(17, 22, rows),
        log_tokens=rng.uniform(20, 25, rows),
        trajectory=np.arange(rows) if trajectory is None else trajectory,
        residual=0.02 * rng.standard_normal(rows),
        weights=np.ones(rows),
    )


def test_conditioning_equals_the_textbook_formula():
    known = process()
    points = Points(np.array([18.0, 23.0]), np.array([21.0, 26.0]))
    here = (known.log_params, known.log_tokens)
    there = (points.log_params, points.log_tokens)
    share, far = (0.02 * reducible_share(LAW, THETA, p) for p in (Points(*here), points))
    total = np.outer(share, share) * correlation(here, here, 4.0) + 0.004**2 * np.eye(12)
    cross = np.outer(far, share) * correlation(there, here, 4.0)
    inverse = np.linalg.inv(total)
    found = known.given(LAW, THETA).at(points)
    np.testing.assert_allclose(found.mean, cross @ inverse @ known.residual, rtol=1e-6)
    variance = far**2 - np.einsum("sr,rq,sq->s", cross, inverse, cross)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)
    gradient = LAW.gradient(THETA, Points(*here))
    np.testing.assert_allclose(found.pull, cross @ inverse @ gradient, rtol=1e-5, atol=1e-9)


def test_the_slope_along_a_budget_is_the_means_difference():
    known = process()
    x, z, step = 19.3, 22.4, 1e-5
    slope = known.given(LAW, THETA).slope_on_budget(Points(np.array([x]), np.array([z])))
    around = known.given(LAW, THETA).at(
        Points(np.array([x - step, x + step]), np.array([z + step, z - step]))
    )
    share = reducible_share(LAW, THETA, Points(np.full(3, x), np.full(3, z)))
    moved = reducible_share(
        LAW, THETA, Points(x + step * np.array([-1, 0, 1]), z - step * np.array([-1, 0, 1]))
    )
    mean, pull = (v / moved[[0, 2]] for v in (around.mean, around.pull.T))
    assert slope.mean[0] == pytest.approx((mean[1] - mean[0]) / 2 / step * share[0], rel=1e-4)
    np.testing.assert_allclose(
        slope.pull[0], (pull[:, 1] - pull[:, 0]) / 2 / step * share[0], rtol=1e-3, atol=1e-8
    )


def test_far_from_runs_the_process_forgets_them():
    known = process()
    points = Points(np.array([80.0]), np.array([0.0]))
    far = known.given(LAW, THETA).at(points)
    assert abs(far.mean[0]) < 1e-6
    expected = (0.02 * reducible_share(LAW, THETA, points)[0]) ** 2
    assert far.variance[0] == pytest.approx(expected, rel=1e-4)


def test_where_nothing_is_left_to_reduce_the_form_cannot_be_wrong():
    near = process().given(LAW, THETA).at(Points(np.array([16.0]), np.array([10.0])))
    done = process().given(LAW, THETA).at(Points(np.array([60.0]), np.array([60.0])))
    assert done.variance[0] < 1e-3 * near.variance[0]


def test_observations_of_one_trajectory_say_less_than_as_many_runs():
    there = Points(np.array([19.0]), np.array([22.0]))
    separate = process()
    together = process(trajectory=np.zeros(12, dtype=int))
    assert (
        together.given(LAW, THETA).at(there).variance[0]
        > separate.given(LAW, THETA).at(there).variance[0]
    )


def bent(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs whose small ones lie above the law by 3 % and less as they grow."""
    flops = runs["params"] * runs["tokens"]
    return runs.assign(loss=runs["loss"] * (1 + 0.03 * (flops.min() / flops) ** 0.25))


def test_where_the_form_is_wrong_larger_runs_fall_into_the_wider_intervals_only():
    inside: dict[str, list[bool]] = {"plain": [], "auto": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        runs = bent(observe(*scattered(60, rng), rng))
        flops = runs["params"] * runs["tokens"]
        small, large = runs[flops < flops.median()], runs[flops > flops.quantile(0.8)]
        for name, fit in (("plain", fit_plain(small, bootstrap=50)), ("auto", fit_law(small))):
            found = fit.predict(large["params"], large["tokens"], noise=True)
            inside[name] += list((found.low < large["loss"]) & (large["loss"] < found.high))
    assert np.mean(inside["auto"]) > 0.85
    assert np.mean(inside["plain"]) < np.mean(inside["auto"])


def test_an_outlier_moves_the_answer_little():
    rng = np.random.default_rng(3)
    runs = observe(*scattered(40, rng), rng)
    spoiled = runs.copy()
    spoiled.loc[5, "loss"] *= 1.5
    clean, hit = (fit_law(r).optimum(TARGET).params for r in (runs, spoiled))
    assert abs(np.log(hit.value / clean.value)) < 0.3
    assert clean.low < hit.value < clean.high


def test_more_rows_than_can_be_solved_are_drawn_evenly_and_it_is_said():
    rng = np.random.default_rng(4)
    runs = observe(*scattered(700, rng), rng)
    fit = fit_law(runs, bootstrap=20)
    assert len(fit.runs) == 600
    assert any("600 of 700 rows" in w for w in fit.warnings)


def test_settings_are_kept_with_the_fit():
    rng = np.random.default_rng(5)
    runs = observe(*scattered(20, rng), rng)
    fit = fit_law(runs, discrepancy=DiscrepancyPrior(amplitude=0.05), bootstrap=20)
    assert fit.settings.as_dict()["discrepancy"]["amplitude"] == 0.05
    assert fit_law(runs, huber_delta=1e-3, bootstrap=20).discrepancy is None
    assert fit_law(runs, priors="none", bootstrap=20).discrepancy is None


@pytest.mark.parametrize("discrepancy", ["auto", "none"])
def test_a_row_of_little_weight_hardly_counts(discrepancy):
    rng = np.random.default_rng(6)
    runs = observe(*scattered(30, rng), rng)
    spoiled = runs.assign(weight=1.0)
    spoiled.loc[7, ["loss", "weight"]] = [float(runs.loc[7, "loss"]) * 1.3, 1e-6]
    without = fit_law(runs.drop(index=7), discrepancy=discrepancy, bootstrap=20)
    down = fit_law(spoiled, discrepancy=discrepancy, bootstrap=20)
    expected, found = (fit.optimum(TARGET) for fit in (without, down))
    assert found.params.value == pytest.approx(expected.params.value, rel=0.02)
    assert found.loss.value == pytest.approx(expected.loss.value, rel=0.002)


@pytest.mark.parametrize("discrepancy", ["auto", "none"])
def test_covariances_between_points_agree_with_spreads_and_are_definite(discrepancy):
    rng = np.random.default_rng(7)
    runs = observe(*scattered(25, rng), rng)
    state = fit_law(runs, law="chinchilla", discrepancy=discrepancy, bootstrap=20).state
    points = Points.of([1e4, 1e5, 1e6], [1e7, 1e8, 1e9])
    joint = state.covariance_between(points, points)
    np.testing.assert_allclose(np.diag(joint), state.spread_at(points) ** 2, rtol=1e-6)
    assert (np.linalg.eigvalsh(joint) > -1e-12).all()


@pytest.mark.parametrize("repeats", [2, 4])
def test_rows_without_any_noise_leave_a_law_that_predicts(repeats):
    """A place that is listed again with the same loss says that there is no noise at all."""
    params, tokens = (v.ravel() for v in np.meshgrid([1e7, 5e7, 2.5e8], [3e8, 2e9, 1e10]))
    loss = np.exp(LAW.log_loss(THETA, Points.of(params, tokens)))
    runs = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    fit = fit_law(pd.concat([runs] * repeats, ignore_index=True), bootstrap=20)
    assert fit.sigma == pytest.approx(1e-5, rel=0.01), "what five printed digits leave open"
    seen = fit.predict(params, tokens)
    np.testing.assert_allclose(seen.value, loss, rtol=1e-4)
    assert np.all((seen.low <= loss) & (loss <= seen.high))
    best = fit.optimum(1e22)
    assert best.params.low < np.exp(LAW.optimum(THETA, 1e22)[0]) < best.params.high


def test_a_law_file_whose_noise_is_next_to_nothing_predicts():
    place = np.array([18.0, 20.0, 18.0, 20.0])
    known = replace(
        process(), sigma=1e-15, log_params=place, log_tokens=place + 3.0,
        trajectory=np.arange(4), residual=np.array([0.01, -0.01] * 2), weights=np.ones(4),
    )  # fmt: skip
    found = known.given(LAW, THETA).at(Points(place, place + 3.0))
    np.testing.assert_allclose(found.mean, known.residual, rtol=1e-5)
    assert np.all(found.variance < 1e-10)
