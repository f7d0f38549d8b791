"""The methods without reading values on the host, for devices where a read would stall the computation.

The CPU's loops remove a matrix from the stack when it is done. Here the whole stack takes a fixed number of steps, and
masks freeze the iterates of matrices that are done. The stopping rule is the same, and the batch has no influence on
the root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from matroot._result import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods import minimax_fixed as fixed
from matroot.methods import minimax_kernel as fused
from matroot.methods.base import Array, Method, Problem, Raw
from matroot.methods.coupled_newton import CoupledNewton, HigherOrder, top_eigenvalue
from matroot.methods.eigen import Eigen
from matroot.methods.loop import GROWTH, QUADRATIC, Workspace, default_max_iter, power_into
from matroot.methods.minimax import Minimax
from matroot.methods.newton_db import NewtonDB
from matroot.methods.powers import power, power_products

if TYPE_CHECKING:
    from matroot.backends.cuda.gpu import GPU

SERVED = (Eigen, Minimax, CoupledNewton, HigherOrder, NewtonDB)


def refuses(method: Method, problem: Problem) -> str | None:
    """Return why a method cannot run on the GPU, or None."""
    if problem.assume_a == "gen":
        return "assume_a='gen' needs a Schur decomposition, which cuSOLVER has not: pass a.get(), or a.cpu() for torch"
    if not isinstance(method, SERVED):
        return f"{method.name} runs on the CPU only: pass a.get(), or a.cpu() for torch, or use method='minimax'"
    return None


def run(
    method: Method, A: Array, again: Callable[[], Array], problem: Problem, backend: GPU
) -> tuple[Raw, tuple[Array, float] | None]:
    """Compute the root of every matrix of a stack, and a negative power that gives the smallest eigenvalue.

    Parameters
    ----------
    method : Method
        One of `SERVED`.
    A : array (B, n, n)
        Overwritten.
    again : callable
        Returns A again, for the integer part of a positive exponent.
    problem : Problem
        `floor` on the host, `scale` on the device.
    backend : backend

    Returns
    -------
    raw : Raw
    negative : (array (B, n, n), float) or None
        A power of A and its negative exponent; None if none was computed.
    """
    if isinstance(method, Eigen):
        return method.run(A, problem, backend), None
    if isinstance(method, NewtonDB):
        raw = newton_db(A, problem, backend)
        return raw, (raw.x if problem.inverse else raw.companion, -abs(float(problem.s)))
    s = problem.rational
    if s < 0:
        raw = inverse(method, A, problem, backend)
        return raw, (raw.x, float(s))
    # A^h A^(s - 2h) A^h as in `powers.positive_power`; the well-conditioned A^{-1/p} is inverted by products.
    k = math.floor(s)
    if s.denominator == 1:
        done = _codes(len(A), Status.CONVERGED, backend)
        return Raw(power(A, k, backend), done, np.zeros(len(A), np.int64), power_products(k)), None
    raw = inverse(method, A, replace(problem, s=Fraction(-1, problem.p)), backend)
    negative = raw.x
    odd, h = k % 2 == 1, (k + 1) // 2
    r = (k + 1 - s if odd else s - k).numerator
    raw.x = power(negative if odd else inverted(negative, problem, raw, backend), r, backend)
    raw.n_products += power_products(r)
    if h:
        side = power(again(), h, backend)
        raw.x = backend.matmul(backend.matmul(side, raw.x), side)
        raw.n_products += 2 + power_products(h)
    return raw, (negative, -1 / problem.p)


def inverted(H: Array, problem: Problem, raw: Raw, backend: GPU) -> Array:
    """Compute H^{-1} for H = A^{-1/p} by a schedule for the inverse, and update `raw`; NaN where `raw` failed."""
    xp = backend.xp
    n = H.shape[-1]
    finite = xp.isfinite(H).all((-1, -2))
    H = hermitian_part(xp.where(finite[:, None, None], H, xp.eye(n, dtype=H.dtype)))
    # If A has an eigenvalue 0, H has a large eigenvalue that depends on the steps; leave a margin for it.
    least = backend.eps(H.dtype) * math.sqrt(n) / 4
    promised = 0.0 if problem.floor is None else float(problem.floor.min(initial=1.0))
    floor = np.full(len(H), 0.1 * max(least, promised) ** (1 / problem.p))
    second = inverse(Minimax(), H, replace(problem, s=Fraction(-1), floor=floor, max_iter=None), backend)
    raw.n_products += second.n_products
    raw.status = xp.where(raw.status == int(Status.CONVERGED), second.status, raw.status)
    return xp.where(finite[:, None, None], second.x, xp.nan)


def inverse(method: Method, A: Array, problem: Problem, backend: GPU) -> Raw:
    """Compute A^s for negative s; A is overwritten."""
    if isinstance(method, Minimax):  # a fixed schedule, which reads no values
        if fused.fits(A, backend):
            return fused.run(method, A, problem, backend)
        return fixed.run(method, A, problem, backend)
    p = problem.p
    if isinstance(method, HigherOrder):
        b = [1.0]
        for j in range(method.order - 1):
            b.append(b[-1] * (1 + j * p) / ((j + 1) * p))
        order = method.order
        last = 4 * p * b[-1]
        return coupled(A, b, problem, backend, top=1.0, growth=sum(b) ** p, near=lambda e: last * e**order)
    first = (p + 1) / p
    top = min(4.0, (p + 1) / 2)
    return coupled(A, [1.0, 1 / p], problem, backend, top=top, growth=first**p, near=lambda e: first * e**2)


def coupled(
    A: Array,
    b: list[float],
    problem: Problem,
    backend: GPU,
    *,
    top: float,
    growth: float,
    near: Callable[[Array], Array],
) -> Raw:
    """Iterate T = sum_i b_i (I - M)^i, X <- X T^a, M <- T^p M for A^{-a/p}; see `coupled_newton.coupled`."""
    xp = backend.xp
    p, a = problem.p, -problem.rational.numerator
    z = top / top_eigenvalue(A, backend)
    A *= z.astype(A.real.dtype)[:, None, None]
    X = xp.zeros_like(A)
    add_to_diagonal(X, (z ** (a / p)).astype(A.real.dtype))

    def step(work: Workspace) -> None:
        into_series(work, b)
        power_into(work, a)
        work.multiply(work.X, work.R, out=work.X_next)
        if a > 1 and a == p - 1:
            work.multiply(work.R, work.T, out=work.S)
            work.R, work.S = work.S, work.R
        elif a != p:
            power_into(work, p)
        work.multiply(work.R, work.M, out=work.S)
        work.M, work.S = work.S, work.M

    work = Workspace.like(X, A, backend)
    n = A.shape[-1]
    status, n_iter = iterate(work, step, near, count(problem, growth, A, backend), tolerance(problem, A), n)
    return Raw(work.X, status, n_iter, work.products)


def into_series(work: Workspace, b: list[float]) -> None:
    """Compute T = b_0 + b_1 E + ... with E = I - M, by Horner's rule; R and S are overwritten."""
    combine, M = work.backend.combine, work.M
    combine(0.0, M, -b[-1], M, b[-1] + b[-2], work.T, work.S)
    if len(b) == 2:
        return
    combine(0.0, M, -1.0, M, 1.0, work.R, work.S)
    for coefficient in b[-3::-1]:
        work.multiply(work.T, work.R, out=work.S)
        work.T, work.S = work.S, work.T
        add_to_diagonal(work.T, coefficient)


