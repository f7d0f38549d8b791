"""The steps of `Minimax`: bounds of the spectrum, the coupled iteration with given polynomials, and its status."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from matroot._status import Status
from matroot.backends.base import Backend
from matroot.backends.cpu.cholesky import inverses
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, FloatArray, Problem
from matroot.methods.conditioning import lanczos
from matroot.methods.minimax_schedule import Coefficients, Schedule

#: Lanczos steps on the inverse for lambda_min, and the safety factor. The estimate exceeds lambda_min by up to 6 % for
#: geometric, power-law, arithmetic and clustered spectra to n = 2048; it is divided by the safety factor.
LANCZOS_STEPS, SAFETY = 6, 1.25


def target_error(problem: Problem, eps: float) -> float:
    """Return the relative error of the eigenvalues to design for: a tenth of rtol, in decades, or 8 machine epsilons.

    It is less than a tenth if the root is raised to a high power a afterwards, since the error grows a times.
    """
    s = problem.rational
    a = -s.numerator if s < 0 else min(s.numerator, s.denominator)
    share = 0.0 if problem.rtol is None else problem.rtol / max(10, 4 * a)
    return 10.0 ** math.floor(math.log10(share)) if share > 8 * eps else 8 * eps


def spectrum(
    A: Array, top: Array, reached: Array, problem: Problem, backend: Backend
) -> tuple[FloatArray, FloatArray | None]:
    """Return a lower bound of the spectrum of A/top, on the host, and lambda_min(A) if it was estimated."""
    B, n, _ = A.shape
    floor = np.zeros(B) if problem.floor is None else problem.floor
    rounding = backend.eps(A.dtype) * math.sqrt(n) / 4
    if backend.sync_free():  # nothing is read from the device: lambda_max is at least top / n^(1/4)
        return np.clip(np.full(B, floor.min(initial=1.0) * n**-0.25), rounding, 0.9), None

    with np.errstate(all="ignore"):
        smallest = 1 / lanczos(inverses(A), B, n, A.dtype, backend, LANCZOS_STEPS)
        # The estimate is no less than lambda_min: below the floor, the ridge has cancelled a negative eigenvalue.
        promised = np.where(smallest < 0.99 * floor * reached, 0, floor * reached)
        return np.clip(np.fmax(smallest / SAFETY, promised) / top, rounding, 0.9), smallest


def largest_between(A: Array, A2: Array, backend: Backend) -> tuple[Array, Array]:
    """Compute bounds (B,) of lambda_max(A) from A and its square: an upper bound, which scales A, and a lower bound.

    The upper bound is the smaller of the infinity norm of A and the root of the largest eigenvalue that A^2 can have
    with its trace and Frobenius norm (Wolkowicz & Styan, Linear Algebra Appl. 29, 1980, eq. 2.4). The latter is at
    most ||A^2||_F^(1/2).
    """
    xp, n = backend.xp, A.shape[-1]
    second = (abs(A) ** 2).sum((-1, -2)) / n  # mean of lambda^2
    fourth = (abs(A2) ** 2).sum((-1, -2)) / n
    variance = xp.maximum(fourth - second**2, 0) + 4 * backend.eps(A.dtype) * fourth
    above = xp.minimum(abs(A).sum(-1).max(-1), xp.sqrt(second + xp.sqrt((n - 1) * variance)))
    return above.astype(xp.float64), xp.sqrt(fourth / second).astype(xp.float64)


def coupled(
    plan: Schedule,
    steps: tuple[Coefficients, ...],
    product: Callable[..., Array],
    backend: Backend,
    M: Array,
    S: Array,
    T: Array,
    P: Array,
    X: Array,
    started: bool = False,
) -> tuple[Array, Array]:
    """Compute X M^(-a/p) by the polynomials `steps`; return it and M before the last step.

    S is M^2, and all five arrays are overwritten. Unless `started`, X stands for the identity and its contents are
    ignored. Nothing is allocated if X is as large as M.

    The order of the factors is kept, and iterates are not symmetrized: symmetrizing would couple errors of large
    eigenvalues into small eigenvalues, and the residual would grow ten times or more.
    """
    for i, c in enumerate(steps):
        if i and len(c) > 2:
            product(M, M, out=S)
        into_polynomial(c, M, S, T, P, product, backend)
        last = i == len(steps) - 1
        for j, (to_X, left, right) in enumerate(factors(plan.a, 0 if last else plan.p)):
            if j:
                product(P, P, out=S)
                P, S = S, P
            if to_X and not started:
                backend.xp.copyto(X, P)
                started = True
            elif to_X and X.shape == T.shape:
                product(X, P, out=T)
                X, T = T, X
            elif to_X:
                X = product(X, P)
            for _ in range(left):
                product(P, M, out=S)
                M, S = S, M
            for _ in range(right):
                product(M, P, out=S)
                M, S = S, M
    return X, M


def into_polynomial(
    c: Coefficients, M: Array, M2: Array, T: Array, P: Array, product: Callable[..., Array], backend: Backend
) -> None:
    """Compute P = q(M) = M2 (c4 M2 + c3 M + c2 I) + c1 M + c0 I; T is overwritten.

    M2 is the square of M, and is used only if the degree is above 1.
    """
    if len(c) == 5:
        backend.combine(c[4], M2, c[3], M, c[2], T, P)
        product(M2, T, out=P)
        backend.combine(1.0, P, c[1], M, c[0], P, T)
    else:
        backend.combine(c[2] if len(c) == 3 else 0.0, M2, c[1], M, c[0], P, T)


def factors(a: int, p: int) -> list[tuple[int, int, int]]:
    """Return for each B^(2^j) how often it multiplies X, M from the left, and M from the right.

    The products multiply X by B^a and M by B^p. If only M needs the highest square, M is multiplied twice by the
    power before it, once from each side. This takes as many products, and the residual of the symmetrized root is
    smaller. (At p = 2 the right side alone is better.)
    """
    to_X = [a >> j & 1 for j in range(a.bit_length())]
    right = [p >> j & 1 for j in range(p.bit_length())]
    left = [0] * len(right)
    if len(right) > max(1, len(to_X)):
        right.pop()
        left[-2] = int(p > 2)
        right[-1] += 2 - left[-2]
    return list(zip_longest(to_X, left[: len(right)], right, fillvalue=0))


def status_of(M: Array, plan: Schedule, steps: int, backend: Backend) -> Array:
    """Return the status from M before the last step, which is overwritten."""
    add_to_diagonal(M, -1)
    deviation = backend.xp.sqrt((abs(M) ** 2).sum((-1, -2)))
    return status_from(deviation, plan, steps, M.shape[-1], backend.eps(M.dtype), backend.xp)


def status_from(deviation: Array, plan: Schedule, steps: int, n: int, eps: float, xp: Any) -> Array:
    """Return the status from ||M - I||_F before the last step: CONVERGED if the eigenvalues are as scheduled."""
    expected = math.sqrt(n) * (1.1 * plan.widths[steps - 1] + n * eps)
    ended = Status.CONVERGED if steps == len(plan.steps) else Status.MAX_ITER
    lagging = xp.where(deviation <= 2 * math.sqrt(n), int(Status.STAGNATED), int(Status.DIVERGED))
    return xp.where(deviation <= expected, int(ended), lagging)
