"""The envelope of training curves: a known law's optimum, and tables without one."""

import numpy as np
import pandas as pd
import pytest
from laboratory import true_loss, true_optimum

from analysis.errors import FitError
from analysis.fitting.envelope import envelope


def curves(sizes: np.ndarray, points: int = 60, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return trajectories of these sizes, each to 400 tokens a parameter."""
    rng = np.random.default_rng(seed)
    tables = []
    for i, params in enumerate(sizes):
        tokens = params * np.geomspace(1.0, 4000.0, points)
        loss = true_loss(np.full(points, params), tokens)
        loss = loss * np.exp(noise * rng.standard_normal())
        tables.append(
            pd.DataFrame({"trajectory": f"t{i}", "params": params, "tokens": tokens, "loss": loss})
        )
    return pd.concat(tables, ignore_index=True)


def test_dense_sizes_give_the_laws_optimum():
    found = envelope(curves(np.geomspace(3e3, 3e6, 40)), bootstrap=50)
    inner = found.points[(found.points["flops"] > 1e9) & (found.points["flops"] < 1e12)]
    best = np.array([true_optimum(c)[0] for c in inner["flops"]])
    assert np.abs(np.log(inner["params"] / best)).max() < 0.12
    lowest = np.array([true_optimum(c)[1] for c in inner["flops"]])
    np.testing.assert_allclose(inner["loss"], lowest, rtol=2e-3)
    assert found.params_law.exponent == pytest.approx(0.38 / 0.80, abs=0.02)
    assert found.tokens_law.exponent == pytest.approx(1 - found.params_law.exponent)
    np.testing.assert_allclose(
        6 * found.points["params"] * found.points["tokens"], found.points["flops"]
    )
    product = 6 * found.params_law(1e11) * found.tokens_law(1e11)
    assert product == pytest.approx(1e11)


def test_the_best_size_always_has_a_smaller_and_a_larger_rival():
    sizes = np.geomspace(1e4, 1e6, 6)
    found = envelope(curves(sizes), bootstrap=5)
    assert found.points["params"].min() > sizes[0] * 1.01
    assert found.points["params"].max() < sizes[-1] * 0.99


def test_resamples_hold_the_truth_and_follow_the_seed():
    runs = curves(np.geomspace(3e3, 3e6, 12), noise=0.003)
    found = envelope(runs, bootstrap=200, seed=1)
    low, high = np.nanpercentile(found.samples[:, 1], [5, 95])
    assert low < 0.38 / 0.80 < high
    assert high - low < 0.3
    again = envelope(runs, bootstrap=200, seed=1)
    np.testing.assert_array_equal(found.samples, again.samples)


def test_a_resample_is_the_envelope_of_the_drawn_trajectories():
    runs = curves(np.geomspace(3e3, 3e6, 12), noise=0.003)
    drawn = np.unique(np.random.default_rng(7).integers(12, size=(1, 12)))
    some = runs[runs["trajectory"].isin([f"t{i}" for i in drawn])]
    alone = envelope(some, bootstrap=1, bins=2000)
    law = envelope(runs, bootstrap=1, seed=7, bins=2000).samples[0]
    assert law[1] == pytest.approx(alone.params_law.exponent, abs=0.01)


def test_runs_that_were_not_annealed_are_noted():
    runs = curves(np.geomspace(1e4, 1e6, 8))
    assert "not annealed" in envelope(runs, bootstrap=2).notes[0]
    assert "not annealed" in envelope(runs.assign(cooled=False), bootstrap=2).notes[0]
    assert not any("annealed" in n for n in envelope(runs.assign(cooled=True), bootstrap=2).notes)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r.drop(columns="trajectory"), "no column 'trajectory'"),
        (lambda r: r.groupby("trajectory").head(1), "more than one observation"),
        (lambda r: r[r["trajectory"].isin(["t0", "t1"])], "are of 2 sizes"),
        (lambda r: r[r["tokens"] < 3 * r["params"]], "between a smaller and a larger"),
        (
            lambda r: r[r["trajectory"].isin(["t2", "t3", "t4", "t5"])],
            "only 2 of the curves' sizes",
        ),
    ],
)
def test_tables_without_curves_are_refused(spoil, says):
    with pytest.raises(FitError, match=says):
        envelope(spoil(curves(np.geomspace(1e4, 1e6, 8))), bootstrap=2)
