"""The five-parameter law L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022;
equation 10 of the Quokka paper)."""

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.grid import separable_regrid, separable_starts
from analysis.laws.base import Derivatives, FloatArray, Law, Points, Prior, register_law

EXPONENT_BOUNDS = (0.02, 2.5)
"""Below, the term is a constant and the optimum has no finite answer; above, it is a wall."""

SMALLEST_SHARE = 12.0
"""A term whose logarithm lies this far under the mean log loss is as good as absent."""

LARGEST_RATIO = 600.0
"""Logarithm of a term over E up to which its exponential is safe from overflow."""


class Chinchilla(Law):
    """ln L = logsumexp(ln E, ln A - alpha ln N, ln B - beta ln D).

    Coordinates: (ln E, ln A, ln B, alpha, beta). In them every exponent is linear in theta, so
    with s_k the share of term k and c_k the gradient of its exponent, the gradient of ln L is
    sum s_k c_k and its Hessian sum s_k c_k c_k^T less the gradient's outer product.
    """

    name: ClassVar[str] = "chinchilla"
    parameters: ClassVar[tuple[str, ...]] = ("E", "A", "B", "alpha", "beta")
    coordinates: ClassVar[tuple[str, ...]] = ("ln_E", "ln_A", "ln_B", "alpha", "beta")
    kinds: ClassVar[tuple[str, ...]] = ("floor", "scale", "scale", "exponent", "exponent")

    def _terms(self, theta: FloatArray, points: Points) -> tuple[FloatArray, ...]:
        """Return ln L and the three shares, each [..., R]."""
        theta = np.asarray(theta, dtype=np.float64)
        e = theta[..., 0:1]
        u = theta[..., 1:2] - theta[..., 3:4] * points.log_params
        v = theta[..., 2:3] - theta[..., 4:5] * points.log_tokens
        from_u, from_v = u - e, v - e
        if max(from_u.max(initial=-np.inf), from_v.max(initial=-np.inf)) < LARGEST_RATIO:
            # Relative to E, which is seldom far below the loss, E itself needs no exponential.
            t_u, t_v = np.exp(from_u), np.exp(from_v)
            total = 1.0 + t_u + t_v
            s_e = 1.0 / total
            return e + np.log(total), s_e, t_u * s_e, t_v * s_e
        top = np.maximum(np.maximum(u, v), e)
        s_e, s_u, s_v = np.exp(e - top), np.exp(u - top), np.exp(v - top)
        total = s_e + s_u + s_v
        return top + np.log(total), s_e / total, s_u / total, s_v / total

    def log_loss(self, theta: FloatArray, points: Points) -> FloatArray:
        return self._terms(theta, points)[0]

    def derivatives(self, theta: FloatArray, points: Points) -> Derivatives:
        x, z = points.log_params, points.log_tokens
        value, s_e, s_u, s_v = self._terms(theta, points)
        gradient = np.empty((*value.shape[:-1], 5, value.shape[-1]))
        gradient[..., 0, :], gradient[..., 1, :], gradient[..., 2, :] = s_e, s_u, s_v
        np.multiply(s_u, -x, out=gradient[..., 3, :])
        np.multiply(s_v, -z, out=gradient[..., 4, :])
        powers_x = np.stack([np.ones_like(x), x, x * x], axis=1)
        powers_z = np.stack([np.ones_like(z), z, z * z], axis=1)

        def curvature(weights: FloatArray) -> FloatArray:
            # sum_r w s_k c_k c_k^T is sparse: each term touches its own two coordinates only.
            result = -np.matmul(gradient * weights[:, None, :], gradient.swapaxes(-1, -2))
            moments_u = (weights * s_u) @ powers_x
            moments_v = (weights * s_v) @ powers_z
            result[:, 0, 0] += (weights * s_e).sum(axis=-1)
            for scale, exponent, moments in ((1, 3, moments_u), (2, 4, moments_v)):
                result[:, scale, scale] += moments[:, 0]
                result[:, scale, exponent] -= moments[:, 1]
                result[:, exponent, scale] -= moments[:, 1]
                result[:, exponent, exponent] += moments[:, 2]
            return result

        return Derivatives(value, gradient, curvature)

    def centring(self, log_params: float, log_tokens: float) -> FloatArray:
        transform = np.eye(5)
        transform[1, 3] = log_params
        transform[2, 4] = log_tokens
        return transform

    def bounds(self, log_loss: FloatArray) -> tuple[FloatArray, FloatArray]:
        level = float(np.mean(log_loss))
        low, high = EXPONENT_BOUNDS
        return (
            np.array([level - SMALLEST_SHARE] * 3 + [low, low]),
            np.array([level + 1.0, level + 8.0, level + 8.0, high, high]),
        )

    def clip(self, theta: FloatArray) -> FloatArray:
        return np.concatenate([theta[..., :3], np.clip(theta[..., 3:], *EXPONENT_BOUNDS)], axis=-1)

    def starts(self, points: Points, log_loss: FloatArray) -> FloatArray:
        return separable_starts(points.log_params, points.log_tokens, log_loss)

    def regrid(
        self, points: Points, log_loss: FloatArray, weights: FloatArray, *, most: int = 8
    ) -> FloatArray:
        return separable_regrid(points.log_params, points.log_tokens, log_loss, weights, most)

    def prior(self, points: Points, log_loss: FloatArray, *, weak: bool = True) -> Prior:
        """Return weak priors on the centred coordinates.

        The exponents of published laws lie between .28 and .5 (Hoffmann et al. .34/.28, its
        replication .35/.37, Muennighoff et al. .35/.35, Quokka .38/.38, byte-level models of
        10^3 to 10^5 parameters .46-.51/.50-.53): .36 with a spread of .08. At the middle of the
        runs each term is given a share of the loss known only to a factor of e or so. E is the
        largest share in all published tables and somewhat better known.
        """
        if not weak:
            return Prior(np.zeros(5), np.full(5, np.inf))
        level = float(np.mean(log_loss))
        mean = np.array(
            [level + np.log(0.65), level + np.log(0.175), level + np.log(0.175), 0.36, 0.36]
        )
        return Prior(mean, np.array([0.35, 1.0, 1.0, 0.08, 0.08]))

    def optimum(
        self, theta: FloatArray, flops: ArrayLike, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return ln N_opt and ln D_opt (the paper's equations 5 and 12, in logarithms)."""
        del log_unique
        theta = np.asarray(theta, dtype=np.float64)
        log_a, log_b, alpha, beta = (theta[..., i] for i in (1, 2, 3, 4))
        work = np.log(np.asarray(flops, dtype=np.float64) / 6.0)
        log_ratio = np.log(alpha) + log_a - np.log(beta) - log_b
        log_params = (log_ratio + beta * work) / (alpha + beta)
        return log_params, work - log_params

    def optimum_gradient(
        self, theta: FloatArray, flops: float, log_unique: float | None = None
    ) -> tuple[FloatArray, FloatArray]:
        del log_unique
        alpha, beta = float(theta[3]), float(theta[4])
        log_params, log_tokens = self.optimum(theta, flops)
        total, work = alpha + beta, float(np.log(flops / 6.0))
        of_params = np.array(
            [
                0.0,
                1.0 / total,
                -1.0 / total,
                (1.0 / alpha - float(log_params)) / total,
                (work - 1.0 / beta - float(log_params)) / total,
            ]
        )
        # At the optimum the loss does not move with N: only theta's direct effect is left.
        there = Points(np.atleast_1d(log_params), np.atleast_1d(log_tokens))
        return of_params, self.gradient(theta, there)[0]

    def describe(self, theta: FloatArray) -> str:
        e, a, b, alpha, beta = self.natural(theta)
        return f"L = {e:.4g} + {a:.4g}/N^{alpha:.4g} + {b:.4g}/D^{beta:.4g}"

    def latex(self) -> str:
        return r"L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}"


CHINCHILLA = register_law(Chinchilla())
