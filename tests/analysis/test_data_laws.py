"""Laws of repeated data: derivatives, limits, published objectives, and what a fit can tell."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit_law
from analysis.fitting.newton import huber
from analysis.laws.base import Law, Points, get_law
from analysis.reference.quokka import published_state
from analysis.spacing import log_spaced

DATA = Path(__file__).parents[2].parent / "shared" / "data"
CEILING = {
    "E": 0.4, "A": 500.0, "B": 60.0, "M": 3.3, "alpha": 0.4,
    "beta": 0.12, "kappa": 10400.0, "eta": 0.94, "gamma": 1.9, "R_D": 61.0,
}  # fmt: skip
EXAMPLES = {
    "data_constrained": "eq15",
    "data_constrained_log": "eq21",
    "data_constrained_softplus": "eq23",
    "muennighoff": "muennighoff",
}


LAWS = (*EXAMPLES, "data_constrained_ceiling")


def _example(name: str) -> tuple[Law, np.ndarray]:
    """A law with published numbers, moved a little so that no term is absent."""
    if name == "data_constrained_ceiling":
        law = get_law(name)
        return law, law.theta(np.array([CEILING[parameter] for parameter in law.parameters]))
    state = published_state(EXAMPLES[name])
    theta = state.theta.copy()
    theta[0] = np.log(0.4)
    for index, coordinate in enumerate(state.law.coordinates):
        if coordinate == "ln_R_D":
            theta[index] = min(theta[index], np.log(300.0))
    if name == "data_constrained_softplus":
        # Equation 23 has a term of N that nothing is left of.
        theta[[1, 4]] = np.log(1500.0), 0.45
    return state.law, theta


def _points() -> Points:
    """N from 10M to 5B; e from under 1 over exactly 1 and just above to 1e5."""
    params = np.array([6.5e7, 1e9, 1e7, 3e8, 5e9, 1e8, 2e8, 1e9, 4e8])
    unique = np.array([1e7, 1e8, 1e7, 1e9, 1e7, 1e7, 1e9, 1e8, 1e8])
    epochs = np.array([200.0, 1000.0, 2.0, 0.1, 100.0, 1.01, 10.0, 1e5, 1.0])
    return Points.of(params, unique * epochs, unique)


def _table(name: str) -> pd.DataFrame:
    file = DATA / name
    if not file.is_file():
        pytest.skip(f"{name} lies outside the repository, in ../shared/data")
    return pd.read_csv(file)


def _quokka(name: str = "quokka_data_constrained.csv") -> pd.DataFrame:
    table = _table(name)
    kept = (table["before_step_256"] == 0) & (table["after_second_peak"] == 0)
    columns = {"curve_id": "trajectory", "val_loss": "loss"}
    names = ["trajectory", "params", "tokens", "unique_tokens", "loss"]
    return table[kept].rename(columns=columns)[names].reset_index(drop=True)


def _objective(law: Law, theta: np.ndarray, table: pd.DataFrame) -> float:
    points = Points.of(table["params"], table["tokens"], table["unique_tokens"])
    residual = np.log(table["loss"].to_numpy()) - law.log_loss(theta, points)
    return float(huber(residual, 1e-3)[0].sum())


@pytest.mark.parametrize("name", LAWS)
def test_gradients_and_curvature_agree_with_differences(name):
    law, theta = _example(name)
    points = _points()
    size, step = theta.size, 1e-6
    weights = np.random.default_rng(0).normal(size=(1, points.log_params.size))
    exact = law.derivatives(theta[None], points)
    steps = step * np.eye(size)
    slopes = [law.log_loss(theta + h, points) - law.log_loss(theta - h, points) for h in steps]
    numeric = np.array(slopes) / (2 * step)
    np.testing.assert_allclose(exact.value[0], law.log_loss(theta, points), rtol=1e-13)
    np.testing.assert_allclose(exact.gradient[0], numeric, atol=1e-8 * np.abs(numeric).max())
    bends = [
        (
            law.derivatives((theta + h)[None], points).gradient
            - law.derivatives((theta - h)[None], points).gradient
        )[0]
        @ weights[0]
        / (2 * step)
        for h in steps
    ]
    scale = np.abs(bends).max()
    np.testing.assert_allclose(exact.curvature(weights)[0], bends, atol=1e-8 * scale)


@pytest.mark.parametrize("name", LAWS)
def test_centred_points_and_coordinates_give_the_same_loss(name):
    law, theta = _example(name)
    points = _points()
    centred = np.linalg.solve(law.centring(18.0, 20.0), theta)
    expected = law.log_loss(theta, points)
    np.testing.assert_allclose(law.log_loss(centred, points.shifted(18.0, 20.0)), expected)


@pytest.mark.parametrize("name", LAWS)
def test_at_one_epoch_and_below_every_law_is_chinchillas_of_the_tokens_used(name):
    law, theta = _example(name)
    numbers = dict(zip(law.parameters, law.natural(theta), strict=True))
    tokens = np.array([1e8, 1e10, 1e12])
    plain = [numbers[n] for n in ("E", "A", "B", "alpha", "beta")]
    chinchilla = get_law("chinchilla")
    params = 1e7
    expected = chinchilla.log_loss(chinchilla.theta(np.array(plain)), Points.of(params, tokens))
    if name == "muennighoff":
        # Of N' it is so where N is below what is optimal for U; keep to that.
        expected, tokens = expected[2:], tokens[2:]
    for unique in (tokens, 7.0 * tokens):
        found = law.log_loss(theta, Points.of(params, tokens, unique))
        np.testing.assert_allclose(found, expected, atol=0.02 if "softplus" in name else 1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_values_and_derivatives_stay_finite_over_the_whole_box(name):
    law = get_law(name)
    low, high = law.bounds(np.array([1.5]))
    theta = low + (high - low) * np.random.default_rng(1).random((200, low.size))
    points = _points().shifted(18.0, 20.0)
    found = law.derivatives(np.concatenate([theta, [low], [high]]), points)
    assert np.isfinite(found.value).all()
    assert np.isfinite(found.gradient).all()
    assert np.isfinite(found.curvature(np.ones_like(found.value))).all()


def test_the_recovered_law_gives_the_loss_that_figure_17_shows():
    state = published_state("eq15")
    assert state.predict(65e6, 2e9, 1e7).value[0] == pytest.approx(5.0283, abs=1e-3)
    printed = published_state("eq15", "printed")
    assert printed.predict(65e6, 2e9, 1e7).value[0] == pytest.approx(4.7396, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "known"),
    [("eq15", 0.9693), ("eq21", 0.883), ("eq23", 0.785)],
)
def test_recovered_forms_have_the_known_objectives(name, known):
    table = _quokka()
    assert len(table) == 22_880
    state = published_state(name)
    assert _objective(state.law, state.theta, table) == pytest.approx(known, abs=6e-4)


def test_the_papers_form_refitted_reaches_the_best_known_objective():
    table = _quokka()
    fit = fit_law(table, law="data_constrained", huber_delta=1e-3, bootstrap=0, priors="none")
    assert fit.converged
    assert fit.objective < 0.92558
    state = published_state("eq15")
    assert fit.objective < 0.926 < _objective(state.law, state.theta, table)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("data_constrained_log", 0.86167),
        ("data_constrained_softplus", 0.73932),
        ("data_constrained_ceiling", 0.66207),
    ],
)
def test_other_forms_reach_their_known_optimum_on_every_twelfth_row(name, reached):
    table = _quokka().iloc[::12].reset_index(drop=True)
    fit = fit_law(table, law=name, huber_delta=1e-3, bootstrap=0, priors="none")
    assert fit.converged
    assert 12 * fit.objective < reached


def test_the_onsets_exponents_are_stable_and_the_rest_is_named_as_weak():
    # Every twelfth row; the thinned table has logarithmic spacing and another optimum.
    table = _quokka().iloc[::12].reset_index(drop=True)
    fit = fit_law(table, law="data_constrained", huber_delta=1e-3, bootstrap=40, priors="none")
    m_p, k_p = fit.parameters["m_p"], fit.parameters["k_p"]
    assert m_p.low < 0.42 < m_p.high
    assert k_p.low < 0.52 < k_p.high
    assert fit.identified["m_p"]
    assert fit.identified["k_p"]
    assert not any(fit.identified[name] for name in ("E", "A", "c_p"))
    assert any("do not identify" in w and "c_p" in w for w in fit.warnings)


def test_muennighoffs_published_objective_comes_back():
    table = _table("datablations_c4.csv")
    table = table[table["in_published_182_fit"] == 1].rename(columns={"val_loss": "loss"})
    assert len(table) == 182
    state = published_state("muennighoff")
    found = _objective(state.law, state.theta, table)
    # Theirs, 0.0158259366, was added up in single precision.
    assert found == pytest.approx(0.015825935, abs=1e-9)
    assert found == pytest.approx(0.0158259366, abs=2e-9)
    table = table.drop(columns="run_id")
    fit = fit_law(table, law="muennighoff", huber_delta=1e-3, bootstrap=60, priors="none")
    assert fit.objective < 0.00657
    assert fit.identified["R_D"]
    assert 15 < fit.parameters["R_D"].low < 27 < fit.parameters["R_D"].high < 80
    assert not fit.identified["R_N"]


def test_log_spacing_keeps_ends_and_leaves_single_rows_alone():
    steps = np.arange(1, 1001) * 1e6
    curve = pd.DataFrame({"trajectory": "a", "tokens": steps, "params": 1e7, "loss": 3.0})
    alone = pd.DataFrame({"trajectory": [None] * 3, "tokens": [1e6, 2e6, 3e6]})
    thin = log_spaced(pd.concat([curve, alone], ignore_index=True), per_decade=10)
    kept = thin.loc[thin["trajectory"] == "a", "tokens"].to_numpy()
    assert len(thin) == len(kept) + 3
    assert kept[0] == 1e6
    assert kept[-1] == 1e9
    late = np.diff(np.log(kept[kept > 2e7]))
    np.testing.assert_allclose(late, np.log(10) / 10, rtol=0.2)


@pytest.mark.parametrize("name", LAWS)
def test_noiseless_runs_give_the_law_back(name):
    law, theta = _example(name)
    theta[0] = np.log(1.0)
    rng = np.random.default_rng(2)
    params = np.exp(rng.uniform(np.log(1e7), np.log(3e9), 300))
    unique = np.exp(rng.uniform(np.log(1e7), np.log(3e9), 300))
    tokens = unique * np.exp(rng.uniform(0.0, np.log(500.0), 300))
    loss = np.exp(law.log_loss(theta, Points.of(params, tokens, unique)))
    table = pd.DataFrame(
        {"params": params, "tokens": tokens, "unique_tokens": unique, "loss": loss}
    )
    fit = fit_law(table, law=name, huber_delta=1e-3, bootstrap=0, priors="none")
    assert fit.objective < 1e-10
    np.testing.assert_allclose(fit.theta, theta, atol=2e-3)


def test_three_runs_give_finite_starts():
    """Fewer rows than parameters: the metric is singular, and outweighs the Hessian."""
    points = Points.of([4.4e7, 19703712, 1.465e8], [2e10, 4e8, 2e10], [1e8, 4e8, 1e8])
    middle = points.log_params.mean(), points.log_tokens.mean()
    loss = np.log([3.92903, 6.096268, 3.756257])
    starts = get_law("muennighoff").starts(points.shifted(*middle), loss)
    assert starts.shape[1] == 7
    assert np.isfinite(starts).all()
