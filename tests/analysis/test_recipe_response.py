"""Law and response to batch, weight decay, noise schedule, objective and kernel, together."""

import numpy as np
import pandas as pd
import pytest
from laboratory import fit_plain, untuned
from scipy.optimize import least_squares

from analysis.allocation import recommend
from analysis.cli.recommending import recommendation_text
from analysis.errors import RunTableError
from analysis.fitting.fit import fit_law
from analysis.fitting.result import Fit
from analysis.lawfile import load_law, save_law
from analysis.laws.choices import ChoiceResponse
from analysis.laws.response import Response
from analysis.report import document_markdown

NOISE = 0.004
N0, D0, B0 = 3e4, 1e6, 1024.0
LAW = np.array([1.2, 200.0, 0.45, 400.0, 0.42])
# The batch: c, ln of the best at (N0, D0), its slopes in ln N and ln D.
BATCH = np.array([0.02, np.log(B0), 0.0, 0.5])
# The rate: c, ln of the best at (N0, D0, B0), slopes in ln N, ln D and ln B.
RATE = np.array([0.03, np.log(3e-3), -0.2, 0.1, 0.4])
DECAY = np.array([0.01, np.log(0.1)])
COSINE = 0.02
MASKGIT = np.array([-0.01, 0.0, 0.02])
"""Better than the ELBO at (N0, D0), worse from 1.65 D0 on."""


def recipes(count: int, seed: int) -> pd.DataFrame:
    """Return runs that differ in everything."""
    rng = np.random.default_rng(seed)
    params = np.exp(rng.uniform(np.log(5e3), np.log(2e5), count))
    tokens = np.exp(rng.uniform(np.log(1e5), np.log(1e7), count))
    batch = 64 * 2.0 ** rng.integers(2, 8, count)
    table = pd.DataFrame(
        {
            "params": params,
            "tokens": tokens,
            "batch_tokens": batch,
            "weight_decay": np.exp(rng.uniform(np.log(0.01), np.log(1), count)),
            "noise_schedule": rng.choice(["linear", "cosine"], count),
            "objective": rng.choice(["elbo", "maskgit"], count),
        }
    )
    truth = np.concatenate([LAW, BATCH, RATE, DECAY, [COSINE], MASKGIT])
    table["lr"] = 1.0
    best = np.exp(rate_of(table, truth))
    table["lr"] = best * np.exp(rng.uniform(-1.2, 1.2, count))
    table["loss"] = np.exp(log_loss(table, truth) + NOISE * rng.normal(size=count))
    return table


def rate_of(table: pd.DataFrame, theta: np.ndarray) -> np.ndarray:
    x, z = np.log(table["params"] / N0), np.log(table["tokens"] / D0)
    _, at, n, d, b = theta[9:14]
    return (at + n * x + d * z + b * np.log(table["batch_tokens"] / B0)).to_numpy()


def log_loss(table: pd.DataFrame, theta: np.ndarray) -> np.ndarray:
    """The model once more, from its formula alone: what both fits are held against."""
    x, z = np.log(table["params"] / N0), np.log(table["tokens"] / D0)
    e, a, alpha, b, beta = theta[:5]
    c, at, n, d = theta[5:9]
    decay, decay_at, cosine, *maskgit = theta[14:]
    basis = np.stack([np.ones(len(table)), x, z])
    return (
        np.log(e + a / table["params"] ** alpha + b / table["tokens"] ** beta)
        + c * (np.log(table["batch_tokens"]) - at - n * x - d * z) ** 2
        + theta[9] * (np.log(table["lr"]) - rate_of(table, theta)) ** 2
        + decay * (np.log(table["weight_decay"]) - decay_at) ** 2
        + cosine * (table["noise_schedule"] == "cosine")
        + (np.array(maskgit) @ basis) * (table["objective"] == "maskgit")
    ).to_numpy()


def by_least_squares(table: pd.DataFrame) -> np.ndarray:
    start = np.concatenate([LAW, BATCH, RATE, DECAY, [COSINE], MASKGIT])
    scale, observed = np.abs(start) + 0.01, np.log(table["loss"].to_numpy())
    found = least_squares(
        lambda t: log_loss(table, t * scale) - observed,
        start / scale + 0.05,
        xtol=1e-12,
        ftol=1e-12,
    )
    return found.x * scale


@pytest.fixture(scope="module")
def fit() -> Fit:
    return fit_plain(recipes(160, 1), bootstrap=200, priors="weak", lr_prior=3e-3)


