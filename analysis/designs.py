"""Ways to choose runs, by name: what `replay` compares. A new one is a function.

Each takes what was bought so far and a generator, and returns the number of a run of the menu
that the rest of the budget pays for.
"""

import numpy as np

from analysis.errors import ReplayError
from analysis.fitting.result import Fit
from analysis.laws.base import FloatArray, Points
from analysis.replay import Design, Purchases
from analysis.steering.belief import Belief
from analysis.steering.choosing import Account, Market, choose
from analysis.steering.forms import standard, trained
from analysis.steering.places import Trajectories, taken
from analysis.steering.policy import POOL, Policy
from analysis.steering.posterior import Observed

START_SHARE = 0.05
"""Of the budget, spent to fill the space before any law is trusted."""

FEWEST_STARTS = 8
LARGEST_SHARE = 1 / 3
"""A run costs at most this share of what was spent before it, from the ninth on."""


_ONE_COMPUTE = 0.3
"""Runs whose ln C differs by less are of one compute."""

_NODES = 31
"""Of the quadrature over Z."""

_TIE = 1e-9


def random(purchases: Purchases, rng: np.random.Generator) -> int:
    """Any run that can be paid for, all alike."""
    return int(rng.choice(purchases.affordable))


def space_filling(purchases: Purchases, rng: np.random.Generator) -> int:
    """The run farthest, in ln N and ln D, from all that were bought; at first a cheap one."""
    open_ = purchases.affordable
    place = _places(purchases)
    if not purchases.bought:
        cost = purchases.world.menu["cost"].to_numpy()[open_]
        return int(rng.choice(open_[cost <= np.quantile(cost, 0.1)]))
    bought = place[purchases.bought]
    distance = np.linalg.norm(place[open_][:, None] - bought, axis=2).min(axis=1)
    return int(open_[np.argmax(distance * rng.uniform(0.9, 1.0, len(open_)))])


def cheap_space_filling(purchases: Purchases, rng: np.random.Generator) -> int:
    """As `space_filling`, the distance over the fourth root of the cost."""
    open_ = purchases.affordable
    if not purchases.bought:
        return space_filling(purchases, rng)
    place = _places(purchases)
    distance = np.linalg.norm(place[open_][:, None] - place[purchases.bought], axis=2).min(axis=1)
    cost = purchases.world.menu["cost"].to_numpy()[open_]
    worth = distance / cost**0.25 * rng.uniform(0.9, 1.0, len(open_))
    return int(open_[np.argmax(worth)])


def v_optimal(purchases: Purchases, rng: np.random.Generator, exponent: float = 0.4) -> int:
    """The run that cuts the variance of what is wanted most, over its cost to a power.

    With C the covariance of true losses given what was bought, a run x of noise sigma lowers the
    variance at t by C(t, x)^2 / (sigma^2 + C(x, x)). Where the estimator fits a discrepancy, C
    counts it: a run then tells most of what lies near it.
    """
    ready = _ready(purchases, rng)
    if isinstance(ready, int):
        return ready
    open_, cost = ready
    fit = _fit(purchases)
    menu = purchases.world.menu.iloc[open_]
    runs = Points.of(menu["params"], menu["tokens"])
    wanted = Points.of(purchases.world.wanted["params"], purchases.world.wanted["tokens"])
    shared = fit.state.covariance_between(runs, wanted)
    variance = np.square(fit.state.spread_at(runs))
    gained = (shared**2).sum(axis=1) / (fit.sigma**2 + variance)
    return int(open_[np.argmax(gained / cost**exponent)])


def d_optimal(purchases: Purchases, rng: np.random.Generator) -> int:
    """The run that shrinks the volume of theta's uncertainty most for its cost."""
    ready = _ready(purchases, rng)
    if isinstance(ready, int):
        return ready
    open_, cost = ready
    fit = _fit(purchases)
    menu = purchases.world.menu.iloc[open_]
    f = fit.law.gradient(fit.theta, Points.of(menu["params"], menu["tokens"]))
    variance = np.einsum("kp,pq,kq->k", f, fit.covariance, f)
    return int(open_[np.argmax(np.log1p(variance / fit.sigma**2) / cost)])


