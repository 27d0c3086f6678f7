"""A law from a formula: the same fit as a built-in one, and no formula that is more than one."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import observe, scattered

from analysis.errors import LawFileError
from analysis.fitting.fit import fit_law
from analysis.formulas.text import FormulaError, read_formula
from analysis.lawfile import load_law, save_law
from analysis.laws.base import Points, get_law
from analysis.laws.formula import FormulaLaw, register_formula

EPOCH = Path(__file__).parents[3] / "shared" / "data" / "chinchilla_epoch.csv"
CHINCHILLA = "E + A/N**alpha + B/D**beta"
REPEATED = "E + A/N**alpha + B/(U*e**p*exp(-(max(0, e - 1)*N**k/(c*U**m))**gamma))**beta"


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return observe(*scattered(90, rng), rng)


def test_chinchillas_formula_gives_the_built_in_laws_fit(runs):
    register_formula("mine", CHINCHILLA)
    mine = fit_law(runs, law="mine", huber_delta=1e-3, bootstrap=60)
    built = fit_law(runs, huber_delta=1e-3, bootstrap=60)
    assert mine.objective == pytest.approx(built.objective, rel=1e-9)
    n0, d0 = (np.exp(np.log(runs[c]).mean()) for c in ("params", "tokens"))
    e, a, b, alpha, beta = built.law.natural(built.theta)
    found = {name: estimate.value for name, estimate in mine.parameters.items()}
    assert found["E"] == pytest.approx(e, rel=1e-5)
    assert found["alpha"] == pytest.approx(alpha, rel=1e-5)
    assert found["A"] == pytest.approx(a / n0**alpha, rel=1e-5)
    assert found["B"] == pytest.approx(b / d0**beta, rel=1e-5)
    ours, theirs = (fit.predict([1e5, 1e6], [1e8, 1e9]) for fit in (mine, built))
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-6)
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-3)
    ours, theirs = (fit.optimum(1e14) for fit in (mine, built))
    assert ours.params.value == pytest.approx(theirs.params.value, rel=1e-4)
    assert ours.params.high == pytest.approx(theirs.params.high, rel=1e-2)
    assert mine.identified == built.identified
    assert "N in units of" in mine.law.describe(mine.theta)


def test_the_published_optimum_on_epochs_rows():
    if not EPOCH.is_file():
        pytest.skip("the Epoch table lies outside the repository, in ../shared/data")
    table = pd.read_csv(EPOCH).rename(columns={"train_loss": "loss"})
    table = table[table["excluded_in_published_fit"] == 0]
    fit = fit_law(table, law="formula", huber_delta=1e-3, bootstrap=2)
    assert fit.objective == pytest.approx(1.0182740178e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "real"),
    [
        (CHINCHILLA, ()),
        ("E + (A/N**(alpha/beta) + B/D)**beta", ()),
        ("E + A/N**alpha + B/D**beta + c*log(N)*log(D)", ("c",)),
        ("exp(a + b*log(N) + c*log(D)) + sqrt(E)", ("b", "c")),
        (REPEATED, ()),
        ("max(E, A/N**alpha) + B/min(D, 3)**beta", ()),
    ],
)
def test_derivatives_against_differences(text, real):
    law = FormulaLaw("x", text, real=real, units=(0.3, -0.2))
    rng = np.random.default_rng(0)
    size = len(law.parameters)
    theta = rng.uniform(-0.4, 0.4, (3, size))
    points = Points(*rng.uniform(-0.5, 0.5, (3, 7)))
    points = Points(points.log_params, points.log_tokens, points.log_tokens - 0.4)
    found = law.derivatives(theta, points)
    np.testing.assert_allclose(found.value, law.log_loss(theta, points), rtol=1e-12)
    step = 1e-5
    weights = rng.standard_normal((3, 7))
    bends = found.curvature(weights)
    for i in range(size):
        move = step * np.eye(size)[i]
        up, down = law.derivatives(theta + move, points), law.derivatives(theta - move, points)
        np.testing.assert_allclose(
            found.gradient[:, i], (up.value - down.value) / (2 * step), rtol=1e-6, atol=1e-8
        )
        slope = (up.gradient - down.gradient) / (2 * step)
        np.testing.assert_allclose(
            bends[:, i], np.einsum("br,bpr->bp", weights, slope), rtol=1e-4, atol=1e-7
        )


def test_one_epoch_of_repeated_data_has_finite_slopes():
    law = FormulaLaw("x", REPEATED)
    points = Points.of([1.0, 2.0], [1.0, 3.0], [1.0, 3.0])
    found = law.derivatives(np.full((1, len(law.parameters)), -0.3), points)
    assert np.isfinite(found.gradient).all()
    assert np.isfinite(found.curvature(np.ones((1, 2)))).all()
    assert law.needs_unique


def test_kinds_follow_from_where_a_parameter_stands():
    law = FormulaLaw("x", REPEATED)
    kinds = dict(zip(law.parameters, law.kinds, strict=True))
    assert kinds["E"] == "floor"
    assert kinds["A"] == kinds["B"] == "scale"
    assert kinds["alpha"] == kinds["beta"] == kinds["p"] == "exponent"
    assert kinds["gamma"] == "exponent"
    assert kinds["c"] == "shape"


def test_a_law_file_rebuilds_the_law_from_its_text(runs, tmp_path):
    register_formula("coupled_mine", "E + (A/N**(alpha/beta) + B/D)**beta + g*0")
    fit = fit_law(runs, law="coupled_mine", bootstrap=20)
    loaded = load_law(save_law(fit, tmp_path))
    assert loaded.document["law"] == "formula"
    assert loaded.document["law_settings"]["name"] == "coupled_mine"
    first, second = (law.predict([1e5], [1e9]) for law in (fit, loaded))
    assert first.value == pytest.approx(second.value, rel=1e-12)
    assert first.high == pytest.approx(second.high, rel=1e-9)


def test_a_law_file_with_a_formula_that_runs_code_is_refused(runs, tmp_path):
    fit = fit_law(runs, law="formula", bootstrap=5)
    path = save_law(fit, tmp_path)
    text = path.read_text().replace(CHINCHILLA, "__import__('os').system('touch owned')")
    path.write_text(text)
    with pytest.raises(LawFileError, match="may not stand"):
        load_law(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("__import__('os').system('true')", "may not stand"),
        ("E + A/N.real", "may not stand"),
        ("E + A/N**alpha if N else 0", "may not stand"),
        ("[E for N in range(9)]", "may not stand"),
        ("(lambda: E)()", "may not stand"),
        ("E + (A := N)", "may not stand"),
        ("E + eval(N)", "may not stand"),
        ("E + exp(N, D=2)", "may not stand"),
        ("E + 'A'*N", "no number"),
        ("E + True*N", "no number"),
        ("E + 1j*N", "no number"),
        ("E + A*N % 2", "may not stand"),
        ("E + A/N^alpha", r"write \*\*"),
        ("E + A/N**lambda", "cannot be read"),
        ("E + A/N**αlpha", "ASCII"),
        ("E + A/__class__ + N", "no name"),
        ("E + 9**9**9**9*N", "no finite number"),
        ("E + exp(exp(exp(9)))/N", "no finite number"),
        ("E + N/(1 - 1)", "no finite number"),
        ("E + 1e999*N", "no number"),
        ("E + " + "9" * 500 + "*N", "no number"),
        ("(" * 300 + "N" + ")" * 300, "cannot be read|deeply"),
        ("E" + " + A*N" * 300, "characters"),
        ("E" + "+N" * 400, "deeply|long"),
        ("exp(" * 30 + "E*N" + ")" * 30, "deeply"),
        ("E + exp*N", "is a function"),
        ("E + exp(N, A)", "does not take"),
        ("E + max(N, A, B)", "does not take"),
        ("3.0*N + D", "no parameters"),
        ("E + A", "neither N nor D"),
        ("", "empty"),
        ("+".join(f"a{i}*N" for i in range(14)), "14 parameters"),
        ("max(E, N) + max(A, N) + max(B, N) + max(C, D) + max(F, D)", "at most"),
        ("N**(a + N**(b + N**(c + N**(d + N**(f + N**g)))))", "deeply"),
    ],
)
def test_what_is_no_formula_is_refused_at_once(text, says):
    begun = time.thread_time()
    with pytest.raises(FormulaError, match=says):
        read_formula(text)
    assert time.thread_time() - begun < 0.5


def test_large_powers_do_not_keep_the_algebra_busy():
    law = FormulaLaw("x", "E + (((2*N)**999)**999)**999*A")
    begun = time.thread_time()
    value = law.log_loss(np.zeros(2), Points.of([1.0], [1.0]))
    assert time.thread_time() - begun < 2.0
    assert np.isfinite(value).all()


def test_names_of_other_laws_and_wrong_settings_are_refused():
    with pytest.raises(FormulaError, match="already called"):
        register_formula("chinchilla", CHINCHILLA)
    with pytest.raises(FormulaError, match="no parameter"):
        FormulaLaw("x", CHINCHILLA, real=("gamma",))
    with pytest.raises(FormulaError, match="positive"):
        FormulaLaw("x", CHINCHILLA, bounds={"alpha": (-1.0, 1.0)})
    again = register_formula("twice", CHINCHILLA)
    assert register_formula("twice", "E + A/N**a").formula.parameters == ("E", "A", "a")
    assert get_law("twice") is not again


def test_bounds_hold_the_fit(runs):
    register_formula("fenced", CHINCHILLA, bounds={"alpha": (0.5, 0.6)})
    fit = fit_law(runs, law="fenced", bootstrap=5)
    assert 0.5 - 1e-9 <= fit.parameters["alpha"].value <= 0.6 + 1e-9


def test_a_formula_of_schedules_keeps_the_best_ones_scale(runs):
    assert FormulaLaw("x", CHINCHILLA).scale_direction().tolist() == [1, 1, 0, 1, 0]
    assert not FormulaLaw("x", "(E**2 + A/N**a)**0.25 + B/D**b").scale_direction().any()


def test_the_common_name_can_be_given_a_formula_and_law_files_still_load(runs, tmp_path):
    try:
        register_formula("formula", "E + A/(N*D)**g")
        fit = fit_law(runs, law="formula", bootstrap=5)
        path = save_law(fit, tmp_path)
    finally:
        register_formula("formula", CHINCHILLA)
    assert load_law(path).state.law.parameters == ("E", "A", "g")
