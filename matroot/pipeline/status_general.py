"""The status of the powers of general matrices, from the condition number of A -> A^s itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR, VOUCHED, decomposed_share
from matroot._status import Status
from matroot.methods import conditioning
from matroot.methods.base import Array, Raw
from matroot.pipeline.call import Job
from matroot.pipeline.status import MARGIN, degree_of, explained_residual, tolerated_residual


def general_excess(norm: Array, delta: Array) -> Array:
    """Return how much larger rounding of A is beside A' = A + delta I, within a factor 2; `norm` is ||A'|| - delta."""
    with np.errstate(all="ignore"):
        ratio = delta / (norm + delta)
    return np.where(ratio > 1, ratio, 1.0)


def judge_general(
    status: Array, residual: Array, A: Array, raw: Raw, cond: Array, job: Job, excess: Array
) -> tuple[Array, Array]:
    """Return the status and the amplification of rounding errors (B,), for the regularized A (B, n, n) in float64.

    ``CONVERGED`` means three things. The arithmetic keeps rtol. Rounding the data changes the power by less than
    `ILL_FORWARD_ERROR`, including jumps across the negative axis, and `excess` times more where a ridge cancels most of
    them. Both together explain the residual.
    """
    s, n, rtol = job.problem.s, A.shape[-1], job.problem.rtol
    amplification = raw.amplification
    if amplification is None or raw.jump is None:
        raise TypeError(f"{job.method.name} does not say how sensitive the power is")
    data = max(job.eps, job.out_eps) * excess
    zero = powers_of_zero(cond, n, job)
    jump = np.maximum(raw.jump, zero)

    def trusted(amplification: Array) -> Array:
        known = np.maximum(data * amplification, jump) <= ILL_FORWARD_ERROR
        if rtol is None:
            return known
        zeros = zero if raw.rank is None else np.where(raw.rank < n, jump, zero)  # their error
        return known & (np.maximum(error_bound(amplification, n, job), zeros) <= rtol)

    converged = status == int(Status.CONVERGED)
    with np.errstate(all="ignore"):
        for i in np.flatnonzero(converged & ~trusted(amplification) & (jump <= ILL_FORWARD_ERROR)):
            amplification[i] = min(amplification[i], estimate(A[i], s))  # the bound may be far too large
        eps = job.eps + job.out_eps
        rounding = explained_residual(cond, s, n, eps, 0.0)
        # Near the axis, and for coupled eigenvalues, the residual shows the error of the power.
        coupled = np.expm1(degree_of(s) * np.log1p(MARGIN * eps * amplification))
        rounding = np.fmax(rounding, np.fmin(coupled, ILL_FORWARD_ERROR))
        truncation = np.expm1(degree_of(s) * np.log1p(rtol or 0.0))
        explained = np.minimum(rounding + truncation, tolerated_residual(s, rtol))
        good = trusted(amplification) & (residual <= explained)
        status = np.where(converged & ~good, int(Status.ILL_CONDITIONED), status).astype(np.int8)
        known = np.where(np.isnan(amplification), 2.0 ** conditioning.bits_lost(cond, s), amplification)
        return status, np.fmax(known, jump / data)


def powers_of_zero(cond: Array, n: int, job: Job) -> Array:
    """Return how large the power 0 < s < 1 of an eigenvalue 0 may come out, where the Schur form may have moved one."""
    s, share = float(job.problem.s), decomposed_share(n, float(np.finfo(job.dtype).eps))
    with np.errstate(all="ignore"):
        return np.where(cond * share < 1, 0.0, share**s if 0 < s < 1 else 0.0)


def error_bound(amplification: Array, n: int, job: Job) -> Array:
    """Bound the relative error from the arithmetic and from rounding to the output."""
    rounded = job.out_eps if job.out_eps > job.eps else 0.0
    return VOUCHED * job.eps * (amplification + n**0.5) + rounded


def estimate(A: Array, s: Any) -> float:
    """Estimate the condition number of A -> A^s, at the cost of some twenty roots."""
    from matroot.methods.frechet import cond_pth_root_general

    return cond_pth_root_general(A, s)
