"""The fit of a table that grows: started from the fit before, it ends where a search does."""

import numpy as np
import pytest
from laboratory import fit_plain, untuned

import analysis.fitting.fit as fitting


@pytest.fixture
def searches(monkeypatch):
    """How often the whole space was searched."""
    counted = []
    search = fitting.fit_point

    def count(*arguments):
        counted.append(1)
        return search(*arguments)

    monkeypatch.setattr(fitting, "fit_point", count)
    return counted


def fit(runs, **settings):
    return fit_plain(runs, bootstrap=0, lr_prior=3e-3, priors="weak", **settings)


def assert_equal(warm, cold):
    np.testing.assert_allclose(warm.theta, cold.theta, atol=1e-6)
    np.testing.assert_allclose(warm.covariance, cold.covariance, rtol=1e-5, atol=1e-12)
    assert warm.sigma == pytest.approx(cold.sigma, rel=1e-6)
    assert warm.response.log_lr == pytest.approx(cold.response.log_lr, abs=1e-6)
    assert warm.response.slope_params == pytest.approx(cold.response.slope_params, abs=1e-6)
    assert warm.response.offsets == pytest.approx(cold.response.offsets, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_chain_of_warm_fits_equals_fits_from_a_search_and_searches_once(searches, seed):
    runs = untuned(120, seed)
    # The commonest schedule changes on the way, from which all others are counted.
    runs = runs.iloc[np.argsort(np.arange(120) % 4 < 2, kind="stable")]
    warm = fit(runs.iloc[:30])
    for rows in (31, 33, 50, 80, 120):
        before = len(searches)
        warm = fit(runs.iloc[:rows], near=warm)
        assert len(searches) == before, "no search"
        assert_equal(warm, fit(runs.iloc[:rows]))


def test_a_fit_from_another_valley_searches_and_is_as_good_as_without(searches):
    misled = fit(untuned(40, 3, noise=1e-4).assign(loss=lambda runs: runs["loss"] ** 2))
    runs = untuned(60, 4)
    before = len(searches)
    warm = fit(runs, near=misled)
    cold = fit(runs)
    assert len(searches) in (before + 1, before + 2)
    assert_equal(warm, cold)


def test_what_an_earlier_fit_did_not_have_is_searched_for(searches):
    runs = untuned(40, 5)
    one_rate = runs.assign(lr=3e-3)
    warm = fit(runs, near=fit(one_rate))
    assert len(searches) == 2
    assert warm.response.lr_fitted


def test_without_resamples_only_intervals_differ():
    runs = untuned(40, 6)
    with_them = fit_plain(runs, bootstrap=50, lr_prior=3e-3, priors="weak")
    without = fit(runs)
    np.testing.assert_array_equal(without.theta, with_them.theta)
    np.testing.assert_array_equal(without.covariance, with_them.covariance)
    optimum = without.optimum(1e14)
    assert optimum.params.low < optimum.params.value < optimum.params.high
    assert optimum.params.value == with_them.optimum(1e14).params.value
