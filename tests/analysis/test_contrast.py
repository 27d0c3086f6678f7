"""Runs that tell whether the simplest form holds: against brute force, and only in doubt."""

from dataclasses import replace

import numpy as np
import pytest
from small_search import LARGEST, TARGET, believed, menu, trunks

from analysis.discrepancy import noise_covariance
from analysis.steering.belief import Belief
from analysis.steering.choosing import Account, Market, choose, expected_cuts
from analysis.steering.contrast import disagreement, settled
from analysis.steering.goals import Optimum
from analysis.steering.planning import Hypothesis
from analysis.steering.policy import POOL
from analysis.steering.scoring import Telling


def hypotheses(market: Market, belief: Belief) -> tuple[list[Hypothesis], list[np.ndarray]]:
    points = market.candidates.points
    found = [
        Hypothesis(
            float(share),
            Telling(part, market.candidates, market.phi),
            part.covariance,
            np.zeros((1, len(part.covariance))),
        )
        for share, part in zip(belief.shares, belief.parts, strict=True)
    ]
    return found, [part.log_loss(points, market.phi) for part in belief.parts]


@pytest.mark.parametrize("observations", [1, 3])
def test_what_a_run_settles_is_the_variance_that_it_takes_from_the_answer(observations):
    """By the joint covariance of yes or no and of what all of the run's losses will be."""
    market = Market.of(trunks(menu(), observations), Optimum(TARGET))
    belief = believed(market, 20)
    found, expected = hypotheses(market, belief)
    shares = belief.shares
    open_ = shares[0] * (1 - shares[0])
    apart = expected[0] - np.average(expected[1:], axis=0, weights=shares[1:])

    def scatter(index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.flatnonzero(market.candidates.owner == index)
        total = np.zeros((rows.size, rows.size))
        points = market.candidates.take([index]).points
        flops = market.candidates.log_flops[rows]
        for share, part in zip(shares, belief.parts, strict=True):
            f = part.gradient(points, market.phi[rows])
            size = part.noise.at(flops)
            noise = noise_covariance(points.log_tokens, np.zeros(rows.size), np.ones(rows.size))
            total += share * (f @ part.covariance @ f.T + noise * size[:, None] * size)
        return apart[rows], total

    def left(variance: float, index: int) -> float:
        d, s = scatter(index)
        return variance - variance**2 * d @ np.linalg.solve(s + variance * np.outer(d, d), d)

    tells = settled(found, expected)
    for index in (0, 20, 63):
        assert tells[index] == pytest.approx(1 - left(open_, index) / open_, rel=1e-6)
    best = int(tells.argmax())
    waiting = left(open_, best)
    after = settled(found, expected, (best,))
    assert after[20] == pytest.approx(1 - left(waiting, 20) / waiting, rel=1e-6)
    assert after[best] < tells[best], "the same again tells less"


def test_a_search_in_doubt_buys_what_settles_it_and_says_so():
    market = Market.of(menu(), Optimum(TARGET))
    belief = believed(market, 20)
    found, expected = hypotheses(market, belief)
    tells = settled(found, expected)
    bold = replace(market, policy=replace(market.policy, bold=0.0, cautious=0.0, doubt=0.0))
    sure = replace(bold, policy=replace(bold.policy, doubt=1e6))
    account = Account(1e3 * LARGEST, 1e2 * LARGEST, tuple(range(20)))
    plain = choose(bold, belief, account, np.random.default_rng(0))
    doubtful = choose(sure, belief, account, np.random.default_rng(0))
    assert tells[doubtful.index] > tells[plain.index]
    assert doubtful.reason.endswith("it tells above all whether five parameters will do")
    assert "whether" not in plain.reason


def test_nothing_is_bought_for_a_question_that_is_settled_or_not_asked():
    market = Market.of(menu(), Optimum(TARGET))
    belief = believed(market, 20)
    account = Account(1e3 * LARGEST, 1e2 * LARGEST, tuple(range(20)))
    assert 0.0 < disagreement(belief) <= 0.5
    for first in (0.0, 1.0):
        rest = (1.0 - first) * belief.shares[1:] / belief.shares[1:].sum()
        certain = replace(belief, shares=np.append(first, rest), _made={})
        assert disagreement(certain) == 0.0
        plain = replace(market, policy=replace(market.policy, doubt=0.0))
        scores = [
            choose(m, certain, account, np.random.default_rng(0)).scores for m in (market, plain)
        ]
        np.testing.assert_array_equal(*scores)
    pool = replace(market, policy=replace(POOL, few=0.0))
    cuts = expected_cuts(pool, belief)
    choice = choose(pool, belief, account, np.random.default_rng(0))
    np.testing.assert_array_equal(choice.cuts, cuts[choice.index])
    assert "whether" not in choice.reason
