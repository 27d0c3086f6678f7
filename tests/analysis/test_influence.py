"""What leaving a trajectory out does, against fits without it."""

import numpy as np
import pytest
from laboratory import observe, scattered, true_loss

from analysis.fitting.fit import fit_law
from analysis.influence import influence

COORDINATES = ("ln_E", "ln_A", "ln_B", "alpha", "beta")


def runs(count=40, seed=0):
    rng = np.random.default_rng(seed)
    table = observe(*scattered(count, rng), rng)
    return table.assign(trajectory=[f"run-{i // 2}" for i in range(count)])


@pytest.mark.parametrize("priors", ["none", "weak"])
def test_shifts_are_those_of_fits_without_the_trajectory(priors):
    table = runs()
    settings = {"law": "chinchilla", "huber_delta": 1.0, "priors": priors, "bootstrap": 20}
    settings["discrepancy"] = "none"
    fit = fit_law(table, **settings)
    found = influence(fit, flops=1e13).set_index("trajectory")
    spread = np.sqrt(np.maximum(np.diag(fit.covariance), fit.samples.var(axis=0)))
    best = fit.optimum(1e13)
    exact, near = [], []
    for name in found.index:
        without = fit_law(table[table["trajectory"] != name], **settings)
        moved = without.optimum(1e13)
        exact.append(
            [
                *(without.theta - fit.theta) / spread,
                np.log(moved.params.value / best.params.value) / 0.1,
                np.log(moved.loss.value / best.loss.value) / 0.01,
            ]
        )
        row = found.loc[name]
        shifts = [row[f"shift_{c}"] for c in COORDINATES]
        near.append([*shifts, row["shift_ln_params"] / 0.1, row["shift_ln_loss"] / 0.01])
    exact, near = np.array(exact), np.array(near)
    for column in range(exact.shape[1]):
        assert np.corrcoef(exact[:, column], near[:, column])[0, 1] > 0.97
    assert np.abs(exact - near).max() < 0.2 * np.abs(exact).max()


def test_a_diverged_run_at_the_edge_comes_first():
    table = runs(60, 3)
    edge = int((table["params"] * table["tokens"]).argmax())
    truth = true_loss(table["params"].iloc[edge], table["tokens"].iloc[edge])
    table.loc[edge, "loss"] = 1.05 * truth
    for discrepancy in ("none", "auto"):
        fit = fit_law(table, law="chinchilla", bootstrap=20, discrepancy=discrepancy)
        found = influence(fit)
        assert edge // 2 in [int(name.split("-")[1]) for name in found["trajectory"][:3]]
        assert (found["rows"] == 2).all()


def test_leverages_sum_to_the_parameters_that_runs_decide():
    fit = fit_law(runs(), law="chinchilla", priors="none", bootstrap=20)
    assert influence(fit)["leverage"].sum() == pytest.approx(5, abs=1e-6)


def test_steps_with_a_discrepancy_are_those_of_generalised_least_squares():
    """Rows of no consequence: with a trajectory's rows gone, the normal equations are solved."""
    table = runs(24, 5)
    fit = fit_law(table, law="chinchilla", bootstrap=20)
    problem, point, process = fit.problem, fit.point, fit.discrepancy
    assert process is not None
    gradient = problem.model(point.theta[None]).gradient[0]
    keep = problem.trajectory != 3
    covariance = process.covariance(fit.law, fit.theta)[np.ix_(keep, keep)]
    score = np.linalg.solve(covariance, gradient[:, keep].T).T
    information = score @ gradient[:, keep].T + np.diag(1.0 / problem.prior.spread**2)
    pull = score @ process.residual[keep]
    pull -= (point.theta - problem.prior.mean) / problem.prior.spread**2
    shift = problem.law.centring(*problem.centre) @ np.linalg.solve(information, pull)
    spread = np.sqrt(np.maximum(np.diag(fit.covariance), fit.samples.var(axis=0)))
    row = influence(fit).set_index("trajectory").loc["run-3"]
    np.testing.assert_allclose(
        [row[f"shift_{c}"] for c in COORDINATES], shift / spread, rtol=0.05, atol=0.02
    )
