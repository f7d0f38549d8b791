"""The loop of the coupled iterations: X -> A^s while M -> I.

A method supplies the start and the step; the loop decides for every matrix when to stop. A matrix that has converged
or failed is removed from the stack, so that it does not change any more and costs nothing.
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

#: The iteration ends when the error grows by this factor in one step after it has begun to fall.
GROWTH = 1.2
#: Below this ||M - I||_F convergence is quadratic or better: an error that does not halve has reached rounding.
QUADRATIC = 0.1


@dataclass
class Workspace:
    """Stacks of one chunk: the iterate, the next iterate, M, and up to three work arrays; 6 n^2 numbers a matrix."""

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
        """Compute out = a @ b for every matrix, and count the product."""
        self.backend.matmul(a, b, out=out)
        self.products += 1

    def keep(self, rows: Array) -> None:
        """Keep only some matrices, copied to the front of every stack without allocating memory."""
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
    """Run `step` until ||M - I||_F of each matrix is at most `tol`, or does not improve any more.

    Parameters
    ----------
    work : Workspace
        X and M have the initial values of the method.
    step : callable
        ``step(work, last)`` writes the next X to ``work.X_next`` and, unless `last` is True, overwrites ``work.M``.
        It may use T, R and S.
    tol : float
    max_iter : int
    near : callable
        ``near(e)`` bounds ||M - I||_F after a step from ||M - I||_F = e < 1/2. It predicts the last step, whose M
        need not be computed.

    Returns
    -------
    X : array (B, n, n)
        The best iterate of every matrix: the previous iterate where the last step increased the error.
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
            if done is None and len(rows) == B:  # all matrices finish together: nothing to copy
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
    # If rounding stalls M within the square root of the target, a further step would not change X.
    status = np.full(best.shape, Status.MAX_ITER, np.int8)
    status[hopeless] = Status.DIVERGED
    status[rounding] = Status.STAGNATED
    status[converged | ((rounding | hopeless) & (best <= math.sqrt(tol)))] = Status.CONVERGED
    return status


def deviation(M: Array, buffer: Array, xp: Any) -> np.ndarray:
    """Compute ||M - I||_F per matrix, on the host; `buffer` is overwritten.

    The Frobenius norm bounds the spectrum. The largest entry would not: for large n it can be small although one
    eigenvalue is far from 1.
    """
    xp.copyto(buffer, M)
    add_to_diagonal(buffer, -1)
    flat = buffer.reshape(len(buffer), -1)
    square = xp.einsum("bi,bi->b", flat, flat.conj() if flat.dtype.kind == "c" else flat).real
    return np.sqrt(np.asarray(square, dtype=np.float64))


def power_into(work: Workspace, q: int) -> None:
    """Compute work.R = work.T ** q by binary powering, left to right; S is scratch and T is kept.

    It takes ``floor(log2 q) + popcount(q) - 1`` products, the shortest addition chain for every q <= 14.
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
    """Return the steps that raise an eigenvalue from eps to 1, plus ten for the quadratic phase."""
    return math.ceil(-math.log(eps) / math.log(growth)) + 10
