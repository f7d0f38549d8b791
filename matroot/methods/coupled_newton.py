"""The coupled Newton iteration, and its relatives of higher order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Method, Problem, Raw, iterative_refusal
from matroot.methods.conditioning import largest_eigenvalue
from matroot.methods.loop import Workspace, default_max_iter, iterate, power_into
from matroot.methods.powers import positive_power


@dataclass(frozen=True, repr=False)
class CoupledNewton(Method):
    """Newton's method for X^{-p} = A, coupled with M = X^p A so that it is stable.

    Any p >= 1, any rational exponent. Prefer it for well-conditioned matrices (kappa below 1e4), for small matrices
    in large batches, and where only matrix products are fast. Convergence is quadratic at the end. Before that, an
    eigenvalue far below the largest grows only by ((p + 1) / p)^p (2 to 2.7) a step, and most steps are spent there.
    A step is ``floor(log2 p) + popcount(p) + 1`` products: p = 2, 4, 8 take 3, 4, 5.

    With T_k = ((p + 1) I - M_k) / p:  X_{k+1} = X_k T_k,  M_{k+1} = T_k^p M_k;
    M_0 = z A, X_0 = z^{1/p} I, z = min(4, (p + 1) / 2) / lambda_max. (For large p an eigenvalue y is mapped to about
    y exp(1 - y), so that y = (p + 1) / 2 would become tiny and lose its digits.)

    References
    ----------
    Guo & Higham, A Schur-Newton method for the matrix pth root and its inverse, SIAM J. Matrix Anal. Appl. 28
    (2006), eq. (3.2); Higham, Functions of Matrices, SIAM 2008, eq. (7.18).
    """

    name: ClassVar[str] = "coupled_newton"

    def refuses(self, problem: Problem, n: int) -> str | None:
        return super().refuses(problem, n) or iterative_refusal(problem)

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        p = problem.p

        def into_T(work: Workspace) -> None:
            np.multiply(work.M, -1 / p, out=work.T)
            add_to_diagonal(work.T, (p + 1) / p)

        def near(e: np.ndarray) -> np.ndarray:
            return np.asarray((p + 1) / p * e**2)

        return coupled(A, problem, backend, into_T, near, top=min(4.0, (p + 1) / 2), growth=((p + 1) / p) ** p)


@dataclass(frozen=True, repr=False)
class HigherOrder(Method):
    """Lakic's iteration: T = sum_{i < order} b_i (I - M)^i, the truncated binomial series of M^{-1/p}.

    order 2 is Newton's method; order 3 costs one product more a step and takes about two thirds of the steps. Prefer it
    to `CoupledNewton` for larger p, where the p-th power dominates the cost of a step and T is cheap.
    b_i = prod_{j<i} (1 + j p) / ((j + 1) p). The iteration starts from M_0 with eigenvalues in (0, 1], where the series
    increases towards M^{-1/p} and no eigenvalue can leave the interval.

    Parameters
    ----------
    order : int
        2 to 16.

    References
    ----------
    Lakic, On the computation of the matrix k-th root, Z. Angew. Math. Mech. 78 (1998).
    """

    order: int = 3

    name: ClassVar[str] = "higher_order"

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 2 <= self.order <= 16:
            raise ValueError(f"HigherOrder(order=...) must be an int from 2 to 16, got {self.order!r}")

    def refuses(self, problem: Problem, n: int) -> str | None:
        return super().refuses(problem, n) or iterative_refusal(problem)

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        p = problem.p
        b = [1.0]
        for j in range(self.order - 1):
            b.append(b[-1] * (1 + j * p) / ((j + 1) * p))

        def into_T(work: Workspace) -> None:
            # Horner in E = I - M, kept in R: T = (...(b_m E + b_{m-1}) E + ...) E + b_0
            np.negative(work.M, out=work.R)
            add_to_diagonal(work.R, 1)
            np.multiply(work.R, b[-1], out=work.T)
            add_to_diagonal(work.T, b[-2])
            for coefficient in b[-3::-1]:
                work.multiply(work.T, work.R, out=work.S)
                work.T, work.S = work.S, work.T
                add_to_diagonal(work.T, coefficient)

        def near(e: np.ndarray) -> np.ndarray:  # the first term omitted, with a margin for the following terms
            return np.asarray(4 * p * b[-1] * e**self.order)

        return coupled(A, problem, backend, into_T, near, top=1.0, growth=sum(b) ** p)


def coupled(
    A: Array,
    problem: Problem,
    backend: Backend,
    into_T: Callable[[Workspace], None],
    near: Callable[[np.ndarray], np.ndarray],
    *,
    top: float,
    growth: float,
) -> Raw:
    """Iterate X <- X T^a, M <- T^p M for A^{-a/p}, with the largest eigenvalue of M_0 near `top`."""
    xp = backend.xp
    n = A.shape[-1]
    s, p = problem.rational, problem.p
    if s >= 0:
        root = replace(problem, s=Fraction(-1, p))
        return positive_power(A, s, lambda C: coupled(C, root, backend, into_T, near, top=top, growth=growth), backend)
    a = -s.numerator

    z = top / top_eigenvalue(A, backend)
    scale = (z ** (a / p)).astype(A.real.dtype)
    X = xp.zeros_like(A)
    add_to_diagonal(X, scale)
    M = A
    M *= z[:, None, None].astype(M.real.dtype)
    scaled_identity = True

    def step(work: Workspace, last: bool) -> None:
        nonlocal scaled_identity
        into_T(work)
        power_into(work, a)
        if scaled_identity:
            np.multiply(work.R, scale[:, None, None], out=work.X_next)
        else:
            work.multiply(work.X, work.R, out=work.X_next)
        scaled_identity = False
        if last:
            return
        if a > 1 and a == p - 1:
            work.multiply(work.R, work.T, out=work.S)
            work.R, work.S = work.S, work.R
        elif a != p:
            power_into(work, p)
        work.multiply(work.R, work.M, out=work.S)
        work.M, work.S = work.S, work.M

    eps = float(np.finfo(A.dtype).eps)
    limit = problem.max_iter if problem.max_iter is not None else default_max_iter(growth, eps)
    work = Workspace.like(X, M, backend)
    X, status, n_iter = iterate(work, step, tol=problem.tolerance(eps, n), max_iter=limit, near=near)
    return Raw(X, status, n_iter, work.products)


def top_eigenvalue(A: Array, backend: Backend) -> Array:
    """Estimate the largest eigenvalue (B,) within a few per cent: Lanczos, clipped to bounds from norms."""
    size = abs(A)
    frobenius = backend.xp.sqrt((size * size).sum((-1, -2))).astype(np.float64)
    above = backend.xp.minimum(size.sum(-1).max(-1), frobenius)
    return backend.xp.clip(largest_eigenvalue(A, backend, steps=8), frobenius / A.shape[-1] ** 0.5, above)