def newton_db(A: Array, problem: Problem, backend: GPU) -> Raw:
    """Iterate Y <- Y E, Z <- E Z with E = (3 I - Z Y) / 2, once for every factor 2 of p; A is overwritten."""
    xp = backend.xp
    B, n, _ = A.shape
    status, n_iter, products = _codes(B, Status.CONVERGED, backend), xp.zeros(B, xp.int64), 0
    eye = xp.eye(n, dtype=A.dtype)
    floor = problem.floor
    Y, pair = A, A
    for _ in range(problem.p.bit_length() - 1):
        pair, stage, steps, issued = _square_roots(Y, replace(problem, floor=floor), backend)
        failed = stage != int(Status.CONVERGED)
        status = xp.where(status == 0, stage, status)
        n_iter += steps
        products += issued
        pair = xp.where(failed[:, None, None], eye, pair)  # exclude failed matrices from later stages
        Y = pair[1].copy()
        floor = None if floor is None else floor**0.5
    Z, Y = pair
    return Raw(Z if problem.inverse else Y, status, n_iter, products, companion=Y if problem.inverse else Z)


def _square_roots(A: Array, problem: Problem, backend: GPU) -> tuple[Array, Array, Array, int]:
    """Compute the pair (A^{-1/2}, A^{1/2}) as one array (2, B, n, n)."""
    xp = backend.xp
    z = 1.5 / top_eigenvalue(A, backend)
    root = xp.sqrt(z).astype(A.real.dtype)[:, None, None]
    A *= z.astype(A.real.dtype)[:, None, None]
    X = xp.zeros((2, *A.shape), A.dtype)
    add_to_diagonal(X[0], 1)
    X[1] = A

    def step(work: Workspace) -> None:
        work.backend.combine(0.0, work.M, -0.5, work.M, 1.5, work.T, work.T)
        work.multiply(work.X[1], work.T, out=work.X_next[1])
        work.multiply(work.T, work.X[0], out=work.X_next[0])
        work.multiply(work.X_next[0], work.X_next[1], out=work.M)

    work = Workspace(backend, X, xp.empty_like(X), A, xp.empty_like(A))
    steps = count(problem, 2.25, A, backend)
    status, n_iter = iterate(work, step, lambda e: e**2, steps, tolerance(problem, A), A.shape[-1])
    work.X[0] *= root
    work.X[1] /= root
    return work.X, status, n_iter, work.products


