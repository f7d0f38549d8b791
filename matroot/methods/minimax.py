"""The coupled iteration with the minimax polynomial at every step, which needs the fewest products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.cpu.cholesky import inverse
from matroot.backends.loading import deferred
from matroot.methods.base import Array, FloatArray, Problem, Raw
from matroot.methods.minimax_schedule import Schedule, schedule
from matroot.methods.minimax_steps import coupled, largest_between, spectrum, status_of, target_error
from matroot.methods.powers import InverseRoot, power, power_products


@dataclass(frozen=True, repr=False)
class Minimax(InverseRoot):
    """B = q_k(M), X <- X B, M <- B^p M with the best q_k of degree 1, 2 or 4 for the remaining spectrum.

    Any p >= 1, any rational exponent. Prefer it wherever products are fast: on a GPU, and on a CPU for small
    matrices. At kappa = 1e6, p = 4 it takes 25 products in float32 and 29 in float64, where coupled Newton takes
    76. For p = 1 on the CPU the method is the inverse by Cholesky, which is faster than any polynomial.

    The schedule of polynomials depends on p, the condition number and the accuracy requested. The condition
    number is estimated by a Cholesky factorization and six Lanczos steps (CPU), or bounded by the
    regularization. Without either the schedule covers every spectrum above ``eps sqrt(n) / 4``, and is long. A is
    scaled by bounds of lambda_max from its rows and from A^2, which is the first product anyway.

    The forward error is that of the other iterations. The residual X^p A - I is within a few times coupled
    Newton's. At p = 8 and kappa = 1e10 the residual is 100 times that of `Eigen`, since some large eigenvalues
    become as small as the smallest before they converge to 1.

    Parameters
    ----------
    accurate : bool
        Keep the large eigenvalues larger during the iteration, for a residual nearer to coupled Newton's, at about
        a fifth more products.

    References
    ----------
    Amsel, Persson, Musco & Gower, The Polar Express, arXiv 2505.16932 (2025), for the sign function, p = 2;
    Guo & Higham, SIAM J. Matrix Anal. Appl. 28 (2006), for the coupling; `matroot.methods.minimax_schedule` for the
    polynomials.
    """

    accurate: bool = False

    name: ClassVar[str] = "minimax"

    def __post_init__(self) -> None:
        if not isinstance(self.accurate, bool):
            raise ValueError(f"Minimax(accurate=...) must be a bool, got {self.accurate!r}")

    def schedule(self, p: int, lower: float, *, target: float, a: int = 1) -> Schedule:
        """Return the polynomials of A^(-a/p), for programs that run them in a graph of their own.

        Parameters
        ----------
        p : int
            The denominator of the exponent -a/p, at least 1.
        lower : float
            Smallest eigenvalue over a bound of the largest, by which A is divided, in (0, 1).
        target : float
            Relative error wanted in every eigenvalue of A^(-1/p), in [1e-16, 1).
        a : int
            The numerator, at least 1.

        Returns
        -------
        Schedule
            Its `steps` have the coefficients of every q_k, the constant first.

        Examples
        --------
        >>> from matroot import Minimax
        >>> plan = Minimax().schedule(4, 1e-6, target=1e-6)
        >>> plan.products, [len(step) - 1 for step in plan.steps]
        (25, [4, 4, 2, 4, 4])
        """
        return schedule(p, lower, target=target, a=a, accurate=self.accurate)

    def inverse_root(self, A: Array, problem: Problem, backend: Backend) -> Raw:
        s = problem.rational
        if backend.sync_free():
            kernel, fixed = map(deferred, ("matroot.methods.minimax_kernel", "matroot.methods.minimax_fixed"))
            return (kernel if kernel.fits(A, backend) else fixed).run(self, A, problem, backend)
        if s.denominator == 1:
            return _whole_inverse(A, -s.numerator, backend)
        return self.apply(A, None, -s.numerator, problem, backend)

    def apply(self, A: Array, X: Array | None, a: int, problem: Problem, backend: Backend) -> Raw:
        """Compute X A^(-a/p) for X (B, m, n), or None for the identity; A and X are overwritten."""
        xp = backend.xp
        B, p = len(A), problem.p
        A2 = backend.matmul(A, A)
        top, reached = largest_between(A, A2, backend)
        lower, smallest = spectrum(A, top, reached, problem, backend)
        groups = self._groups(lower, a, problem, float(np.finfo(A.dtype).eps))
        status, n_iter, products = xp.zeros(B, xp.int8), np.zeros(B, np.int64), 0
        out = xp.empty_like(A) if X is None and len(groups) > 1 else X
        for plan, members in groups.items():
            rows: Any = slice(None) if len(groups) == 1 else np.asarray(members)
            steps = plan.steps[: problem.max_iter]
            with np.errstate(all="ignore"):  # an indefinite matrix overflows
                start = None if X is None else X[rows]
                M, S, high = A[rows], A2[rows], top[rows]
                M /= high.astype(A.real.dtype)[:, None, None]
                S /= (high * high).astype(A.real.dtype)[:, None, None]
                work = (M, S, xp.empty_like(M), xp.empty_like(M), xp.empty_like(M) if start is None else start)
                G, M = coupled(plan, steps, backend.matmul, backend, *work, started=start is not None)
                status[rows] = status_of(M, plan, len(steps), backend)
            G *= (top[rows] ** (-a / p)).astype(G.real.dtype)[:, None, None]
            if out is None:
                out = G
            else:
                out[rows] = G
            n_iter[rows] = len(steps)
            products = max(products, plan.products)
        return Raw(out, status, n_iter, products, lambda_min=smallest)

    def _groups(self, lower: FloatArray, a: int, problem: Problem, eps: float) -> dict[Schedule, list[int]]:
        """Group the matrices of the stack by schedule."""
        target = target_error(problem, eps)
        groups: dict[Schedule, list[int]] = {}
        for i, low in enumerate(lower.tolist()):
            plan = schedule(problem.p, low, target=target, a=a, accurate=self.accurate)
            groups.setdefault(plan, []).append(i)
        return groups


def _whole_inverse(A: Array, a: int, backend: Backend) -> Raw:
    """Compute A^(-a) by Cholesky on the CPU; the inverse costs two products or less."""
    X = inverse(A)
    status = np.where(np.isfinite(X).all((-1, -2)), int(Status.CONVERGED), int(Status.DIVERGED)).astype(np.int8)
    return Raw(power(X, a, backend), status, np.zeros(len(A), np.int64), 1 + power_products(a))
