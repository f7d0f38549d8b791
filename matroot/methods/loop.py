"""The loop that the coupled iterations share: X -> A^s beside M -> I.

A method says how to start and how to step; here is when to stop, per matrix. A matrix that has converged, or
cannot, leaves the stack, so that it neither changes any more nor costs anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from matroot._result import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array

#: An error that grows by this factor in one step, once it has begun to fall, ends the iteration.
GROWTH = 1.2
#: Below this ||M - I||_F convergence is quadratic or better: an error that does not halve there has met rounding.
QUADRATIC = 0.1


@dataclass
class Workspace:
    """Stacks of one chunk: the iterate, its successor, M, and up to three to work in; 6 n^2 numbers a matrix."""

    backend: Backend
    X: Array
    X_next: Array
    M: Array
    T: Array
    R: Array = None
    S: Array = None
    products: int = 0

    @classmethod
    def like(cls, X: Array, M: Array, backend: Backend) -> Workspace:
        empty = backend.xp.empty_like
        return cls(backend, X, empty(X), M, empty(M), empty(M), empty(M))

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        """out = a @ b for every matrix, counted."""
        self.backend.matmul(a, b, out=out)
        self.products += 1

    def keep(self, rows: Array) -> None:
        """Go on with some matrices only: copied to the front of every stack, so no new memory is taken."""
        for name in ("X", "X_next", "M", "T", "R", "S"):
            stack = getattr(self, name)
            if name in ("X", "M"):
                stack[: len(rows)] = stack[rows]
            if stack is not None:
                setattr(self, name, stack[: len(rows)])


def iterate(
    work: Workspace,
    step: Callable[[Workspace, bool], None],
    *,
    tol: float,
    max_iter: int,
    near: Callable[[np.ndarray], np.ndarray],
) -> tuple[Array, np.ndarray, np.ndarray]:
    """Run `step` until ||M - I||_F of each matrix is at most `tol`, or nothing more can be had.

    Parameters
    ----------
    work : Workspace
        X and M as the method starts them.
    step : callable
        ``step(work, last)`` puts the next X into ``work.X_next`` and, unless it is the last step, overwrites
        ``work.M``; may use T, R and S.
    tol : float
    max_iter : int
    near : callable
        Bound of ||M - I||_F after a step from one that is below 1/2: says when a step is the last, so that
        its M need not be computed.

    Returns
    -------
    X : array (B, n, n)
        Per matrix the best iterate: the one before, where the last step made it worse.
    status, n_iter : array (B,)
    """
    xp = work.backend.xp
    B = work.X.shape[0]
    done = None
    status = np.full(B, Status.MAX_ITER, np.int8)
    n_iter = np.zeros(B, np.int64)
    active = np.arange(B)
    error = deviation(work.M, work.T, xp)
    falling = np.zeros(B, bool)

    for k in range(1, max_iter + 1):
        with np.errstate(all="ignore"):
            last = (error < 0.5) & (near(error) <= tol)
            step(work, bool(last.all()))
            new = np.where(last, 0.0, tol) if last.all() else deviation(work.M, work.T, xp)
        converged = last | (new <= tol)
        worse = ~(new <= GROWTH * error)
        rounding = ~converged & (error < QUADRATIC) & ~(new < error / 2)
        # The error may rise before it falls: while small eigenvalues are far from 1, only an overflow is final.
        hopeless = ~converged & (~np.isfinite(new) | (worse & falling))
        finished = converged | rounding | hopeless | (k == max_iter)
        falling |= new < error

        if finished.any():
            rows = np.flatnonzero(finished)
            previous = ~(new < error)[rows] & ~converged[rows]
            if previous.any():
                work.X_next[rows[previous]] = work.X[rows[previous]]
            if done is None and len(rows) == B:  # all at once, as a lone matrix is: nothing is copied
                done = work.X_next
            else:
                done = xp.empty_like(work.X) if done is None else done
                done[active[rows]] = work.X_next[rows]
            best = np.where(previous, error[rows], new[rows])
            n_iter[active[rows]] = k
            status[active[rows]] = _verdict(best, converged[rows], rounding[rows], hopeless[rows], tol)
            if finished.all():
                break
            left = np.flatnonzero(~finished)
            work.X, work.X_next = work.X_next, work.X
            work.keep(left)
            active, error, falling = active[left], new[left], falling[left]
        else:
            work.X, work.X_next = work.X_next, work.X
            error = new
    return done, status, n_iter


def _verdict(
    best: np.ndarray, converged: np.ndarray, rounding: np.ndarray, hopeless: np.ndarray, tol: float
) -> np.ndarray:
    # Rounding that stops M within the square root of the target has left X where the next step could not move it.
    status = np.full(best.shape, Status.MAX_ITER, np.int8)
    status[hopeless] = Status.DIVERGED
    status[rounding] = Status.STAGNATED
    status[converged | ((rounding | hopeless) & (best <= math.sqrt(tol)))] = Status.CONVERGED
    return status


def deviation(M: Array, buffer: Array, xp: Any) -> np.ndarray:
    """||M - I||_F per matrix, on the host; `buffer` is overwritten.

    A norm that bounds the spectrum: one eigenvalue far from 1 hides from the largest entry when n is large.
    """
    xp.copyto(buffer, M)
    add_to_diagonal(buffer, -1)
    flat = buffer.reshape(len(buffer), -1)
    square = xp.einsum("bi,bi->b", flat, flat.conj() if flat.dtype.kind == "c" else flat).real
    return np.sqrt(np.asarray(square, dtype=np.float64))


def power_into(work: Workspace, q: int) -> None:
    """work.R = work.T ** q by binary powering, left to right; S is scratch and T is kept.

    ``floor(log2 q) + popcount(q) - 1`` products: the shortest addition chain for every q <= 14.
    """
    source = work.T
    for bit in bin(q)[3:]:
        work.multiply(source, source, out=work.S)
        work.R, work.S = work.S, work.R
        source = work.R
        if bit == "1":
            work.multiply(source, work.T, out=work.S)
            work.R, work.S = work.S, work.R
            source = work.R
    if q == 1:
        work.backend.xp.copyto(work.R, work.T)


def default_max_iter(growth: float, eps: float) -> int:
    """Steps that lift an eigenvalue from eps to 1, and ten for the quadratic end: more helps no matrix."""
    return math.ceil(-math.log(eps) / math.log(growth)) + 10
