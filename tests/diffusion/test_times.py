import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import load
from scipy.integrate import quad

from quokka_ray.diffusion.times import (
    SPREADS,
    MovingGaussian,
    TimeSampler,
    log_uniform,
    rescale,
    shift,
    stratify,
)

PUBLISHED = load("objectives")["times"]


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("rows", [4, 8])
def test_stratified_and_systematic_times_are_the_published_ones(rows):
    mdlm = PUBLISHED[f"mdlm_antithetic_n{rows}_eps1e-3"]
    times = rescale(stratify(np.array(mdlm["u"])), 1e-3)
    np.testing.assert_allclose(times, mdlm["t"], rtol=1e-9)
    gidd = PUBLISHED[f"gidd_low_discrepancy_n{rows}_eps1e-4"]
    np.testing.assert_allclose(rescale(shift(gidd["u"], rows), 1e-4, 1 - 1e-4), gidd["t"])
    md4 = PUBLISHED[f"md4_antithetic_n{rows}"]
    np.testing.assert_allclose(shift(md4["u"], rows), md4["t"], rtol=1e-9)


@pytest.mark.parametrize("rows", [4, 8])
def test_importance_times_are_the_published_ones(rows):
    # mdlm: rates from 1 - exp(-0.001), which it computes in float32, to 0.999; rate = 0.999 t.
    mdlm = PUBLISHED[f"mdlm_antithetic_n{rows}_eps1e-3"]
    low = -math.expm1(-1e-3)
    rates = log_uniform(np.array(mdlm["t"]), low, 0.999)
    np.testing.assert_allclose(rates / 0.999, mdlm["t_importance_sampled_loglinear"], rtol=2e-5)


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_a_stratified_batch_has_one_time_in_every_part(pairs, seed):
    rows = 2 * pairs
    for name in ("stratified", "systematic", "antithetic"):
        values = SPREADS[name](generator(seed), rows)
        assert sorted((values * rows).astype(int).clip(0, rows - 1)) == list(range(rows)), name


@given(st.integers(1, 40), st.integers(0, 10**6))
def test_antithetic_rows_come_in_neighbouring_opposites(pairs, seed):
    values = SPREADS["antithetic"](generator(seed), 2 * pairs)
    np.testing.assert_allclose(values[0::2] + values[1::2], 1)


@pytest.mark.parametrize("name", sorted(SPREADS))
def test_every_row_has_a_uniform_time_by_itself(name):
    draws = generator()
    values = np.stack([SPREADS[name](draws, 4) for _ in range(4000)])
    np.testing.assert_allclose(values.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose((values < 0.1).mean(0), 0.1, atol=0.02)


@given(
    st.sampled_from(sorted(SPREADS)),
    st.floats(1e-4, 0.1),
    st.none() | st.builds(MovingGaussian, st.floats(0.01, 2), st.booleans()),
    st.floats(0, 1),
)
def test_times_stay_in_their_range_and_corrections_are_positive(name, low, curriculum, progress):
    if name == "importance" and curriculum is not None:
        return
    times = TimeSampler(name, low, curriculum=curriculum).draw(generator(), 64, progress)
    assert (times.values >= low).all()
    assert (times.values <= 1).all()
    assert (times.correction > 0).all()
    assert np.isfinite(times.correction).all()


@pytest.mark.parametrize(
    "sampler",
    [
        TimeSampler("stratified", 0.01),
        TimeSampler("importance", 0.01),
        TimeSampler("stratified", 0.01, curriculum=MovingGaussian(0.3, reweight=True)),
    ],
)
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_corrected_times_estimate_the_integral_over_uniform_time(sampler, progress):
    expected = quad(lambda t: math.sin(3 * t) / t, 0.01, 1)[0] / 0.99
    times = sampler.draw(generator(), 400_000, progress)
    estimate = (np.sin(3 * times.values) / times.values * times.correction).mean()
    assert estimate == pytest.approx(expected, rel=2e-3)


def test_the_curriculums_window_moves_from_clean_to_noisy():
    sampler = TimeSampler("stratified", 1e-3, curriculum=MovingGaussian(0.1, reweight=False))
    means = [sampler.draw(generator(), 512, p).values.mean() for p in (0, 0.25, 0.5, 0.75, 1)]
    assert means == sorted(means)
    assert means[2] == pytest.approx(0.5, abs=1e-3)
    # Half a normal distribution, cut at the end of time.
    assert means[4] == pytest.approx(1 - 0.1 * math.sqrt(2 / math.pi), abs=1e-3)
    spread = sampler.draw(generator(), 512, 0.5).values.std()
    assert spread == pytest.approx(0.1, rel=0.02)
