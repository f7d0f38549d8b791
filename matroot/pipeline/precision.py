"""Prediction of the matrices for which float32 arithmetic cannot reach the requested accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot._bars import VOUCHED, forward_error_bound
from matroot.backends.cpu.cholesky import inverses
from matroot.methods.conditioning import lanczos
from matroot.methods.eigen import Eigen
from matroot.methods.minimax import Minimax
from matroot.pipeline.call import Job

Array = Any

#: Above this n, estimate cond first: one Cholesky factorization and a few products with a vector are cheaper than a
#: float32 decomposition or inverse that has to be repeated. Up to this n, float32 is tried without an estimate.
LOOK_ABOVE = 128
#: Lanczos steps for each end of the spectrum, accurate to some per cent.
STEPS = 6


def beyond_single(stack: Array, job: Job) -> Array:
    """Return True (B,) for matrices too ill-conditioned for float32; False where an estimate costs too much."""
    B, n, _ = stack.shape
    floor = 0.0 if job.rule is None else job.rule.floor()
    eps = VOUCHED * job.eps
    s, rtol = job.problem.s, job.problem.rtol or 1.0
    promised = floor > 0 and forward_error_bound(np.float64(1 / floor), s, eps) <= rtol
    inverse = isinstance(job.method, Minimax) and s == -1  # by Cholesky, also too expensive to repeat
    direct = isinstance(job.method, Eigen) or inverse
    if n <= LOOK_ABOVE or promised or not direct:
        return np.zeros(B, bool)
    with np.errstate(all="ignore"):
        size = abs(stack).max((-1, -2))
        A = (stack / np.where(size > 0, size, 1)[:, None, None]).astype(job.dtype)
        finite = np.isfinite(A).all((-1, -2))
        A[~finite] = np.eye(n)
        largest = lanczos(lambda v: job.backend.matmul(A, v), B, n, A.dtype, job.backend, STEPS)
        smallest = 1 / lanczos(inverses(A), B, n, A.dtype, job.backend, STEPS)
        cond = largest / np.fmax(smallest, floor * largest)
        return finite & ~(forward_error_bound(cond, s, eps) <= rtol)
