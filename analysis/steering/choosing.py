"""The next run: a pure function of what was bought, what is under way, and what can be had."""

from dataclasses import dataclass, replace

import numpy as np

from analysis.errors import AnalysisError
from analysis.laws.base import FloatArray
from analysis.steering.belief import Belief, believe
from analysis.steering.contrast import disagreement, settled
from analysis.steering.forms import LENGTH, Form, standard
from analysis.steering.goals import Goal
from analysis.steering.places import Trajectories
from analysis.steering.planning import Hypothesis, best_plan
from analysis.steering.policy import Policy
from analysis.steering.posterior import Observed
from analysis.steering.scoring import Telling
from analysis.steering.smooth import SmoothBasis

_NEGLIGIBLE = 0.01
"""Probability under which a form has no say in the choice."""


@dataclass(frozen=True)
class Market:
    """What can be bought, and what is wanted: fixed for a search, prepared once.

    Attributes:
        candidates: T trajectories.
        goal: what the search wants to know.
        forms: what the loss may look like, the simplest first.
        basis: features of the misfit.
        phi: features of the candidates' observations, [S, M].
        goal_phi: features of the goal's places.
        policy: how to spend.
    """

    candidates: Trajectories
    goal: Goal
    forms: tuple[Form, ...]
    basis: SmoothBasis
    phi: FloatArray
    goal_phi: FloatArray
    policy: Policy

    @classmethod
    def of(
        cls,
        candidates: Trajectories,
        goal: Goal,
        forms: tuple[Form, ...] | None = None,
        policy: Policy | None = None,
    ) -> "Market":
        """Prepare a search.

        Raises:
            AnalysisError: there is nothing to buy, or a cost is not above 0.
        """
        if not candidates.count:
            raise AnalysisError("there is no run to choose from")
        if not np.all(np.isfinite(candidates.cost) & (candidates.cost > 0)):
            raise AnalysisError("every candidate needs a cost above 0")
        basis = SmoothBasis.of([candidates.points, goal.points()], LENGTH)
        return cls(
            candidates,
            goal,
            standard() if forms is None else forms,
            basis,
            basis.features(candidates.points),
            basis.features(goal.points()),
            policy or Policy(),
        )

    def among(self, chosen: np.ndarray) -> "Market":
        """Return the same with some of the candidates, given by ascending numbers."""
        rows = np.isin(self.candidates.owner, chosen)
        return replace(self, candidates=self.candidates.take(chosen), phi=self.phi[rows])

    def believe(self, runs: Observed, before: Belief | None = None) -> Belief:
        """Return what the runs say; `before`, of fewer runs, makes it a matter of milliseconds."""
        return believe(self.forms, runs, self.basis, before)


@dataclass(frozen=True)
class Account:
    """Where a search stands.

    Attributes:
        budget: what all may cost.
        spent: what was spent or is promised to runs under way.
        bought: numbers of the candidates bought so far, those under way included.
        pending: numbers of those whose losses are not known yet.
        open: which candidates may be bought now, [T]; unset: all. A table's rows can be bought
            once, a cluster may have too few free devices for a run.
        overhead: what any run costs besides its own price.
        prices: what a candidate is weighed by, [T], where that is not its cost: seconds, say,
            where FLOPs are what is budgeted.
        unlisted: how many more were bought, which are not among the candidates.
    """

    budget: float
    spent: float
    bought: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    open: np.ndarray | None = None
    overhead: float = 0.0
    unlisted: int = 0
    prices: FloatArray | None = None


@dataclass(frozen=True)
class Choice:
    """The next run, and why.

    Attributes:
        index: number of the candidate.
        scores: of all candidates, [T]; -inf for those that may not be bought.
        cuts: share of each goal's variance that the run is expected to remove, [G].
        reason: a sentence.
    """

    index: int
    scores: FloatArray
    cuts: FloatArray
    reason: str


def choose(
    market: Market, belief: Belief | None, account: Account, rng: np.random.Generator
) -> Choice | None:
    """Return the next run, or None where no candidate can be paid for.

    Args:
        market: what can be bought and what is wanted.
        belief: what the finished runs say; None while there are none.
        account: where the search stands.
        rng: breaks ties of the start, and draws the candidates of a plan.
    """
    costs = market.candidates.cost + account.overhead
    affordable = costs <= (account.budget - account.spent) * (1.0 + 1e-12)
    if account.open is not None:
        affordable &= account.open
    if not affordable.any():
        return None
    started = len(account.bought) + account.unlisted
    policy = market.policy
    filling = started < policy.starts and account.spent < policy.start_share * account.budget
    if belief is None or started < policy.fewest or filling:
        return _fill(market, account, affordable, costs, rng)
    if account.budget < policy.few * float(np.median(costs)):
        return _follow_plan(market, belief, account, affordable, costs, rng)
    ceiling = max(policy.largest_share * account.spent, float(costs[affordable].min()))
    allowed = affordable & (costs <= ceiling)
    hypotheses = _hypotheses(market, belief, account.pending)
    cuts = _cuts(market, hypotheses)
    weights = _needs(market, belief)
    exponent = cost_exponent(belief, policy)
    prices = costs if account.prices is None else account.prices
    about, share = _about_the_form(market, belief, hypotheses, account.pending)
    worth = (1.0 - share) * (cuts @ weights) + share * about
    scores = np.where(allowed, worth / prices**exponent, -np.inf)
    best = int(np.argmax(scores))
    reason = _reason(market, cuts[best], costs[best], account)
    if share * about[best] > 0.5 * worth[best]:
        reason += f"; it tells above all whether {belief.parts[0].form.name} will do"
    return Choice(best, scores, cuts[best], reason)


