"""Condition number and extreme eigenvalues on the GPU, without reading values on the host; see `facts`."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR
from matroot._status import USABLE, Status
from matroot.backends.base import Backend
from matroot.backends.cuda import stacks
from matroot.backends.linalg import hermitian_part
from matroot.methods import conditioning
from matroot.methods.base import Array, Raw
from matroot.pipeline.call import Facts, Job

#: Steps of the Lanczos sweep that finds the extreme eigenvalues.
STEPS = 16


def ritz(A: Array, backend: Backend) -> tuple[Array, Array]:
    """Compute the largest and the smallest Ritz value of each matrix; the latter is only an upper bound."""
    B, n, _ = A.shape
    if stacks.fits_lanczos(A, backend):
        return stacks.extreme_ritz(A, conditioning.start_vector(n), STEPS, backend)
    w = conditioning.ritz_values(lambda v: backend.matmul(A, v), B, n, A.dtype, backend)
    return w[:, -1], w[:, 0]


def facts_of(
    A: Array, raw: Raw, delta: Array, ends: tuple[Array, Array] | None, status: Array, residual: Array, job: Job
) -> Facts:
    """Estimate cond, lambda_max and lambda_min, after an iteration in one Lanczos sweep, and correct `status`.

    The negative power of `raw` gives the smallest eigenvalue: lambda_min(A') = lambda_max(A'^t)^{1/t}. Without one, or
    if the iteration failed, lambda_min is the smallest Ritz value of A', an upper bound: if it is 0 or less, A' is not
    positive definite.
    """
    backend, xp = job.backend, job.backend.xp
    B, n, _ = A.shape
    known = ends is not None
    with np.errstate(all="ignore"):
        if raw.negative is None:
            top, low = ends or ritz(A, backend)
        else:
            X, t = raw.negative
            X = hermitian_part(X).astype(A.dtype)

            def both(v: Array) -> Array:
                return xp.concatenate([backend.matmul(A, v[:B]), backend.matmul(X, v[B:])])

            if ends is None and stacks.fits_lanczos(A, backend):
                ends = ritz(A, backend)
            if ends is None:
                w = conditioning.ritz_values(both, 2 * B, n, A.dtype, backend)
                top, least, inverse = w[:B, -1], w[:B, 0], w[B:, -1]
            else:
                (top, least), (inverse, _) = ends, ritz(X, backend)
            low = inverse ** (1 / t)
            low = xp.where(among(status, USABLE, xp), low, xp.where(xp.isnan(low), least, xp.minimum(low, least)))
        cond = xp.maximum(abs(top / low), 1)
    cond = xp.where(xp.isnan(cond), xp.inf, cond)

    rounding = 8 * job.eps if known else 0.0
    if job.problem.s > 0:
        status = _semidefinite(status, residual, n, job)
        rounding = n * max(2 * job.eps, 2 * job.out_eps)
    proven = ~among(status, USABLE, xp) & (low <= -rounding * abs(top - delta))
    return Facts(xp.where(proven, int(Status.NOT_POSITIVE), status), cond, top - delta, low)


def _semidefinite(status: Array, residual: Array, n: int, job: Job) -> Array:
    """Accept positive powers of semidefinite matrices on which the iteration stalled at a zero eigenvalue.

    Since A is known to eps, the error there is at least eps^s (s < 1). A root with an error of this size is accepted.
    """
    eps = job.eps + job.out_eps
    s = min(1.0, float(job.problem.s))
    good = residual <= max(min(10 * n**0.5 * eps**s, ILL_FORWARD_ERROR), job.problem.rtol or 0.0)
    stalled = among(status, (Status.STAGNATED, Status.MAX_ITER), job.backend.xp)
    return job.backend.xp.where(stalled & good, int(Status.CONVERGED), status)


def among(status: Array, codes: tuple[Status, ...], xp: Any) -> Array:
    """Return True where `status` is one of `codes`."""
    found = xp.zeros(status.shape, bool)
    for code in codes:
        found |= status == int(code)
    return found
