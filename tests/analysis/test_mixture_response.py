"""Law and response to the mixture of texts, fitted together."""

import numpy as np
import pandas as pd
import pytest
from laboratory import fit_plain

from analysis.allocation import recommend
from analysis.cli.recommending import recommendation_text
from analysis.fitting.fit import fit_law
from analysis.lawfile import load_law, save_law
from analysis.laws.mixture import MixtureDesign, Ratios

BEST, PRICE, NOISE = np.log(2.0), 0.06, 0.004
"""ln of the best weight of prose over code, what an e-fold off costs, and the noise."""


def mixed(count: int, seed: int, web: bool = False) -> pd.DataFrame:
    """Return runs whose weight of prose varies beside code 1, and web 2 where it is there."""
    rng = np.random.default_rng(seed)
    params = np.exp(rng.uniform(np.log(5e3), np.log(2e5), count))
    tokens = np.exp(rng.uniform(np.log(1e5), np.log(1e7), count))
    weight = np.exp(rng.uniform(np.log(0.25), np.log(4), count))
    loss = 1.2 + 200 / params**0.45 + 400 / tokens**0.42
    loss = loss * np.exp(PRICE * (np.log(weight) - BEST) ** 2 + NOISE * rng.normal(size=count))
    weights = {"code": np.ones(count), "prose": weight}
    weights |= {"web": np.full(count, 2.0)} if web else {}
    shares = {f"share_{part}": own / sum(weights.values()) for part, own in weights.items()}
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss, **shares})


def true_loss(params: float, tokens: float) -> float:
    return 1.2 + 200 / params**0.45 + 400 / tokens**0.42


@pytest.mark.parametrize("web", [False, True])
def test_the_best_mixture_and_its_price_are_found_with_an_interval(web: bool) -> None:
    found = fit_plain(mixed(40, 3, web), bootstrap=200).response.mixture
    assert found is not None
    whole = 5 if web else 3
    share, low, high = found.shares()["prose"]
    assert share == pytest.approx(2 / whole, abs=0.02)
    assert low < share < high < low + 0.06
    assert sum(value for value, _, _ in found.shares().values()) == pytest.approx(1)
    if web:  # parts whose weights stay keep their ratio
        shares = found.shares()
        assert shares["web"][0] == pytest.approx(2 * shares["code"][0])
    assert found.curvature[0] == pytest.approx(PRICE, rel=0.15)
    alike = {"code": 1.0, "prose": 1.0} | ({"web": 2.0} if web else {})
    shares = {f"share_{part}": [own / sum(alike.values())] for part, own in alike.items()}
    assert found.penalty(shares) == pytest.approx([PRICE * BEST**2], rel=0.3)


def test_the_law_is_that_of_the_best_mixture_and_its_noise_that_of_a_run() -> None:
    runs = mixed(40, 1)
    fit = fit_plain(runs, bootstrap=50)
    assert fit.sigma == pytest.approx(NOISE, rel=0.4)
    np.testing.assert_allclose(
        fit.predict([2e4, 1e5], [1e6, 5e6]).value,
        [true_loss(2e4, 1e6), true_loss(1e5, 5e6)],
        rtol=0.01,
    )
    ignorant = fit_plain(runs.drop(columns=["share_code", "share_prose"]), bootstrap=50)
    assert ignorant.sigma > 8 * NOISE
    assert (ignorant.predict([1e5], [5e6]).value > true_loss(1e5, 5e6) * 1.02).all()


def test_what_does_not_vary_or_is_not_known_is_not_fitted() -> None:
    runs = mixed(30, 2)
    still = runs.assign(share_code=0.3, share_prose=0.7)
    unknown = runs.assign(share_prose=runs["share_prose"].where(runs.index > 0))
    for table in (still, unknown, runs.drop(columns="share_code"), runs[:3]):
        assert Ratios.of(table) is None
    assert fit_plain(still, bootstrap=20).response.mixture is None


def test_derivatives_are_those_of_the_value() -> None:
    design = MixtureDesign.of(mixed(12, 4, web=True))
    assert design is not None
    theta, step = np.array([[-3.0, 0.4]]), 1e-6
    at = design.derivatives(theta)
    weights = np.linspace(0.5, 2, 12)[None]
    for number in range(design.size):
        moved = theta.copy()
        moved[0, number] += step
        there = design.derivatives(moved)
        np.testing.assert_allclose(
            (there.value - at.value)[0] / step, at.gradient[0, number], atol=1e-4
        )
        slope = ((there.gradient - at.gradient)[0] * weights).sum(axis=-1) / step
        np.testing.assert_allclose(slope, at.curvature(weights)[0, number], atol=1e-3)


def test_a_growing_table_is_refitted_from_the_fit_before() -> None:
    runs = mixed(60, 5)
    settings = {"bootstrap": 0, "discrepancy": "none", "priors": "weak"}
    before = fit_law(runs[:50], **settings)
    near, anew = fit_law(runs, near=before, **settings), fit_law(runs, **settings)
    assert near.objective == pytest.approx(anew.objective, rel=1e-6)
    assert near.response.mixture.best == pytest.approx(anew.response.mixture.best, abs=1e-4)


def test_a_law_file_says_the_best_mixture_and_reads_it_back(tmp_path) -> None:
    fit = fit_plain(mixed(40, 6), bootstrap=50)
    law = load_law(save_law(fit, tmp_path))
    shares = law.document["response"]["mixture"]["shares"]
    assert shares["prose"]["low"] < shares["prose"]["value"] < shares["prose"]["high"]
    back = law.state.response.mixture
    assert recommend(law, 1e14)["mixture"] == shares
    assert "share of prose" in recommendation_text(recommend(law, 1e14), 1e14, None)
    there = {"share_code": [0.8], "share_prose": [0.2]}
    assert back.penalty(there) == pytest.approx(fit.response.mixture.penalty(there))
