"""Square root and inverse square root in one iteration, and 2^k-th roots by repetition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Method, Problem, Raw, iterative_refusal
from matroot.methods.coupled_newton import top_eigenvalue
from matroot.methods.loop import Workspace, iterate, step_limit


@dataclass(frozen=True, repr=False)
class NewtonDB(Method):
    """Denman and Beavers' pair in product form (Newton-Schulz): A^{1/p} and A^{-1/p} for p = 2^k.

    Prefer it when both roots are wanted: ``solve(...).companion`` costs nothing. Three products a step; small
    eigenvalues grow by 2.25 a step. For p = 4, 8, ... the iteration is repeated with the square root as its input.

    With E_k = (3 I - Z_k Y_k) / 2:  Y_{k+1} = Y_k E_k -> A^{1/2},  Z_{k+1} = E_k Z_k -> A^{-1/2};
    Y_0 = A / s, Z_0 = I.

    The forward error is that of the other iterations, but the residual X^p A - I is larger, some eps kappa^{3/2}.
    Beyond kappa = 1e10 in float64 the residual certifies no digits, and the status is ``ILL_CONDITIONED``.

    References
    ----------
    Higham, Functions of Matrices, SIAM 2008, eq. (6.35) (Denman & Beavers) and sec. 6.3, 6.7 (Newton-Schulz).
    """

    name: ClassVar[str] = "newton_db"
    gives_companion: ClassVar[bool] = True
    on_device: ClassVar[bool] = True

    def refuses(self, problem: Problem, n: int) -> str | None:
        refusal = super().refuses(problem, n) or iterative_refusal(problem)
        if refusal is None and (abs(problem.rational.numerator) != 1 or problem.p < 2 or problem.p & (problem.p - 1)):
            return f"newton_db takes roots of degree 2, 4, 8, ..., not exponent {problem.s}; use 'coupled_newton'"
        return refusal

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        xp, B = backend.xp, len(A)
        status, n_iter, products = xp.zeros(B, xp.int8), xp.zeros(B, xp.int64), 0
        eye, floor = xp.eye(A.shape[-1], dtype=A.dtype), problem.floor
        root, pair = A, A
        for _ in range(problem.p.bit_length() - 1):
            pair, stage, steps, issued = _square_roots(root, replace(problem, floor=floor), backend)
            status = xp.where(status == int(Status.CONVERGED), stage, status)
            n_iter += steps
            products += issued
            failed = stage != int(Status.CONVERGED)  # excluded from later stages
            xp.copyto(pair, eye, where=failed[:, None, None])
            root = pair[1].copy()
            floor = None if floor is None else floor**0.5
        x, companion = pair if problem.inverse else pair[::-1]
        return Raw(x, status, n_iter, products, companion=companion, negative=(pair[0], -1 / problem.p))


def _square_roots(A: Array, problem: Problem, backend: Backend) -> tuple[Array, Array, Array, int]:
    """Compute the pair A^{-1/2}, A^{1/2} as one array (2, B, n, n); A is overwritten."""
    xp = backend.xp
    z = 1.5 / top_eigenvalue(A, backend)
    root = xp.sqrt(z).astype(A.real.dtype)[:, None, None]
    A *= z[:, None, None].astype(A.real.dtype)
    X = xp.zeros((2, *A.shape), A.dtype)
    add_to_diagonal(X[0], 1)
    X[1] = A
    first = True

    def step(work: Workspace, last: bool) -> None:
        nonlocal first
        work.backend.combine(0.0, work.M, -0.5, work.M, 1.5, work.T, work.T)
        (Z, Y), (Z_next, Y_next) = work.X, work.X_next
        work.multiply(Y, work.T, out=Y_next)
        if first:
            xp.copyto(Z_next, work.T)
            first = False
        else:
            work.multiply(work.T, Z, out=Z_next)
        if not last:
            work.multiply(Z_next, Y_next, out=work.M)

    work = Workspace(backend, X, xp.empty_like(X), A, xp.empty_like(A))
    X, status, n_iter = iterate(
        work,
        step,
        tol=problem.tolerance(float(np.finfo(A.dtype).eps), A.shape[-1]),
        max_iter=step_limit(problem, 2.25, A, backend),
        near=lambda e: e**2,  # y (3 - y)^2 / 4 - 1 = (y - 1)^2 (y - 4) / 4
    )
    X[0] *= root
    X[1] /= root
    return X, status, n_iter, work.products
