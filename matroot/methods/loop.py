"""The loop of the coupled iterations: X -> A^s while M -> I.

A method supplies the start and the step; the loop decides for every matrix when to stop. Two drivers share the stopping
rule. On the host, a matrix that has converged or failed is removed from the stack, so that it does not change any more
and costs nothing. On a device, where reading a value would stall the computation, the stack takes a fixed number of
steps, and masks freeze the iterates that are done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Problem

#: The iteration ends when the error grows by this factor in one step after it has begun to fall.
GROWTH = 1.2
#: Below this ||M - I||_F convergence is quadratic or better: an error that does not halve has reached rounding.
QUADRATIC = 0.1

#: ``near(e)`` bounds ||M - I||_F after a step from ||M - I||_F = e < 1/2.
Near = Callable[[Array], Array]
#: ``step(work, last)`` writes the next X to ``work.X_next`` and, unless `last` is True, overwrites ``work.M``. It may
#: use T, R and S.
Step = Callable[["Workspace", bool], None]


@dataclass
class Workspace:
    """Stacks of one chunk: the iterate, the next iterate, M, and up to three work arrays; 6 n^2 numbers a matrix.

    The iterate is (..., B, n, n), all other arrays are (B, n, n).
    """

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
                stack[..., : len(rows), :, :] = stack[..., rows, :, :]
            if stack is not None:
                setattr(self, name, stack[..., : len(rows), :, :])


@dataclass
class Progress:
    """The matrices (B,) that a step ends, by the reason."""

    converged: Array
    rounding: Array
    hopeless: Array

    @classmethod
    def of(cls, error: Array, new: Array, last: Array, falling: Array, tol: float, xp: Any) -> Progress:
        """Compare ||M - I||_F before and after a step; `last` predicts the target, `falling` marks progress before."""
        converged = last | (new <= tol)
        worse = ~(new <= GROWTH * error)
        rounding = ~converged & (error < QUADRATIC) & ~(new < error / 2)
        # The error may rise before it falls: while small eigenvalues are far from 1, only an overflow is final.
        hopeless = ~converged & (~xp.isfinite(new) | (worse & falling))
        return cls(converged, rounding, hopeless)

    @property
    def finished(self) -> Array:
        return self.converged | self.rounding | self.hopeless

    def status(self, best: Array, tol: float, xp: Any) -> Array:
        """Return the status of matrices that stop here, whose best iterate has the error `best`."""
        # If rounding stalls M within the square root of the target, a further step would not change X.
        good = self.converged | (self.finished & (best <= math.sqrt(tol)))
        status = xp.where(self.hopeless, int(Status.DIVERGED), int(Status.MAX_ITER))
        status = xp.where(self.rounding, int(Status.STAGNATED), status)
        return xp.where(good, int(Status.CONVERGED), status).astype(xp.int8)


def iterate(work: Workspace, step: Step, *, tol: float, max_iter: int, near: Near) -> tuple[Array, Array, Array]:
    """Run `step` until ||M - I||_F of each matrix is at most `tol`, or does not improve any more.

    X and M in `work` have the initial values. `near` predicts the last step, whose M need not be computed. Returns the
    best iterate of every matrix, which is the previous one where the last step increased the error, with status and
    steps (B,).
    """
    driver = _on_device if work.backend.sync_free() else _on_host
    return driver(work, step, tol, max_iter, near)


def _on_host(work: Workspace, step: Step, tol: float, max_iter: int, near: Near) -> tuple[Array, Array, Array]:
    B = len(work.M)
    done = None
    status, n_iter, active = np.zeros(B, np.int8), np.zeros(B, np.int64), np.arange(B)
    error, falling = deviation(work.M, work.T, np), np.zeros(B, bool)

    for k in range(1, max_iter + 1):
        with np.errstate(all="ignore"):
            last = (error < 0.5) & (near(error) <= tol)
            step(work, bool(last.all()))
            new = np.zeros(len(error)) if last.all() else deviation(work.M, work.T, np)
        found = Progress.of(error, new, last, falling, tol, np)
        finished = found.finished | (k == max_iter)
        falling |= new < error

        if finished.any():
            rows = np.flatnonzero(finished)
            previous = finished & ~(new < error) & ~found.converged
            if previous.any():
                back = np.flatnonzero(previous)
                work.X_next[..., back, :, :] = work.X[..., back, :, :]
            if done is None and len(rows) == B:  # all matrices finish together: nothing to copy
                done = work.X_next
            else:
                done = np.empty((*work.X.shape[:-3], B, *work.X.shape[-2:]), work.X.dtype) if done is None else done
                done[..., active[rows], :, :] = work.X_next[..., rows, :, :]
            n_iter[active[rows]] = k
            status[active[rows]] = found.status(np.where(previous, error, new), tol, np)[rows]
            if finished.all():
                break
        work.X, work.X_next = work.X_next, work.X
        if finished.any():
            left = np.flatnonzero(~finished)
            work.keep(left)
            active, new, falling = active[left], new[left], falling[left]
        error = new
    return done, status, n_iter


def _on_device(work: Workspace, step: Step, tol: float, max_iter: int, near: Near) -> tuple[Array, Array, Array]:
    xp, B = work.backend.xp, len(work.M)
    status, n_iter = xp.full(B, int(Status.MAX_ITER), xp.int8), xp.zeros(B, xp.int64)
    active, falling = xp.ones(B, bool), xp.zeros(B, bool)
    error = deviation(work.M, work.T, xp)

    for k in range(1, max_iter + 1):
        step(work, False)
        new = deviation(work.M, work.T, xp)
        found = Progress.of(error, new, (error < 0.5) & (near(error) <= tol), falling, tol, xp)
        better = found.converged | (new < error)
        if k < max_iter:
            better = better | ~found.finished
        ended = found.status(xp.where(better, new, error), tol, xp)

        xp.copyto(work.X, work.X_next, where=(active & better)[:, None, None])
        status = xp.where(active & found.finished, ended, status)
        n_iter = xp.where(active, k, n_iter)
        falling = falling | (new < error)
        active = active & ~found.finished
        error = new
    return work.X, status, n_iter


def deviation(M: Array, buffer: Array, xp: Any) -> Array:
    """Compute ||M - I||_F per matrix, in float64; `buffer` is overwritten.

    The Frobenius norm bounds the spectrum. The largest entry would not: for large n it can be small although one
    eigenvalue is far from 1.
    """
    xp.copyto(buffer, M)
    add_to_diagonal(buffer, -1)
    flat = buffer.reshape(len(buffer), -1)
    if xp is np:  # without a temporary array
        square = np.einsum("bi,bi->b", flat, flat.conj() if flat.dtype.kind == "c" else flat).real
    else:
        square = (abs(flat) ** 2).sum(-1)
    return xp.sqrt(square.astype(xp.float64))


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


def step_limit(problem: Problem, growth: float, A: Array, backend: Backend) -> int:
    """Return the largest number of steps of an iteration that raises small eigenvalues by the factor `growth` a step.

    They suffice for an eigenvalue of the size of one rounding. A device, which takes them all, takes no more than the
    regularization leaves necessary.
    """
    if problem.max_iter is not None:
        return problem.max_iter
    least = backend.eps(A.dtype)
    if backend.sync_free() and problem.floor is not None:
        least = max(least, float(problem.floor.min(initial=1.0)))
    return math.ceil(-math.log(least) / math.log(growth)) + 10  # ten for the quadratic phase