def test_moving_centres_and_offsets_are_those_of_independent_least_squares(fit: Fit) -> None:
    theta = by_least_squares(fit.runs)
    response = fit.response
    # Priors and a robust loss move what least squares say by a part of what noise does.
    batch = response.bowls["batch_tokens"]
    assert batch.curvature == pytest.approx(theta[5], rel=0.05)
    assert float(batch.best(N0, D0)) == pytest.approx(np.exp(theta[6]), rel=0.04)
    assert batch.slopes == pytest.approx((theta[7], theta[8]), abs=0.03)
    assert response.slope_batch == pytest.approx(theta[13], abs=0.03)
    assert response.slope_params == pytest.approx(theta[11], abs=0.03)
    assert float(response.lr_optimum(N0, D0, B0)) == pytest.approx(np.exp(theta[10]), rel=0.04)
    decay = response.bowls["weight_decay"]
    assert float(decay.best(N0, D0)) == pytest.approx(np.exp(theta[15]), rel=0.08)
    cosine = response.choices["noise_schedule"].standing(N0, D0)["cosine"]["value"]
    assert cosine == pytest.approx(theta[16], abs=0.002)
    at = response.choices["objective"].at(N0, D0)
    assert at["maskgit"] - at["elbo"] == pytest.approx(theta[17], abs=0.002)
    # And both are near the truth.
    assert batch.slopes[1] == pytest.approx(BATCH[3], abs=0.05)
    assert response.slope_batch == pytest.approx(RATE[4], abs=0.08)
    assert fit.sigma == pytest.approx(NOISE, rel=0.25)


def test_what_is_best_moves_with_the_size_of_a_run(fit: Fit) -> None:
    small, large = fit.response.recommended(1e4, 2e5), fit.response.recommended(2e5, 1e7)
    assert small["objective"]["value"] == "maskgit"
    assert large["objective"]["value"] == "elbo"
    assert small["noise_schedule"]["value"] == large["noise_schedule"]["value"] == "linear"
    apart = large["objective"]["offsets"]["maskgit"]
    assert 0 < apart["low"] < apart["value"] < apart["high"]
    ratio = large["batch_tokens"]["value"] / small["batch_tokens"]["value"]
    assert ratio == pytest.approx(50**0.5, rel=0.2)
    low, high = (large["batch_tokens"][end] for end in ("low", "high"))
    assert low < B0 * 10**0.5 < high < 1.5 * low
    assert large["batch_tokens"]["tried"] == [256, 8192]
    # The best rate is that of the best batch.
    best = fit.response.lr_optimum(2e5, 1e7)
    doubled = fit.response.lr_optimum(2e5, 1e7, 2 * large["batch_tokens"]["value"])
    assert float(doubled / best) == pytest.approx(2**fit.response.slope_batch)


def test_the_law_is_stated_for_what_is_best_at_the_largest_runs(fit: Fit) -> None:
    assert fit.response.choices["objective"].names[0] == "elbo"
    truth = LAW[0] + LAW[1] / 2e5 ** LAW[2] + LAW[3] / 1e7 ** LAW[4]
    assert float(fit.predict(2e5, 1e7).value[0]) == pytest.approx(truth, rel=0.01)
    # Small runs are better off with the other, and are told so.
    prices = fit.response.penalty(
        np.array([1e4]), np.array([2e5]), fit.response.lr_optimum([1e4], [2e5]),
        recipe={"objective": np.array(["maskgit"])},
    )  # fmt: skip
    assert prices[0] < -0.02


@pytest.mark.parametrize(("spread", "said"), [(0.01, "maskgit"), (0.04, "elbo")])
def test_another_choice_than_the_laws_is_recommended_beyond_doubt_only(spread, said) -> None:
    offsets = np.array([[0.0, 0, 0], [-0.03, 0, 0]])
    drawn = np.random.default_rng(0).normal(-0.03, spread, 400)
    samples = np.zeros((400, 2, 3))
    samples[:, 1, 0] = drawn
    choice = ChoiceResponse(("elbo", "maskgit"), offsets, (N0, D0), samples)
    found = Response(choices={"objective": choice}).recommended(N0, D0)["objective"]
    assert found["value"] == next(iter(found["offsets"])) == said
    other = found["offsets"]["elbo" if said == "maskgit" else "maskgit"]
    assert other["value"] == pytest.approx(0.03 if said == "maskgit" else -0.03)
    assert other["low"] < other["value"] < other["high"]