def _follow_plan(
    market: Market,
    belief: Belief,
    account: Account,
    affordable: np.ndarray,
    costs: FloatArray,
    rng: np.random.Generator,
) -> Choice:
    """Return the dearest run of the best plan for the rest of the budget."""
    open_, left = np.flatnonzero(affordable), account.budget - account.spent
    if costs[open_].sum() <= left:
        plan = open_
    else:
        if open_.size > market.policy.considered:
            open_ = rng.choice(open_, market.policy.considered, replace=False)
        numbers = np.union1d(open_, np.array(account.pending, dtype=np.intp))
        pending = tuple(int(n) for n in np.searchsorted(numbers, account.pending))
        hypotheses = _hypotheses(market.among(numbers), belief, pending)
        plan = numbers[best_plan(hypotheses, costs[numbers], np.isin(numbers, open_), left)]
    cuts = expected_cuts(market, belief, account.pending)
    scores = np.full(costs.size, -np.inf)
    scores[plan] = costs[plan]
    best = int(np.argmax(scores))
    reason = _reason(market, cuts[best], costs[best], account)
    return Choice(best, scores, cuts[best], f"{reason}; the first of {len(plan)} planned")


def _hypotheses(market: Market, belief: Belief, pending: tuple[int, ...]) -> list[Hypothesis]:
    """Return the forms that have a say, with what runs under way will leave of their variance."""
    answers = belief.answers(market.goal, market.goal_phi)
    tellings = belief.once(market, lambda there: _tellings(there, belief))
    result = []
    for number, telling in tellings.items():
        covariance = belief.parts[number].covariance
        for index in pending:
            covariance = telling.after(covariance, index)
        result.append(
            Hypothesis(float(belief.shares[number]), telling, covariance, answers[number].gradient)
        )
    return result


def _speaking(belief: Belief) -> list[int]:
    """Return the numbers of the forms that have a say."""
    return [int(number) for number in np.flatnonzero(belief.shares >= _NEGLIGIBLE)]


def _tellings(market: Market, belief: Belief) -> dict[int, Telling]:
    return {
        number: Telling(belief.parts[number], market.candidates, market.phi)
        for number in _speaking(belief)
    }


def cost_exponent(belief: Belief, policy: Policy) -> float:
    """Return k of score / cost^k."""
    return policy.bold if belief.shares[0] > policy.trusted else policy.cautious


def expected_cuts(market: Market, belief: Belief, pending: tuple[int, ...] = ()) -> FloatArray:
    """Return the share of each goal's variance that each candidate would remove, [T, G].

    Shares are averaged over the forms by probability: a form that knows little would otherwise
    decide alone, however improbable it is.
    """
    return _cuts(market, _hypotheses(market, belief, pending))


def _cuts(market: Market, hypotheses: list[Hypothesis]) -> FloatArray:
    result = np.zeros((market.candidates.count, len(market.goal.names)))
    for share, telling, covariance, goals in hypotheses:
        removed = telling.reductions(covariance, goals)
        variance = np.einsum("gq,qr,gr->g", goals, covariance, goals)
        result += share * removed / np.maximum(variance, 1e-300)
    return result


def _about_the_form(
    market: Market, belief: Belief, hypotheses: list[Hypothesis], pending: tuple[int, ...]
) -> tuple[FloatArray, float]:
    """Return how far each candidate settles whether the simplest form holds, [T], and a weight."""
    weight = min(market.policy.doubt * disagreement(belief), 1.0)
    speaking = _speaking(belief)
    if weight == 0.0 or speaking[0] != 0 or len(speaking) < 2:
        return np.zeros(market.candidates.count), 0.0
    points = market.candidates.points
    expected = [belief.parts[number].log_loss(points, market.phi) for number in speaking]
    return settled(hypotheses, expected, pending), weight


def _needs(market: Market, belief: Belief) -> FloatArray:
    """Return how much each goal matters: its variance in units of its tolerance's, [G]."""
    answers = belief.answers(market.goal, market.goal_phi)
    total = np.zeros(len(market.goal.names))
    for share, part, answer in zip(belief.shares, belief.parts, answers, strict=True):
        variance = np.einsum("gq,qr,gr->g", answer.gradient, part.covariance, answer.gradient)
        total += share * variance
    needs = total / market.goal.tolerance**2
    return np.asarray(needs / needs.sum())


def _fill(
    market: Market,
    account: Account,
    affordable: np.ndarray,
    costs: FloatArray,
    rng: np.random.Generator,
) -> Choice:
    """Return a cheap run far from those bought: the start."""
    policy = market.policy
    left = policy.start_share * account.budget - account.spent
    price = left / max(policy.starts - len(account.bought) - account.unlisted, 1)
    cheapest = float(costs[affordable].min())
    allowed = affordable & (costs <= max(price, policy.start_reach * cheapest))
    place = market.candidates.middles
    if account.bought:
        distance = np.linalg.norm(place[:, None] - place[list(account.bought)], axis=2).min(axis=1)
    else:
        distance = np.ones(market.candidates.count)
    scores = np.where(allowed, distance * rng.uniform(0.9, 1.0, distance.size), -np.inf)
    best = int(np.argmax(scores))
    unknown = np.full(len(market.goal.names), np.nan)
    return Choice(best, scores, unknown, "start: cheap, and far from the runs so far")


def _reason(market: Market, cuts: FloatArray, cost: float, account: Account) -> str:
    share = f"for {cost / account.budget:.1%} of the budget"
    names = market.goal.names
    if len(names) > 3:
        return f"cuts the variance of what is wanted by {cuts.mean():.0%} on average, {share}"
    parts = " and ".join(f"of {name} by {cut:.0%}" for name, cut in zip(names, cuts, strict=True))
    return f"cuts the variance {parts}, {share}"
