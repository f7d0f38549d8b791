"""A solve whose every part, from the scaling to the certificate, is in the one kernel of `methods.small`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from matroot.attempt import solve_chunk
from matroot.conditioning import PROBES
from matroot.engines.arrays import smallest_normal
from matroot.engines.blas import one_blas_thread
from matroot.job import Job, Output
from matroot.judgement import judge, within_range
from matroot.methods.eigen import Eigen
from matroot.methods.small import PRODUCTS, Tridiagonal, small_roots
from matroot.preparation import refuse_asymmetric
from matroot.regularization import Ridge
from matroot.result import Status

Array = Any


def in_float64(job: Job) -> Job:
    """The job as it will be done: `Tridiagonal` computes in double precision, whatever was asked for."""
    double = np.complex128 if job.dtype.kind == "c" else np.float64
    if not isinstance(job.method, Tridiagonal) or job.dtype == double:
        return job
    return replace(job, dtype=np.dtype(double), may_widen=False)


def fits(stack: Array, job: Job) -> bool:
    """Whether the kernel does the whole of this job; what it does not, `attempt` does around it."""
    return (
        isinstance(job.method, Tridiagonal)
        and isinstance(stack, np.ndarray)
        and stack.dtype.kind in "fiuc"
        and job.origin.dtype_name not in ("float16", "bfloat16")
        and (job.rule is None or type(job.rule) is Ridge)
        and (job.problem.s > 0 or job.problem.rational.numerator == -1)  # else the certificate takes an inverse
    )


def solve_fused(stack: Array, job: Job, out: Output) -> None:
    """Solve the stack (B, n, n) and fill `out`; matrices that the kernel does not serve go to `Eigen`."""
    n = stack.shape[-1]
    s, rule = job.problem.rational, job.rule
    relative, absolute = (rule.relative, rule.absolute) if isinstance(rule, Ridge) else (0.0, 0.0)
    report = small_roots(stack, out.x, s, relative, absolute)
    hard = report.served == 0
    gap = report.asymmetry.max(initial=0.0, where=~hard)
    if gap > 0:
        refuse_asymmetric(float(gap), stack.dtype.kind == "c", job.origin)

    for name in ("residual", "lambda_min", "lambda_max", "ridge", "cond"):
        setattr(out, name, getattr(report, name).copy())
    out.n_products, out.certificate = PRODUCTS, "full" if n <= PROBES else "probes"
    out.status = judge(out.status, out.residual, out.cond, n, job)
    end = out.lambda_min if s < 0 else out.lambda_max + out.ridge
    with np.errstate(all="ignore"):
        faint = end ** float(s) < n * smallest_normal(out.x.dtype.name)
    if faint.any():
        out.status = within_range(out.status, abs(out.x).max((-1, -2)), ~hard, job)
    if isinstance(rule, Ridge) and rule.retries:
        hard |= out.status == Status.ILL_CONDITIONED
    if hard.any():
        rows = np.flatnonzero(hard)
        other = replace(job, method=Eigen())
        found = Output(len(rows), n, other)
        with one_blas_thread():
            solve_chunk(stack[rows], slice(0, len(rows)), other, found)
        found.certificate = out.certificate
        out.write(rows, found)
