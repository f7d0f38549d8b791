"""The coupled Newton iteration, and its relatives of higher order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from matroot.backends.base import Backend
from matroot.backends.keywords import is_int
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Problem, Raw
from matroot.methods.conditioning import largest_eigenvalue
from matroot.methods.loop import Near, Workspace, iterate, power_into, step_limit
from matroot.methods.powers import InverseRoot


@dataclass(frozen=True, repr=False)
class CoupledNewton(InverseRoot):
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

    def inverse_root(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        p = problem.p
        first = (p + 1) / p
        top = min(4.0, (p + 1) / 2)
        return coupled(A, [1.0, 1 / p], problem, backend, top=top, growth=first**p, near=lambda e: first * e**2)


@dataclass(frozen=True, repr=False)
class HigherOrder(InverseRoot):
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
        if not is_int(self.order) or not 2 <= self.order <= 16:
            raise ValueError(f"HigherOrder(order=...) must be an int from 2 to 16, got {self.order!r}")

    def inverse_root(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        p, order = problem.p, self.order
        b = [1.0]
        for j in range(order - 1):
            b.append(b[-1] * (1 + j * p) / ((j + 1) * p))
        last = 4 * p * b[-1]  # the first term omitted, with a margin for the following terms
        return coupled(A, b, problem, backend, top=1.0, growth=sum(b) ** p, near=lambda e: last * e**order)


def coupled(
    A: Array, b: list[float], problem: Problem, backend: Backend, *, top: float, growth: float, near: Near
) -> Raw:
    """Iterate T = sum_i b_i (I - M)^i, X <- X T^a, M <- T^p M for A^{-a/p}; A is overwritten.

    The largest eigenvalue of M_0 is near `top`, and small eigenvalues grow by the factor `growth` a step.
    """
    p, a = problem.p, -problem.rational.numerator
    z = top / top_eigenvalue(A, backend)
    scale = (z ** (a / p)).astype(A.real.dtype)
    A *= z[:, None, None].astype(A.real.dtype)
    X = backend.xp.zeros_like(A)
    add_to_diagonal(X, scale)
    scaled_identity = True

    def step(work: Workspace, last: bool) -> None:
        nonlocal scaled_identity
        into_series(work, b)
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

    work = Workspace.like(X, A, backend)
    tol = problem.tolerance(float(np.finfo(A.dtype).eps), A.shape[-1])
    limit = step_limit(problem, growth, A, backend)
    X, status, n_iter = iterate(work, step, tol=tol, max_iter=limit, near=near)
    return Raw(X, status, n_iter, work.products)


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


def top_eigenvalue(A: Array, backend: Backend) -> Array:
    """Estimate the largest eigenvalue (B,) within a few per cent: Lanczos, clipped to bounds from norms."""
    size = abs(A)
    frobenius = backend.xp.sqrt((size * size).sum((-1, -2))).astype(np.float64)
    above = backend.xp.minimum(size.sum(-1).max(-1), frobenius)
    return backend.xp.clip(largest_eigenvalue(A, backend, steps=8), frobenius / A.shape[-1] ** 0.5, above)