def test_prices_and_residuals_add_up_to_the_excess(fit: Fit) -> None:
    runs = fit.runs
    price = fit.response.penalty(
        runs["params"].to_numpy(), runs["tokens"].to_numpy(), runs["lr"].to_numpy(), recipe=runs
    )
    np.testing.assert_allclose(fit.excess, fit.residuals + price, atol=1e-9)


def test_dimensions_that_do_not_vary_or_follow_the_size_or_are_unknown_are_not_fitted() -> None:
    runs = untuned(30, 2)
    one = runs.assign(batch_tokens=4096, weight_decay=0.1, noise_schedule="linear")
    follows = runs.assign(batch_tokens=(runs["tokens"] ** 0.5).round())
    unknown = runs.assign(objective=np.where(runs.index == 3, None, "elbo"))
    unknown.loc[4, "objective"] = "maskgit"
    none = runs.assign(weight_decay=np.where(runs.index % 2, 0.1, 0.0))
    same = fit_plain(runs, bootstrap=20, lr_prior=3e-3)
    for table in (one, follows, unknown, none):
        found = fit_plain(table, bootstrap=20, lr_prior=3e-3)
        assert not found.response.bowls
        assert not found.response.choices
        np.testing.assert_array_equal(found.theta, same.theta)


def test_a_growing_table_is_refitted_from_the_fit_before_whatever_leads() -> None:
    settings = {"bootstrap": 0, "discrepancy": "none", "priors": "weak", "lr_prior": 3e-3}
    runs = recipes(70, 4)
    # Before, the largest runs are small enough for maskgit; then come larger ones.
    runs = runs.sort_values("tokens", ignore_index=True)
    before = fit_law(runs[:40], **settings)
    near, anew = fit_law(runs, near=before, **settings), fit_law(runs, **settings)
    assert before.response.choices["objective"].names[0] == "maskgit"
    assert near.response.choices["objective"].names[0] == "elbo"
    assert near.objective == pytest.approx(anew.objective, rel=1e-6)
    for column, bowl in anew.response.bowls.items():
        assert near.response.bowls[column].log_best == pytest.approx(bowl.log_best, abs=1e-3)


def test_a_law_file_keeps_the_recipe_and_recommends_it(fit: Fit, tmp_path) -> None:
    law = load_law(save_law(fit, tmp_path))
    answer = recommend(law, 1e14)
    at = (answer["params"]["value"], answer["tokens"]["value"])
    assert answer["recipe"] == fit.response.recommended(*at)
    assert answer["batch_tokens"] == round(answer["recipe"]["batch_tokens"]["value"])
    assert answer["lr"] == pytest.approx(float(fit.response.lr_optimum(*at)))
    text = recommendation_text(answer, 1e14)
    for line in (
        "batch          ",
        "weight decay   ",
        "noise schedule linear",
        "objective      elbo",
    ):
        assert line in text
    assert "as the runs" not in text
    page = document_markdown(law.document, law.state)
    assert "The best batch tokens is" in page
    assert "Loss by noise schedule at" in page
    runs = fit.runs
    at_all = (runs["params"].to_numpy(), runs["tokens"].to_numpy(), runs["lr"].to_numpy())
    np.testing.assert_allclose(
        law.state.response.penalty(*at_all, recipe=runs),
        fit.response.penalty(*at_all, recipe=runs),
        atol=1e-12,
    )


def test_kernels_that_one_study_varied_are_compared_and_those_of_several_refused() -> None:
    runs = untuned(40, 3).assign(study="one")
    uniform = runs.index % 3 == 0
    runs["kernel"] = np.where(uniform, "uniform", "mask")
    runs["evaluator"] = np.where(uniform, "data/uniform4", "data/exactk4")
    runs.loc[uniform, "loss"] *= np.exp(0.08)
    found = fit_plain(runs, bootstrap=50, lr_prior=3e-3).response.choices["kernel"]
    assert found.names[0] == "mask"
    assert found.at(1e5, 1e6)["uniform"] == pytest.approx(0.08, abs=0.015)
    for table in (
        runs.assign(study=np.where(runs.index < 20, "one", "two")),
        runs.drop(columns="study"),
        runs.assign(evaluator=np.where(uniform, "other/uniform4", "data/exactk4")),
        runs.assign(evaluator=np.where(runs.index < 9, "data/uniform8", runs["evaluator"])),
    ):
        with pytest.raises(RunTableError, match="one fit cannot mix"):
            fit_plain(table, bootstrap=20)