def steered(purchases: Purchases, rng: np.random.Generator) -> int:
    """The run that cuts what is wanted most for its cost, under a mixture of laws.

    `analysis.steering`: what a search uses. Its choice rests on its own belief, whatever the
    estimator is.
    """
    return _chosen(purchases, rng, Policy() if purchases.world.repeats else POOL)


def searching(purchases: Purchases, rng: np.random.Generator) -> int:
    """As `steered`, spending as a live search does: a longer start, then no leaps in size."""
    return _chosen(purchases, rng, Policy())


def _chosen(purchases: Purchases, rng: np.random.Generator, policy: Policy) -> int:
    market, belief = _believed(purchases, policy)
    open_ = np.zeros(market.candidates.count, dtype=bool)
    open_[purchases.affordable] = True
    account = Account(purchases.budget, purchases.spent, tuple(purchases.bought), (), open_)
    choice = choose(market, belief, account, rng)
    assert choice is not None
    return choice.index


def thompson(purchases: Purchases, rng: np.random.Generator) -> int:
    """The best run of one compute under a law drawn from the belief: Thompson sampling.

    The compute is drawn too, evenly in ln C among what may be bought. It buys near the optimum,
    where a law says least about its exponents: a rival, not advice.
    """
    ready = _ready_to_believe(purchases, rng)
    if isinstance(ready, int):
        return ready
    open_, market, belief = ready
    part = belief.parts[int(rng.choice(len(belief.parts), p=belief.shares))]
    points = taken(market.candidates.points, open_)
    phi = market.phi[open_]
    drawn = rng.multivariate_normal(np.zeros(len(part.covariance)), part.covariance)
    loss = part.log_loss(points, phi) + part.gradient(points, phi) @ drawn
    work = market.candidates.log_flops[open_]
    off = np.abs(work - rng.uniform(work.min(), work.max()))
    near = np.flatnonzero(off <= max(_ONE_COMPUTE, float(off.min())))
    return int(open_[near[np.argmin(loss[near])]])


def knowledge_gradient(
    purchases: Purchases, rng: np.random.Generator, exponent: float = 0.4
) -> int:
    """The run after which the best of what is wanted is expected to be best by most, for its cost.

    What is wanted is places; the one of least expected loss is the decision. A run x moves the
    expectation at place t by s(t) Z with s = C(t, x) / sqrt(sigma^2 + C(x, x)) and Z normal, so
    that its knowledge gradient is min m - E min (m + s Z) (Frazier, Powell and Dayanik 2009),
    averaged over the forms. Where no run changes the decision, the run that moves most is taken.
    """
    ready = _ready_to_believe(purchases, rng)
    if isinstance(ready, int):
        return ready
    open_, market, belief = ready
    points, there = taken(market.candidates.points, open_), market.goal.points()
    gain = np.zeros(open_.size)
    for share, part in zip(belief.shares, belief.parts, strict=True):
        f, g = part.gradient(points, market.phi[open_]), part.gradient(there, market.goal_phi)
        shared = f @ part.covariance @ g.T
        own = np.einsum("kq,qr,kr->k", f, part.covariance, f)
        size = part.noise.at(market.candidates.log_flops[open_])
        moves = shared / np.sqrt(size**2 + own)[:, None]
        gained = expected_gain(part.log_loss(there, market.goal_phi), moves)
        gain += share * (gained + _TIE * np.ptp(moves, axis=1))
    return int(open_[np.argmax(gain / market.candidates.cost[open_] ** exponent)])


