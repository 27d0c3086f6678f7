"""Coverage as a law file states it: what is held out, what is counted, what is said."""

import numpy as np
import pytest
from laboratory import fit_plain, observe, scattered

from analysis.calibration import cut, reference, rolling_origin, score, sentence
from analysis.fitting.fit import fit_law


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    return observe(*scattered(60, rng), rng)


def test_the_larger_runs_are_held_out(runs):
    kept, above = cut(runs, 10.0)
    flops = 6 * runs["params"] * runs["tokens"]
    assert len(kept) + len(above) == len(runs)
    assert (6 * kept["params"] * kept["tokens"]).max() <= flops.max() / 10
    assert (6 * above["params"] * above["tokens"]).min() > flops.max() / 10


def test_too_few_runs_measure_nothing(runs):
    assert cut(runs.iloc[:10], 3.0) is None
    fit = fit_law(runs.iloc[:10], bootstrap=20)
    assert fit.calibration["measured"] is None
    assert "too few" in sentence(fit.calibration)


def test_scores_are_those_of_the_definition(runs):
    kept, above = cut(runs, 10.0)
    fit = fit_plain(kept, bootstrap=60)
    loss = above["loss"].to_numpy()
    found = score(fit, above, loss, 10.0)
    bounds = fit.predict(above["params"], above["tokens"], noise=True)
    width = np.log(bounds.high / bounds.low)
    below = np.maximum(np.log(bounds.low / loss), 0)
    over = np.maximum(np.log(loss / bounds.high), 0)
    assert found.coverage == pytest.approx(((below == 0) & (over == 0)).mean())
    assert found.interval_score == pytest.approx((width + 20 * (below + over)).mean())
    assert found.decades == pytest.approx(
        np.log10((above["params"] * above["tokens"]).max())
        - np.log10((kept["params"] * kept["tokens"]).max())
    )


def test_a_repeat_never_sees_what_it_predicts(runs):
    seen = []

    def refit(part):
        seen.append((6 * part["params"] * part["tokens"]).max())
        return fit_plain(part, bootstrap=20)

    splits = rolling_origin(runs, refit)
    largest = (6 * runs["params"] * runs["tokens"]).max()
    assert [s.hold_out for s in splits] == [3.0, 10.0]
    assert all(top <= largest / s.hold_out for top, s in zip(seen, splits, strict=True))


def test_published_coverage_is_quoted_for_fits_that_were_measured():
    calibrated, plain = reference("super", True), reference("chinchilla", False)
    assert 0.85 <= calibrated["coverage"] <= 0.95
    assert plain["coverage"] < 0.7
    assert reference("data_constrained", False) is None
