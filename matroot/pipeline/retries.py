"""Second attempts: float64 where float32 was not enough, and the larger ridges of ``Ridge(retries=...)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from matroot._bars import VOUCHED, forward_error_bound
from matroot._regularization import Ridge
from matroot._result import on_host
from matroot._status import Status
from matroot.backends.cpu.cholesky import inverses
from matroot.methods.conditioning import lanczos
from matroot.pipeline.attempt import attempt
from matroot.pipeline.call import Job, Output

Array = Any

#: Above this n, estimate cond first: one Cholesky factorization and a few products with a vector are cheaper than a
#: float32 decomposition or inverse that has to be repeated. Up to this n, float32 is tried without an estimate.
LOOK_ABOVE = 128
#: Lanczos steps for each end of the spectrum, accurate to some per cent.
STEPS = 6


def solve_chunk(stack: Array, part: slice, job: Job, out: Output) -> None:
    """Solve a chunk and write it to `out`; repeat what another attempt may improve.

    A GPU is waited for only if the job allows second attempts.
    """
    first, *others = attempts(job)
    skipped = np.zeros(0, np.intp)
    rows: Any = slice(None)
    if job.may_widen and not job.backend.sync_free():
        hard = beyond_single(stack, job)
        skipped = np.flatnonzero(hard)
        rows = np.flatnonzero(~hard) if len(skipped) else rows
    left = skipped
    if len(skipped) < len(stack):
        found = attempt(stack[rows], first)
        out.write(part if isinstance(rows, slice) else part.start + rows, found)
        if others:
            left = np.sort(np.append(np.arange(len(stack))[rows][improvable(found, first)], skipped))
    for other in others:
        if not len(left):
            return
        again = attempt(stack[left], other)
        out.write(part.start + left, again)
        out.dtype = other.dtype
        left = left[improvable(again, other)]


def attempts(job: Job) -> Iterator[Job]:
    """Yield the job, then in float64 if float32 was not requested, then with the rule's larger ridges."""
    yield job
    if job.may_widen:
        job = replace(job, dtype=np.result_type(job.dtype, np.float64), may_widen=False)
        yield job
    if isinstance(job.rule, Ridge):
        rule = job.rule
        for _ in range(job.rule.retries):
            rule = rule.raised()
            yield replace(job, rule=rule)


def improvable(found: Output, job: Job) -> Array:
    """Return True for matrices that another attempt may improve; waits for the device.

    On the CPU, eigenvalues in float64 have confirmed the NOT_POSITIVE of a failed iteration. Only a larger ridge helps.
    """
    status = on_host(found.status)
    final = np.isin(status, (Status.CONVERGED, Status.NONFINITE_INPUT, Status.NOT_SYMMETRIC))
    retried = isinstance(job.rule, Ridge) and job.rule.retries > 0
    if not (job.backend.sync_free() or job.method.decomposes or retried):
        final |= status == Status.NOT_POSITIVE
    return ~final


def beyond_single(stack: Array, job: Job) -> Array:
    """Return True (B,) for matrices too ill-conditioned for float32; False where an estimate costs too much."""
    B, n, _ = stack.shape
    floor = 0.0 if job.rule is None else job.rule.floor()
    eps = VOUCHED * job.eps
    s, rtol = job.problem.s, job.problem.rtol or 1.0
    promised = floor > 0 and forward_error_bound(np.float64(1 / floor), s, eps) <= rtol
    inverse = job.method.name == "minimax" and s == -1  # by Cholesky, also too expensive to repeat
    direct = job.method.decomposes or inverse
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
