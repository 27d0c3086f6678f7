"""Refits of resamples on the law's second-order expansion about the fit of all rows.

Resamples differ from the whole table in their weights alone, and their optima lie near its own.
There ln L is all but quadratic in theta, f0 + J s + s K s / 2, with J and K shared by all
resamples. So a Newton step for a thousand of them is three matrix products, with no exponential
in it: a quarter of the price of an exact step. What is left after it, the third order, takes the
exact fit (`minimise`) two or three steps instead of nine. It is the infinitesimal jackknife
carried to convergence and to second order.
"""

import numpy as np

from analysis.fitting.newton import Model, huber, scaled_inverse_root
from analysis.laws.base import FloatArray

_STEP = 1e-4
"""Of the central differences that give K from the gradients."""

_ITERATIONS = 10
_ENOUGH = 1e-6
"""Share of the objective under which a gain is left to the exact steps."""

_RIDGE = 1e-3
"""Curvature, relative to reweighted least squares, that every direction has at least."""

_FURTHEST = 1.0
"""How far a coordinate may move before the expansion is not believed."""


class Expansion:
    """The expansion of a model about one theta, in coordinates in which M is the identity."""

    def __init__(
        self,
        model: Model,
        log_loss: FloatArray,
        theta: FloatArray,
        weights: FloatArray,
        delta: float,
        precision: FloatArray,
    ) -> None:
        """Expand `model`, the prediction with its derivatives, about `theta`.

        Args:
            model: as `minimise` takes it.
            log_loss: [R].
            theta: [P].
            weights: of the fit of all rows, [R].
            delta: Huber's threshold.
            precision: of the priors, on the Huber sum's scale, [P].
        """
        size = theta.size
        step = _STEP * np.eye(size)
        there = model(np.concatenate([theta[None], theta + step, theta - step]))
        gradient = there.gradient[0]
        second = (there.gradient[1 : size + 1] - there.gradient[size + 1 :]) / (2.0 * _STEP)
        second = 0.5 * (second + second.swapaxes(0, 1))
        self.theta = theta
        self.delta = delta
        self.stiffness = precision
        self.residual = log_loss - there.value[0]
        share = delta / np.maximum(np.abs(self.residual), delta)
        self.metric = (gradient * weights * share) @ gradient.T + np.diag(precision)
        self.root = scaled_inverse_root(self.metric[None])[0].T
        self.precision = (self.root.T * precision) @ self.root
        self.jacobian = self.root.T @ gradient
        second = np.einsum("ip,ijr,jq->pqr", self.root, second, self.root, optimize=True)
        self.first, self.second = np.triu_indices(size)
        # Pairs p < q stand for (p, q) and (q, p), squares for themselves.
        self.halves = np.where(self.first == self.second, 0.5, 1.0)
        self.table = np.concatenate([self.jacobian, second[self.first, self.second]])
        self.pairs = self.jacobian[self.first] * self.jacobian[self.second]
        place = np.empty((size, size), dtype=np.intp)
        place[self.first, self.second] = np.arange(len(self.first))
        place[self.second, self.first] = np.arange(len(self.first))
        self.place = place

    def refit(self, weights: FloatArray, centre: FloatArray) -> FloatArray:
        """Return theta [B, P] that minimise the expanded objective.

        Args:
            weights: [B, R].
            centre: of the priors, [B, P].
        """
        size = self.theta.size
        batch = weights.shape[0]
        pull = (self.theta - centre) * self.stiffness @ self.root
        result = np.zeros((batch, size))
        active = np.arange(batch)
        t, best = result.copy(), np.full(batch, np.inf)
        direction = np.zeros((batch, size))
        proposal = t
        for _ in range(_ITERATIONS):
            w, drawn = weights[active], pull[active]
            powers = [proposal, proposal[:, self.first] * proposal[:, self.second] * self.halves]
            loss, psi, inside = huber(
                self.residual - np.concatenate(powers, 1) @ self.table, self.delta
            )
            psi *= w
            stiff = proposal @ self.precision
            objective = np.vecdot(w, loss) + ((0.5 * stiff + drawn) * proposal).sum(axis=1)
            better = objective < best
            gain = best - objective
            moments = psi @ self.table.T
            bend = moments[:, size:][:, self.place]
            slope = stiff + drawn - moments[:, :size]
            slope -= np.matmul(bend, proposal[:, :, None])[..., 0]
            hessian = ((w * inside) @ self.pairs.T)[:, self.place] - bend + self.precision
            hessian += _RIDGE * np.eye(size)
            newton = -np.linalg.solve(hessian, slope[:, :, None])[..., 0]
            # The metric is the identity here, so the slope itself is a reweighted step.
            downhill = (newton * slope).sum(axis=1, keepdims=True) < 0
            newton = np.where(downhill, newton, -slope)
            keep = better[:, None]
            t, direction = np.where(keep, proposal, t), np.where(keep, newton, direction * 0.3)
            best = np.where(better, objective, best)
            result[active] = t
            going = (gain > _ENOUGH * np.abs(best)) | ~better
            if not going.any():
                break
            active, t, direction, best = active[going], t[going], direction[going], best[going]
            proposal = t + direction
        moved = result @ self.root.T
        furthest = np.abs(moved).max(axis=1, keepdims=True)
        return self.theta + moved * np.minimum(1.0, _FURTHEST / np.maximum(furthest, 1e-300))
