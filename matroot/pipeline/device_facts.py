"""Extreme eigenvalues and status masks on the GPU, without reading values on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot._result import USABLE, Status
from matroot.backends.base import Backend
from matroot.backends.cuda import stacks
from matroot.backends.linalg import hermitian_part
from matroot.methods import conditioning
from matroot.methods.base import Raw

Array = Any

#: Steps of the Lanczos sweep that finds the extreme eigenvalues.
STEPS = 16


def extremes(A: Array, needs: str, backend: Backend) -> tuple[Array, Array]:
    """Compute the largest and smallest eigenvalue of each matrix; the latter only a Ritz value if it is not needed."""
    B, n, _ = A.shape
    if needs == "extremes":
        w = backend.eigvalsh(A.astype(np.result_type(A.dtype, np.float64)))
    elif stacks.fits_lanczos(A, backend):
        return stacks.extreme_ritz(A, conditioning.start_vector(n), STEPS, backend)
    else:
        w = conditioning.ritz_values(lambda v: backend.matmul(A, v), B, n, A.dtype, backend)
    return w[:, -1], w[:, 0]


def facts(
    A: Array,
    raw: Raw,
    delta: Array,
    ends: tuple[Array, Array] | None,
    status: Array,
    backend: Backend,
) -> tuple[Array, Array, Array]:
    """Estimate cond, lambda_max (of A) and lambda_min (of A'), after an iteration in one Lanczos sweep.

    The negative power of `raw` gives the smallest eigenvalue: lambda_min(A') = lambda_max(A'^t)^{1/t}. Without one, or
    if the iteration failed, lambda_min is the smallest Ritz value of A', an upper bound: if it is 0 or less, A' is not
    positive definite. `ends` are the extreme Ritz values of A', (B,) each, if a rule has computed them already.
    """
    xp = backend.xp
    if raw.cond is not None and raw.lambda_max is not None and raw.lambda_min is not None:
        return raw.cond, raw.lambda_max, raw.lambda_min
    B, n, _ = A.shape
    with np.errstate(all="ignore"):
        if raw.negative is None:
            top, low = ends or extremes(A, "lambda_max", backend)
        else:
            X, t = raw.negative
            X = hermitian_part(X).astype(A.dtype)

            def both(v: Array) -> Array:
                return xp.concatenate([backend.matmul(A, v[:B]), backend.matmul(X, v[B:])])

            if ends is None and stacks.fits_lanczos(A, backend):
                ends = extremes(A, "lambda_max", backend)
            if ends is None:
                w = conditioning.ritz_values(both, 2 * B, n, A.dtype, backend)
                top, ritz, inverse = w[:B, -1], w[:B, 0], w[B:, -1]
            else:
                (top, ritz), (inverse, _) = ends, extremes(X, "lambda_max", backend)
            low = inverse ** (1 / t)
            low = xp.where(among(status, USABLE, xp), low, xp.where(xp.isnan(low), ritz, xp.minimum(low, ritz)))
        cond = xp.maximum(abs(top / low), 1)
    return xp.where(xp.isnan(cond), xp.inf, cond), top - delta, low


def among(status: Array, codes: tuple[Status, ...], xp: Any) -> Array:
    """Return True where `status` is one of `codes`."""
    found = xp.zeros(status.shape, bool)
    for code in codes:
        found |= status == int(code)
    return found