def iterate(
    work: Workspace, step: Callable[[Workspace], None], near: Callable[[Array], Array], steps: int, tol: float, n: int
) -> tuple[Array, Array]:
    """Run `steps` steps for every matrix, leaving the best iterate in ``work.X``; the stopping rule is the CPU's.

    Parameters
    ----------
    work : Workspace
        X is (..., B, n, n): masks over B broadcast from the right.
    step : callable
        Writes the next X to ``work.X_next`` and overwrites ``work.M``.
    near : callable
        ``near(e)`` bounds ||M - I||_F after a step from ||M - I||_F = e < 1/2.
    steps : int
    tol : float
    n : int

    Returns
    -------
    status, n_iter : array (B,)
    """
    xp = work.backend.xp
    B = work.M.shape[0]
    status, n_iter = _codes(B, Status.MAX_ITER, work.backend), xp.zeros(B, xp.int64)
    active, falling = xp.ones(B, bool), xp.zeros(B, bool)
    error = deviation(work.M, xp)
    for k in range(1, steps + 1):
        step(work)
        new = deviation(work.M, xp)
        converged = ((error < 0.5) & (near(error) <= tol)) | (new <= tol)
        worse = ~(new <= GROWTH * error)
        rounding = ~converged & (error < QUADRATIC) & ~(new < error / 2)
        hopeless = ~converged & (~xp.isfinite(new) | (worse & falling))
        finished = converged | rounding | hopeless
        better = converged | (new < error)
        if k < steps:
            better = better | ~finished
        # If rounding stalls M within the square root of the target, a further step would not change X.
        good = converged | (finished & (xp.where(better, new, error) <= math.sqrt(tol)))
        verdict = xp.where(rounding, int(Status.STAGNATED), int(Status.DIVERGED))
        verdict = xp.where(good, int(Status.CONVERGED), verdict).astype(xp.int8)

        xp.copyto(work.X, work.X_next, where=(active & better)[:, None, None])
        status = xp.where(active & finished, verdict, status)
        n_iter = xp.where(active, k, n_iter)
        falling = falling | (new < error)
        active = active & ~finished
        error = new
    return status, n_iter


def deviation(M: Array, xp: Any) -> Array:
    """Compute ||M - I||_F per matrix, in float64."""
    D = M.copy()
    add_to_diagonal(D, -1)
    return xp.sqrt((abs(D) ** 2).sum((-1, -2)).astype(xp.float64))


def count(problem: Problem, growth: float, A: Array, backend: GPU) -> int:
    """Return a number of steps that suffices for every spectrum allowed by the regularization or the arithmetic."""
    if problem.max_iter is not None:
        return problem.max_iter
    floor = 0.0 if problem.floor is None else float(problem.floor.min(initial=1.0))
    return default_max_iter(growth, max(floor, backend.eps(A.dtype)))


def tolerance(problem: Problem, A: Array) -> float:
    """Return the ||M - I||_F at which an iteration stops."""
    return problem.tolerance(float(np.finfo(A.dtype).eps), A.shape[-1])


def _codes(B: int, status: Status, backend: Backend) -> Array:
    return backend.xp.full(B, int(status), backend.xp.int8)
