"""What a trajectory would tell: how far it lowers the variance of what is wanted.

Under one form all that is unknown is normal with covariance V. Observations with gradients F
[K, Q] and noise covariance R lower the variance of a goal with gradient g by

    (g V F^T) (F V F^T + R)^-1 (F V g^T),

which for a single observation is (g . V f)^2 / (sigma^2 + f . V f). It needs no loss, so runs
still under way count as if they had ended.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import block_diag

from analysis.discrepancy import trajectory_noise
from analysis.laws.base import FloatArray
from analysis.steering.places import Trajectories
from analysis.steering.posterior import Posterior


class Telling:
    """What T trajectories would tell under one form, prepared to be asked often.

    Args:
        part: the form.
        runs: T trajectories with S observations.
        phi: misfit features of the observations, [S, M].
    """

    def __init__(self, part: Posterior, runs: Trajectories, phi: FloatArray) -> None:
        self._runs = runs
        self._gradient = part.gradient(runs.points, phi)
        self._size = part.noise.at(runs.log_flops)
        self._counts = np.bincount(runs.owner, minlength=runs.count)
        self._first = np.concatenate([[0], np.cumsum(self._counts)])[:-1]
        self._groups = []
        for count in np.unique(self._counts):
            members = np.flatnonzero(self._counts == count)
            self._groups.append((members, self._first[members][:, None] + np.arange(count)))

    def reductions(self, covariance: FloatArray, goals: FloatArray) -> FloatArray:
        """Return by how much each trajectory lowers the variance of each goal, [T, G].

        Args:
            covariance: V, [Q, Q].
            goals: gradients of what is wanted, [G, Q].
        """
        moved = self._gradient @ covariance
        return self._reduced(moved, moved @ goals.T)

    def _reduced(self, moved: FloatArray, shared: FloatArray) -> FloatArray:
        """Return the reductions [T, G] from F V [S, Q] and F V g^T [S, G]."""
        if self._runs.owner.size == self._runs.count:
            variance = np.einsum("sq,sq->s", moved, self._gradient)
            return np.asarray(shared**2 / (self._size**2 + variance)[:, None])
        result = np.zeros((self._runs.count, shared.shape[1]))
        for members, rows in self._groups:
            total = np.matmul(moved[rows], self._gradient[rows].swapaxes(1, 2))
            solved = np.linalg.solve(total + self._noise(rows), shared[rows])
            result[members] = np.einsum("tkg,tkg->tg", shared[rows], solved)
        return result

    def outcomes(self, covariance: FloatArray) -> list[FloatArray]:
        """Return the covariances of what trajectories will show, noise included.

        Args:
            covariance: V, [Q, Q].

        Returns:
            F V F^T + R of the trajectories with K observations, [T, K, K], for each K there is.
        """
        moved = self._gradient @ covariance
        if self._runs.owner.size == self._runs.count:
            variance = np.einsum("sq,sq->s", moved, self._gradient)
            return [(self._size**2 + variance)[:, None, None]]
        return [
            np.matmul(moved[rows], self._gradient[rows].swapaxes(1, 2)) + self._noise(rows)
            for _, rows in self._groups
        ]

    def distances(self, apart: FloatArray, outcomes: list[FloatArray]) -> FloatArray:
        """Return d^T S^-1 d of each trajectory, [T].

        Args:
            apart: d, of all observations, [S].
            outcomes: S, as `outcomes` returns them.
        """
        result = np.zeros(self._runs.count)
        for (members, rows), block in zip(self._groups, outcomes, strict=True):
            d = apart[rows][:, :, None]
            result[members] = (d * np.linalg.solve(block, d)).sum(axis=(1, 2))
        return result

    def after(self, covariance: FloatArray, trajectory: int) -> FloatArray:
        """Return the covariance after one trajectory whose loss is still unknown, [Q, Q].

        A rank-K update for a trajectory of K observations.
        """
        rows = self._rows(trajectory)
        f = self._gradient[rows]
        moved = covariance @ f.T
        total = f @ moved + self._noise(rows[None])[0]
        result = covariance - moved @ np.linalg.solve(total, moved.T)
        return 0.5 * (result + result.T)

    def without_each(
        self, covariance: FloatArray, goals: FloatArray, chosen: Sequence[int]
    ) -> FloatArray:
        """Return by how much all but one trajectory lower the goals' summed variance, [K].

        With A the inverse covariance of all their observations and c = F V g^T, leaving out the
        rows b takes (A c)_b^T A_bb^-1 (A c)_b from what all of them remove, c^T A c.

        Args:
            covariance: V, [Q, Q].
            goals: gradients of what is wanted, [G, Q].
            chosen: K trajectories, the one left out in turn.
        """
        rows = [self._rows(t) for t in chosen]
        f = self._gradient[np.concatenate(rows)]
        moved = f @ covariance
        noise = block_diag(*(self._noise(part[None])[0] for part in rows))
        inverse = np.linalg.inv(moved @ f.T + noise)
        shared = moved @ goals.T
        solved = inverse @ shared
        removed = float((shared * solved).sum())
        ends = np.cumsum([part.size for part in rows])
        lost = []
        for part, end in zip(rows, ends, strict=True):
            own = slice(end - part.size, end)
            again = np.linalg.solve(inverse[own, own], solved[own])
            lost.append(float((solved[own] * again).sum()))
        return removed - np.array(lost)

    def outlook(self, covariance: FloatArray, goals: FloatArray) -> "Outlook":
        """Return what the trajectories would tell, ready to be conditioned on one after another.

        Args:
            covariance: V, [Q, Q].
            goals: gradients of what is wanted, [G, Q].
        """
        if goals.shape[0] > goals.shape[1]:
            # Sums of squares over the goals need no more rows than there are unknowns.
            goals = np.asarray(np.linalg.qr(goals, mode="r"))
        moved = self._gradient @ covariance
        return Outlook(self, np.hstack([moved, moved @ goals.T]))

    def _rows(self, trajectory: int) -> np.ndarray:
        return np.asarray(self._first[trajectory] + np.arange(self._counts[trajectory]))

    def _noise(self, rows: np.ndarray) -> FloatArray:
        """Return the noise covariance of trajectories with K observations each, [T, K, K].

        Observations of a trajectory share most of their noise, as `trajectory_noise` says.
        """
        shared = trajectory_noise(self._runs.points.log_tokens[rows])
        return np.asarray(shared * self._size[rows][:, :, None] * self._size[rows][:, None, :])


class Outlook:
    """What trajectories would tell while one after another is thought to be bought.

    It keeps F V and F V g^T, which a run of K observations changes by a product of rank K: V
    itself is not needed.
    """

    def __init__(self, telling: Telling, state: FloatArray) -> None:
        self._telling, self._state = telling, state
        self._unknowns = telling._gradient.shape[1]

    def copy(self) -> "Outlook":
        """Return another that starts from here."""
        return Outlook(self._telling, self._state.copy())

    def reductions(self) -> FloatArray:
        """Return by how much each trajectory lowers the variance of the goals together, [T]."""
        moved, shared = self._state[:, : self._unknowns], self._state[:, self._unknowns :]
        return np.asarray(self._telling._reduced(moved, shared).sum(axis=1))

    def buy(self, trajectory: int) -> None:
        """Go on as if the trajectory had ended, whatever its loss."""
        rows = self._telling._rows(trajectory)
        f, own = self._telling._gradient[rows], self._state[rows]
        total = own[:, : self._unknowns] @ f.T + self._telling._noise(rows[None])[0]
        told = self._state[:, : self._unknowns] @ f.T
        self._state -= told @ np.linalg.solve(total, own)
