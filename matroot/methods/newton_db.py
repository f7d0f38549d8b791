"""Square root and inverse square root in one iteration, and 2^k-th roots by repetition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from matroot._result import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Method, Problem, Raw, iterative_refusal
from matroot.methods.coupled_newton import top_eigenvalue
from matroot.methods.loop import Workspace, default_max_iter, iterate


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

    def refuses(self, problem: Problem, n: int) -> str | None:
        refusal = super().refuses(problem, n) or iterative_refusal(problem)
        if refusal is None and (abs(problem.rational.numerator) != 1 or problem.p < 2 or problem.p & (problem.p - 1)):
            return f"newton_db takes roots of degree 2, 4, 8, ..., not exponent {problem.s}; use 'coupled_newton'"
        return refusal

    def run(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        xp = backend.xp
        B = A.shape[0]
        status = np.zeros(B, np.int8)
        n_iter = np.zeros(B, np.int64)
        n_products = 0
        stages = problem.p.bit_length() - 1
        for left in reversed(range(stages)):
            pair, stage, steps, issued = self._square_roots(A, problem, backend)
            failed = stage != Status.CONVERGED
            status = np.where(status == 0, stage, status)
            n_iter += steps
            n_products += issued
            if failed.any():  # exclude failed matrices from later stages
                pair[np.flatnonzero(failed)] = xp.eye(A.shape[-1], dtype=A.dtype)
            if left:
                xp.copyto(A, pair[:, 1])
                del pair
        Z, Y = pair[:, 0], pair[:, 1]
        return Raw(Z if problem.inverse else Y, status, n_iter, n_products, companion=Y if problem.inverse else Z)

    def _square_roots(self, A: Array, problem: Problem, backend: Backend) -> tuple[Array, np.ndarray, np.ndarray, int]:
        """Compute the pair (A^{-1/2}, A^{1/2}) as a stack (B, 2, n, n); A is overwritten."""
        xp = backend.xp
        B, n, _ = A.shape
        z = 1.5 / top_eigenvalue(A, backend)
        root = xp.sqrt(z).astype(A.real.dtype)[:, None, None]
        M = A
        M *= z[:, None, None].astype(A.real.dtype)
        X = xp.zeros((B, 2, n, n), A.dtype)
        add_to_diagonal(X[:, 0], 1)
        X[:, 1] = M

        first = True

        def step(work: Workspace, last: bool) -> None:
            nonlocal first
            np.multiply(work.M, -0.5, out=work.T)
            add_to_diagonal(work.T, 1.5)
            Z, Y, Z_next, Y_next = work.X[:, 0], work.X[:, 1], work.X_next[:, 0], work.X_next[:, 1]
            work.multiply(Y, work.T, out=Y_next)
            if first:
                xp.copyto(Z_next, work.T)
                first = False
            else:
                work.multiply(work.T, Z, out=Z_next)
            if not last:
                work.multiply(Z_next, Y_next, out=work.M)

        def near(e: np.ndarray) -> np.ndarray:  # y (3 - y)^2 / 4 - 1 = (y - 1)^2 (y - 4) / 4
            return np.asarray(e**2)

        eps = float(np.finfo(A.dtype).eps)
        limit = problem.max_iter if problem.max_iter is not None else default_max_iter(2.25, eps)
        work = Workspace(backend, X, xp.empty_like(X), M, xp.empty_like(M))
        pair, status, n_iter = iterate(work, step, tol=problem.tolerance(eps, n), max_iter=limit, near=near)
        pair[:, 0] *= root
        pair[:, 1] /= root
        return pair, status, n_iter, work.products
