"""Which runs a fit hangs on: what leaving each trajectory out would do, without fitting again.

One Newton step from the fit, with the left-out rows gone from slope and Hessian alike (the
infinitesimal jackknife with the leverage put right; Cook 1977 in the linear case). Noise,
threshold and discrepancy stay as they were fitted.
"""

import numpy as np
import pandas as pd

from analysis.fitting.newton import huber, newton_step
from analysis.fitting.noise import effective_sigma
from analysis.fitting.problem import Problem
from analysis.fitting.result import Fit
from analysis.fitting.solve import PointFit
from analysis.laws.base import FloatArray, Points

_BATCH_ELEMENTS = 1_000_000


def influence(fit: Fit, flops: float | None = None) -> pd.DataFrame:
    """Return a row for each trajectory, the most influential first.

    Args:
        fit: from `fit_law`.
        flops: adds what leaving the trajectory out does to the optimum of this budget.

    Returns:
        Columns: `trajectory`; `rows`; `leverage`, how many parameters the trajectory alone
        decides (all of them sum to the number that runs rather than priors decide);
        `distance`, Cook's, the squared shift of theta in its covariance, by parameter (above
        1, leaving the trajectory out moves theta to the edge of its confidence region);
        `shift_X` for each coordinate X, such as `shift_ln_A` and `shift_alpha`, in standard
        errors; and with `flops`, `shift_ln_params` and `shift_ln_loss` of the optimum.

    Raises:
        ValueError: the fit does not carry its problem, as one of an older version.
    """
    problem, point = fit.problem, fit.point
    if problem is None or point is None:
        raise ValueError("this fit does not carry its rows; fit them again with fit_law")
    members = [problem.trajectory == t for t in range(int(problem.trajectory.max()) + 1)]
    if fit.discrepancy is None:
        steps, leverage = _huber_steps(problem, point, members)
    else:
        steps, leverage = _mixed_steps(problem, point, fit, members)
    shifts = steps @ problem.to_law(point.theta).T
    spread = np.sqrt(np.maximum(np.diag(fit.covariance), fit.samples.var(axis=0)))
    # Directions that the covariance all but lacks, such as a bound's, count for nothing.
    precision = np.linalg.pinv(fit.covariance, rcond=1e-12, hermitian=True)
    firsts = [int(np.argmax(m)) for m in members]
    names = fit.runs["trajectory"].to_numpy()[firsts] if "trajectory" in fit.runs else firsts
    table = {
        "trajectory": names,
        "rows": [int(m.sum()) for m in members],
        "leverage": leverage,
        "distance": np.einsum("tp,pq,tq->t", shifts, precision, shifts) / shifts.shape[1],
    }
    for index, name in enumerate(fit.law.coordinates):
        table[f"shift_{name}"] = shifts[:, index] / spread[index]
    if flops is not None:
        without = fit.law.clip(fit.theta + shifts)
        best, moved = _optima(fit, fit.theta[None], flops), _optima(fit, without, flops)
        table["shift_ln_params"] = moved[0] - best[0]
        table["shift_ln_loss"] = moved[1] - best[1]
    frame = pd.DataFrame(table)
    return frame.sort_values("distance", ascending=False, kind="stable", ignore_index=True)


def _huber_steps(
    problem: Problem, point: PointFit, members: list[np.ndarray]
) -> tuple[FloatArray, FloatArray]:
    """Return the steps of theta [T, P] and leverages [T] of a Huber fit."""
    rows, size = problem.log_loss.size, problem.size
    gradient = problem.model(point.theta[None]).gradient[0]
    _, psi, inside = huber(point.residual, point.delta)
    share = point.delta / np.maximum(np.abs(point.residual), point.delta)
    ridge = point.prior_scale / problem.prior.spread**2
    pull = ridge * np.where(ridge > 0, point.theta - problem.prior.mean, 0.0)
    low, high = problem.bounds()
    at_bound = (point.theta - low < 1e-9) | (high - point.theta < 1e-9)
    steps = []
    batch = max(1, _BATCH_ELEMENTS // (rows * size))
    for first in range(0, len(members), batch):
        part = np.stack(members[first : first + batch])
        weights = np.where(part, 0.0, problem.weights)
        count = len(weights)
        curvature = problem.model(np.tile(point.theta, (count, 1))).curvature
        hessian = (gradient * (weights * inside)[:, None, :]) @ gradient.T
        hessian += np.diag(ridge) - curvature(weights * psi)
        metric = (gradient * (weights * share)[:, None, :]) @ gradient.T + np.diag(ridge)
        held = np.broadcast_to(at_bound, (count, size))
        slope = np.where(held, 0.0, pull - (weights * psi) @ gradient.T)
        steps.append(newton_step(hessian, metric, slope, np.zeros(count), held)[0])
    sigma = effective_sigma(point.sigma, point.delta)
    hat = problem.weights * np.einsum("pr,pq,qr->r", gradient, point.covariance, gradient)
    return np.concatenate(steps), np.array([hat[m].sum() for m in members]) / sigma**2


def _mixed_steps(
    problem: Problem, point: PointFit, fit: Fit, members: list[np.ndarray]
) -> tuple[FloatArray, FloatArray]:
    """Return the same of a generalised least-squares fit with a discrepancy.

    With Q the rows' precision, that of the rows without t is Q less Q_.t Q_tt^-1 Q_t.
    """
    process = fit.discrepancy
    assert process is not None
    precision = np.linalg.inv(process.covariance(fit.law, fit.theta))
    gradient = problem.model(point.theta[None]).gradient[0]
    scores = gradient @ precision
    residual = precision @ process.residual
    information = np.linalg.inv(point.covariance)
    steps, leverage = [], []
    for member in members:
        own = np.linalg.solve(precision[np.ix_(member, member)], scores[:, member].T)
        lost = scores[:, member] @ own
        steps.append(-np.linalg.solve(information - lost, own.T @ residual[member]))
        leverage.append(np.sum(gradient[:, member] * (point.covariance @ scores[:, member])))
    return np.array(steps), np.array(leverage)


def _optima(fit: Fit, theta: FloatArray, flops: float) -> tuple[FloatArray, FloatArray]:
    """Return ln N and ln L of each law's optimum, [T]."""
    log_params, log_tokens = fit.law.optimum(theta, flops)
    there = Points(log_params[:, None], log_tokens[:, None], log_tokens[:, None])
    return log_params, fit.law.log_loss(theta, there)[:, 0]
