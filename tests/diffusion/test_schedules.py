import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peers import MDLM, SCHEDULES, load

from quokka_ray.diffusion.schedules import (
    SCHEDULES as REGISTERED,
)
from quokka_ray.diffusion.schedules import (
    Cosine,
    Geometric,
    Linear,
    Poly,
    SigmaLinear,
    noise_schedule,
)

ANY = st.one_of(
    st.sampled_from([Linear(), Cosine(), Geometric(), SigmaLinear()]),
    st.builds(Poly, st.floats(0.25, 6)),
    st.builds(Geometric, st.floats(1e-6, 0.1), st.floats(1, 50)),
    st.builds(SigmaLinear, st.floats(1e-6, 0.1), st.floats(1, 50), st.booleans()),
)
TIMES = st.floats(0, 1)


def test_linear_schedule_masks_at_rate_t_with_weight_one_over_t():
    schedule = Linear()
    for t in (0.001, 0.25, 0.5, 1.0):
        assert schedule.alpha(t) == 1 - t
        assert schedule.alpha_prime(t) == -1
        assert schedule.weight(t) == pytest.approx(1 / t, rel=1e-12)


PUBLISHED = {
    **{name: SCHEDULES[name] for name in ("linear", "cosine", "poly2", "poly3", "poly0.5")},
    **MDLM,
    "geometric_alpha_1e-4_20": Geometric(spanning=False),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_equal_the_published_values(name):
    data = load("schedules")
    t, expected, schedule = np.array(data["t"]), data[name], PUBLISHED[name]
    # 1 - (1 - rate) costs the peers up to nine digits of the weight at small rates.
    lost = 1e-7 if name in ("poly2", "poly3", "geometric_alpha_1e-4_20") else 1e-9
    np.testing.assert_allclose(schedule.alpha(t), expected["alpha"], rtol=1e-9)
    np.testing.assert_allclose(schedule.alpha_prime(t), expected["dalpha"], rtol=1e-9)
    np.testing.assert_allclose(schedule.weight(t), expected["weight"], rtol=lost, atol=1e-12)


@pytest.mark.parametrize("name", ["Linear", "Cosine"])
def test_dllms_weights_differ_by_the_constant_it_adds_to_a_denominator(name):
    data = load("schedules")
    t, expected = np.array(data["t"]), data[f"dllm_{name}AlphaScheduler"]
    schedule = SCHEDULES[name.lower()]
    rate = np.exp(schedule.log1m_alpha(t))
    weight = schedule.weight(t) * rate / (rate + 1e-6)
    # Its float32 keeps four digits of t or of 1 - t within 1e-3 of an end.
    tolerance = np.where((t < 0.05) | (t > 0.99), 1e-4, 1e-5)
    assert (abs(weight / np.array(expected["weight"]) - 1) < tolerance).all()


@given(ANY, TIMES)
def test_alpha_is_a_probability_and_weights_are_never_negative(schedule, t):
    assert 0 <= schedule.alpha(t) <= 1
    assert schedule.alpha_prime(t) <= 0
    assert schedule.weight(t) >= 0
    total = math.exp(schedule.log_alpha(t)) + math.exp(schedule.log1m_alpha(t))
    assert total == pytest.approx(1, rel=1e-12)
    assert schedule.alpha(t) == pytest.approx(math.exp(schedule.log_alpha(t)), abs=1e-12)


@given(ANY, TIMES, TIMES)
def test_alpha_falls(schedule, one, other):
    early, late = sorted((one, other))
    assert schedule.alpha(late) <= schedule.alpha(early) + 1e-15
    assert schedule.log1m_alpha(late) >= schedule.log1m_alpha(early) - 1e-14
    if late - early > 1e-3:
        assert schedule.log1m_alpha(late) > schedule.log1m_alpha(early)


@given(ANY, st.floats(0.02, 0.98))
def test_the_derivative_is_that_of_alpha_and_the_weight_follows(schedule, t):
    step = 1e-5 * min(t, 1 - t)
    slope = (schedule.alpha(t + step) - schedule.alpha(t - step)) / (2 * step)
    assert schedule.alpha_prime(t) == pytest.approx(slope, rel=1e-5, abs=1e-5)
    rate = math.exp(schedule.log1m_alpha(t))
    assert schedule.weight(t) == pytest.approx(-schedule.alpha_prime(t) / rate, rel=1e-9)


@given(ANY, st.floats(1e-9, 1))
def test_the_inverse_gives_the_time_of_a_mask_rate(schedule, rate):
    if getattr(schedule, "spanning", True):
        t = schedule.inverse(rate)
        assert -1e-12 <= t <= 1 + 1e-12
        assert math.exp(schedule.log1m_alpha(min(t, 1.0))) == pytest.approx(rate, rel=1e-6)


def test_schedules_as_published_clip_a_mask_rate_that_they_never_reach():
    schedule = SigmaLinear(spanning=False)
    assert schedule.inverse(0.0) == 0
    assert schedule.inverse(1 - 1e-9) == 1
    rate = 1 - schedule.alpha(0.3)
    assert schedule.inverse(rate) == pytest.approx(0.3, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_runs_from_clean_text_to_noise(name):
    schedule = SCHEDULES[name]
    with np.errstate(all="raise", under="ignore", divide="ignore"):
        assert schedule.alpha(0.0) == pytest.approx(1, rel=1e-15)
        assert schedule.alpha(1.0) == 0
        assert schedule.log_alpha(0.0) == pytest.approx(0, abs=1e-15)
        assert schedule.log1m_alpha(0.0) == -math.inf
        assert schedule.log_alpha(1.0) == -math.inf
        assert schedule.log1m_alpha(1.0) == pytest.approx(0, abs=1e-15)


def test_both_ends_keep_full_precision():
    near, pi = 1e-12, math.pi
    for schedule, first, last in (
        (Linear(), near, near),
        (Cosine(), pi / 2 * near, (pi / 2 * near) ** 2 / 2),
        (Poly(3.0), near**3, 3 * near),
        (SigmaLinear(), 6.999 * near / -math.expm1(-6.999), 6.999 * near / math.expm1(6.999)),
    ):
        assert schedule.log1m_alpha(near) == pytest.approx(math.log(first), rel=1e-12)
        late = 1 - near
        # 1 - near is itself rounded: compare with the distance that it stands for.
        scale = (1 - late) / near
        power = 2 if isinstance(schedule, Cosine) else 1
        expected = math.log(last) + power * math.log(scale)
        assert schedule.log_alpha(late) == pytest.approx(expected, rel=1e-9)


@given(ANY, st.lists(st.floats(1e-3, 1 - 1e-3), min_size=1, max_size=5))
def test_floats_arrays_and_tensors_agree_and_keep_their_type(schedule, times):
    array, tensor = np.array(times), torch.tensor(times, dtype=torch.float64)
    for name in ("alpha", "alpha_prime", "log_alpha", "log1m_alpha", "weight", "inverse"):
        function = getattr(schedule, name)
        one_by_one = [function(t) for t in times]
        assert all(isinstance(value, float) for value in one_by_one)
        np.testing.assert_allclose(function(array), one_by_one, rtol=1e-12)
        np.testing.assert_allclose(function(tensor).numpy(), one_by_one, rtol=1e-9)
        assert function(tensor.float()).dtype == torch.float32
        assert function(array.astype(np.float32)).dtype == np.float32


def test_schedules_have_names_and_settings():
    assert noise_schedule("linear") == Linear()
    assert noise_schedule("cosine") == Cosine()
    assert noise_schedule("poly2") == Poly(2.0) == noise_schedule("poly", power=2.0)
    assert noise_schedule("geometric", sigma_max=10.0) == Geometric(1e-4, 10.0)
    assert noise_schedule("sigma_linear") == SigmaLinear(1e-3, 7.0)
    assert set(REGISTERED) == {
        "linear",
        "cosine",
        "poly2",
        "poly",
        "geometric",
        "sigma_linear",
    }


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sine", {}, "no noise schedule 'sine'; there are linear, cosine"),
        ("poly2", {"power": 3.0}, "poly takes a power"),
        ("poly", {"power": 0.0}, "must be above 0"),
        ("linear", {"power": 2.0}, "does not take"),
        ("geometric", {"sigma_min": 30.0}, "must rise from a positive value"),
        ("sigma_linear", {"sigma_min": 0.0}, "must rise from a positive value"),
    ],
)
def test_what_no_schedule_allows_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        noise_schedule(name, **settings)
