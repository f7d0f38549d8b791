"""Condition number and extreme eigenvalues of a solve, and what they say of a failed iteration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from matroot._status import USABLE, Status
from matroot.backends.base import Backend
from matroot.backends.loading import deferred
from matroot.methods import conditioning
from matroot.methods.base import Array, Raw
from matroot.pipeline.call import Facts, Job


def extremes(A: Array, needs: str, assume_a: str, backend: Backend) -> tuple[Array, Array]:
    """Compute the largest (and, where needed, smallest) eigenvalue of each matrix; the 2-norm of a general matrix."""
    if needs == "extremes":
        w = backend.eigvalsh(A.astype(np.result_type(A.dtype, np.float64)))
        return w[:, -1], w[:, 0]
    if backend.sync_free():
        return deferred("matroot.pipeline.device_facts").ritz(A, backend)
    largest = (conditioning.norm2 if assume_a == "gen" else conditioning.largest_eigenvalue)(A, backend)
    return largest, np.zeros_like(largest)


def facts_of(
    A: Array,
    X: Array,
    raw: Raw,
    delta: Array,
    ends: tuple[Array, Array] | None,
    status: Array,
    residual: Array,
    job: Job,
) -> Facts:
    """Measure or estimate cond, lambda_max and lambda_min; set NOT_POSITIVE where they show it.

    A are the regularized matrices, scaled, with the multiple `delta` (B,) of I, and X their powers. `ends` are extreme
    eigenvalues of A as far as a rule needed them.
    """
    general = job.problem.assume_a == "gen"
    if not general and raw.cond is not None and raw.lambda_max is not None and raw.lambda_min is not None:
        ridge = 0 if raw.ridge is not None else delta  # zero if the method added the ridge itself
        return Facts(status, raw.cond, raw.lambda_max - ridge, raw.lambda_min)
    if job.backend.sync_free():
        return deferred("matroot.pipeline.device_facts").facts_of(A, raw, delta, ends, status, residual, job)
    if general:
        norm = np.full(len(A), np.nan) if raw.lambda_max is None else raw.lambda_max
        unknown = np.flatnonzero(np.isnan(norm))
        if len(unknown):
            norm[unknown] = conditioning.norm2(A[unknown], job.backend)
        cond = np.full(len(A), np.nan) if raw.cond is None else raw.cond
        lowest = norm / cond
        if raw.lambda_min is not None:
            lowest = np.where(np.isnan(raw.lambda_min), lowest, raw.lambda_min)
        return Facts(status, cond, norm - delta, lowest)
    return _on_host(A, X, delta, ends, status, job)


def _on_host(A: Array, X: Array, delta: Array, ends: tuple[Array, Array] | None, status: Array, job: Job) -> Facts:
    """Estimate by Lanczos; an inverse root gives the smallest eigenvalue, lambda_min(A') = lambda_max(X)^{1/s}."""
    problem, backend = job.problem, job.backend
    top = conditioning.largest_eigenvalue(A, backend) if ends is None else ends[0]
    failed = np.flatnonzero(~np.isin(status, [*USABLE]))
    with np.errstate(all="ignore"):
        if problem.inverse:
            lambda_min = conditioning.largest_eigenvalue(X, backend) ** (1 / float(problem.s))
        else:
            lambda_min = 1 / conditioning.norm2(inverses(A), backend)  # rounding may have made it negative
            lambda_min[np.isnan(lambda_min)] = 0
    if len(failed):  # find out by eigenvalues if the matrix or the iteration is at fault
        w = backend.eigvalsh(A[failed])
        lambda_min[failed], top[failed] = w[:, 0], w[:, -1]
        rounding = replace(problem, out_eps=job.out_eps).rounding(A)
        outside = w[:, 0] <= 0 if problem.inverse else w[:, 0] < -rounding * w[:, -1]
        status[failed[outside]] = Status.NOT_POSITIVE
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cond = np.maximum(abs(top / lambda_min), 1)
    return Facts(status, np.where(np.isnan(cond), np.inf, cond), top - delta, lambda_min)


def inverses(A: Array) -> Array:
    """Compute the inverse of each matrix of a stack, infinite where there is none."""
    try:
        return np.asarray(np.linalg.inv(A))
    except np.linalg.LinAlgError:
        if len(A) == 1:
            return np.full_like(A, np.inf)
        return np.concatenate([inverses(A[i : i + 1]) for i in range(len(A))])