def expected_gain(middle: FloatArray, moves: FloatArray) -> FloatArray:
    """Return min m - E min (m + s Z) of K runs, [K], by Gauss-Hermite quadrature.

    Args:
        middle: m, expectations at G places, [G].
        moves: s, by how much a run moves them in a standard deviation, [K, G].
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    least = np.stack([(middle + moves * node).min(axis=1) for node in nodes], axis=1)
    return np.asarray(middle.min() - least @ (weights / weights.sum()))


def isoflop(purchases: Purchases, rng: np.random.Generator) -> int:
    """Five budgets of seven sizes, spread over what the whole budget pays for; then random."""
    menu, open_ = purchases.world.menu, purchases.affordable
    work = 6.0 * menu["params"].to_numpy() * menu["tokens"].to_numpy()
    # A budget of 1 / 7 / (1 + 1/2 + 1/4 + ...) on the largest level uses up what there is.
    top = min(purchases.budget / 14.0, float(work.max()))
    number = len(purchases.bought)
    if number >= 35:
        return random(purchases, rng)
    level = max(top / 2.0 ** (4 - number // 7), float(work.min()))
    near = open_[np.abs(np.log(work[open_] / level)) < 0.5]
    if not near.size:
        near = open_[[int(np.argmin(np.abs(np.log(work[open_] / level))))]]
    size = np.log(menu["params"].to_numpy()[near])
    wanted = size.min() + (number % 7) / 6.0 * np.ptp(size)
    return int(near[np.argmin(np.abs(size - wanted))])


def _believed(purchases: Purchases, policy: Policy = POOL) -> tuple[Market, Belief | None]:
    """Return what can be bought and what the purchases say of it under several forms."""
    memory, menu = purchases.memory, purchases.world.menu
    if "market" not in memory:
        runs = Trajectories.of(menu["params"], menu["tokens"], menu["cost"])
        # What can be bought again and again is simulated, by a formula.
        forms = standard() if purchases.world.repeats else trained()
        market_ = Market.of(runs, purchases.world.goal, forms, policy)
        memory |= {"market": market_, "belief": None}
    market: Market = memory["market"]
    bought = np.array(purchases.bought, dtype=np.intp)
    if bought.size:
        runs = market.candidates.take(bought)
        losses = np.log(np.array(purchases.losses))
        observed = Observed(runs.points, losses, np.arange(bought.size))
        memory["belief"] = market.believe(observed, memory["belief"])
    return market, memory["belief"]


def _ready_to_believe(
    purchases: Purchases, rng: np.random.Generator
) -> int | tuple[np.ndarray, Market, Belief]:
    """Return the candidates, the market and the belief, or a run of the space-filling start."""
    begun = purchases.spent >= START_SHARE * purchases.budget
    if len(purchases.bought) < FEWEST_STARTS or not begun:
        return cheap_space_filling(purchases, rng)
    market, belief = _believed(purchases)
    assert belief is not None
    open_ = purchases.affordable
    cost = market.candidates.cost[open_]
    return open_[cost <= max(LARGEST_SHARE * purchases.spent, float(cost.min()))], market, belief


def _fit(purchases: Purchases) -> Fit:
    fit = purchases.fit
    if not isinstance(fit, Fit):
        raise ReplayError(
            "this design scores runs by one law; take an estimator that fits one: calibrated or "
            "five_parameters"
        )
    return fit


def _places(purchases: Purchases) -> FloatArray:
    menu = purchases.world.menu
    return np.log(menu[["params", "tokens"]].to_numpy(dtype=np.float64))


def _ready(purchases: Purchases, rng: np.random.Generator) -> int | tuple[np.ndarray, FloatArray]:
    """Return the candidates with their costs, or a run of the space-filling start."""
    open_ = purchases.affordable
    cost = purchases.world.menu["cost"].to_numpy(dtype=np.float64)[open_]
    begun = purchases.spent >= START_SHARE * purchases.budget
    if len(purchases.bought) < FEWEST_STARTS or not begun or purchases.fit is None:
        return cheap_space_filling(purchases, rng)
    small = cost <= max(LARGEST_SHARE * purchases.spent, float(cost.min()))
    return open_[small], cost[small]


DESIGNS: dict[str, Design] = {
    "random": random,
    "space_filling": space_filling,
    "cheap_space_filling": cheap_space_filling,
    "v_optimal": v_optimal,
    "d_optimal": d_optimal,
    "isoflop": isoflop,
    "thompson": thompson,
    "knowledge_gradient": knowledge_gradient,
    "steered": steered,
    "searching": searching,
}
