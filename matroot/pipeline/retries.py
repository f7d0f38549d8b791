"""Second attempts: float64 where float32 was not enough, and the larger ridges of ``Ridge(retries=...)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from matroot._regularization import Ridge
from matroot._result import on_host
from matroot._status import Status
from matroot.methods.eigen import Eigen
from matroot.pipeline.attempt import attempt
from matroot.pipeline.call import Attempt, Job, Output
from matroot.pipeline.precision import beyond_single

Array = Any


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


def improvable(found: Attempt, job: Job) -> Array:
    """Return True for matrices that another attempt may improve; waits for the device.

    On the CPU, eigenvalues in float64 have confirmed the NOT_POSITIVE of a failed iteration. Only a larger ridge helps.
    """
    status = on_host(found.status)
    final = np.isin(status, (Status.CONVERGED, Status.NONFINITE_INPUT, Status.NOT_SYMMETRIC))
    retried = isinstance(job.rule, Ridge) and job.rule.retries > 0
    if not (job.backend.sync_free() or isinstance(job.method, Eigen) or retried):
        final |= status == Status.NOT_POSITIVE
    return ~final
