"""A solve by the kernels of `methods.tridiagonal`, which scale, regularize and certify too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from matroot._regularization import Ridge
from matroot._status import Status
from matroot.backends.arrays import HALVES, round_to
from matroot.backends.cpu.blas import one_blas_thread
from matroot.backends.linalg import hermitian_part
from matroot.methods import conditioning
from matroot.methods.base import Method
from matroot.methods.conditioning import PROBES
from matroot.methods.eigen import Eigen
from matroot.methods.tridiagonal import PRODUCTS, Tridiagonal, first_half, kernel, roots
from matroot.methods.tridiagonal_cut import cut_roots, cuts_in_lanes, serves_cuts
from matroot.methods.tridiagonal_derivative import WIDENED, form_numbers, serves
from matroot.methods.tridiagonal_form import Reduced, room_of
from matroot.methods.tridiagonal_large import ROUNDING
from matroot.methods.tridiagonal_report import CUT, IN_SINGLE, NEGATIVE, SERVED, CutReport, Report, further_products
from matroot.pipeline.call import Output
from matroot.pipeline.fused import Fused
from matroot.pipeline.reference import factor
from matroot.pipeline.retries import solve_chunk
from matroot.pipeline.scaling import asymmetry_bar, refuse_asymmetric, scale_root, shift_by_power_of_two
from matroot.pipeline.status import (
    cancelled,
    doubtful,
    excess_of,
    faintness,
    judge,
    singular,
    spent,
    within_range,
    zero_status,
)

Array = Any


def begin_fused(stack: Array, fused: Fused) -> Callable[[], Output] | None:
    """Do the first half of `solve_fused`, and return the function that does the second; None: it is all one piece."""
    if not in_halves(stack, fused):
        return None
    begun = first_half(stack, fused.job.problem.rational, fused.rule)

    def rest() -> Output:
        out = Output.room(len(stack), fused.n, fused.job)
        solve_fused(stack, fused, out, begun)
        return out

    return None if begun is None else rest


def in_halves(stack: Array, fused: Fused) -> bool:
    """Return True if the solve of a stack has two halves, of which the first is the reduction."""
    job = fused.job
    return job.problem.rtol is None and isinstance(job.method, Tridiagonal) and not job.method.in_lanes(stack)


def solve_kept(stack: Array, fused: Fused, out: Output) -> Array | None:
    """Do `solve_fused`, and return the tridiagonal forms that `derivatives` takes; None if it would not use them."""
    job, begun, n = fused.job, None, fused.n
    halves = in_halves(stack, fused)
    if not serves(job.problem.s, job.rule, stack, stack) or not (halves or keeps_lanes(stack, job.method)):
        solve_fused(stack, fused, out)
        return None
    kept = room_of(len(stack), n) if halves else np.empty((len(stack), form_numbers(n)))
    if halves:
        begun = first_half(stack, job.problem.rational, fused.rule, kept)
    solve_fused(stack, fused, out, begun, None if halves else kept)
    return None if halves and begun is None else kept


def keeps_lanes(stack: Array, method: Method) -> bool:
    """Return True if lanes solve a stack and leave tridiagonal forms that save a derivative more than they cost."""
    found = isinstance(method, Tridiagonal) and stack.shape[-1] > WIDENED and method.in_lanes(stack)
    return found and kernel() is not None


def solve_fused(
    stack: Array, fused: Fused, out: Output, begun: list[Reduced] | None = None, kept: Array | None = None
) -> None:
    """Solve the stack (B, n, n) and fill `out`; matrices that the kernels do not serve go to `Eigen`."""
    job, s = fused.job, fused.job.problem.rational
    half = job.origin.dtype_name in HALVES
    if half:  # numpy computes with float16 number by number
        stack = stack.astype(job.out_dtype, copy=False)
    lanes = begun is None and isinstance(job.method, Tridiagonal) and job.method.in_lanes(stack)
    rtol, noise = job.problem.rtol, fused.noise
    options: dict[str, Any] = {"rtol": rtol, "wide": job.fixed, "begun": begun, "noise": noise, "kept": kept}
    report = roots(stack, out.x, s, fused.rule, lanes=lanes, **options)
    note_single(report, out)
    if fused.noise:
        solve_semidefinite(stack, report, fused, out.x)
    if half:
        if isinstance(report, CutReport):
            report.served[report.changed > 0] = CUT
        round_halves(stack, report, fused, out)
        finish(stack, report, fused, out)
    elif len(stack) == 1 and not isinstance(report, CutReport) and fused.sure(*(float(fact[0]) for fact in report)):
        take_facts(report, fused, out)
    else:
        finish(stack, report, fused, out)


def round_halves(stack: Array, report: Report | CutReport, fused: Fused, out: Output) -> None:
    """Round the roots to the half precision of the input, and amend the report: the certificate is that of these."""
    job, eye = fused.job, np.eye(fused.n)
    out.x = round_to(out.x, job.origin.dtype_name)
    A = stack.astype(job.dtype)
    uneven = report.asymmetry > 0
    if uneven.any():
        A[uneven] = hermitian_part(A[uneven])
    size = np.fmax(abs(A).max((-1, -2), initial=0), report.ridge)
    exponent = np.frexp(np.where(np.isfinite(size), size, 1))[1]
    with np.errstate(over="ignore", invalid="ignore"):
        A += report.ridge[:, None, None] * eye
        X, s = out.x.astype(job.dtype), job.problem.s
        shift_by_power_of_two(A, -exponent, job.backend)  # their powers may leave the range of float64
        scale_root(X, exponent, -s, job.backend)
        other = factor(A, s, None, "pos", job.backend)
        residual, _ = conditioning.residual(A, X, s, job.backend, factor=other, whole_up_to=PROBES)
    report.served[(report.served == SERVED) & ~np.isfinite(residual)] = 0
    report.residual[...] = residual


def take_facts(report: Report | CutReport, fused: Fused, out: Output) -> None:
    """Fill `out` with the facts of a report."""
    out.asymmetry, out.residual, out.lambda_min, out.lambda_max, out.ridge, out.cond = np.array(report[1:7])
    out.n_products, out.certificate = PRODUCTS, "full" if fused.n <= PROBES else "probes"
    method, s = fused.job.method, fused.job.problem.rational
    if s > 1 and isinstance(method, Tridiagonal) and not method.in_lanes(out.x):
        out.n_products += further_products(s)


def finish(stack: Array, report: Report | CutReport, fused: Fused, out: Output) -> None:
    """Fill `out` with what follows from a report: statuses, and what the kernels have not served."""
    job, n, rule = fused.job, fused.n, fused.job.rule
    s = job.problem.rational
    excess: Array | float = 1.0
    take_facts(report, fused, out)
    half = job.origin.dtype_name in HALVES
    if fused.rule.cuts and not half:  # a half is certified as it is rounded, by the eigenvectors that `Eigen` has
        excess = solve_cut(stack, report, fused, out)
    elif rule is not None and not fused.rule.cuts:
        excess = excess_of(out.lambda_max, out.lambda_min, out.ridge, None, s)
    hard = report.served != SERVED
    nothing = zeros(stack, report, fused) if hard.any() else hard & False
    if nothing.any():
        report.asymmetry[nothing] = 0
        hard &= ~nothing
    if fused.inverse and (rule is None or (isinstance(rule, Ridge) and not rule.retries)):
        rootless = (report.served == NEGATIVE) & (report.lambda_max != 0)
        if rootless.any():
            hard &= ~rootless
            no_root(rootless, out)
    out.asymmetry = np.where(hard, 0, report.asymmetry)
    if job.lone:
        refuse_asymmetric(float(out.asymmetry.max()), stack.dtype.kind == "c", job.origin)

    cond, more = (out.cond * excess, 1.0) if fused.inverse else (out.cond, excess)  # the ridge is added to T
    octave = np.frexp(cond)[1]
    units = faintness(abs(stack).max((-1, -2), initial=0), job) if half else 1.0
    fine = (out.residual <= fused.allowed.take(octave, mode="clip")) & (more == 1) & (units == 1)
    allowed = fine.all()
    if not allowed:
        out.status = judge(out.status, out.residual, cond, n, job, more, units)
        if rule is not None and not fused.rule.cuts:
            lost = cancelled(out.lambda_max, out.lambda_min, out.ridge, job, n)
            out.status = spent(out.status, lost, out.residual, job.problem)
    faint = out.lambda_min > fused.faint if fused.inverse else out.lambda_max + out.ridge < fused.faint
    uneven = out.asymmetry * more > fused.even.take(octave, mode="clip")
    if allowed and not (hard.any() or nothing.any() or faint.any() or uneven.any()):
        return  # as `Fused.sure`
    if faint.any():
        out.status = within_range(out.status, abs(out.x).max((-1, -2)), ~hard, job)
    if uneven.any():
        out.status = doubtful(out.status, out.asymmetry * more, cond, job)
        uneven = out.asymmetry > asymmetry_bar(job.origin)
        out.status[uneven] = Status.NOT_SYMMETRIC
        for values in (out.x, out.residual, out.cond, out.lambda_min, out.lambda_max):
            values[uneven] = np.nan
    out.status = singular(out.status, out.cond, out.lambda_min, out.lambda_max, out.asymmetry, job, n)
    lost = out.status == Status.SINGULAR
    gone = lost | (out.status == Status.DIVERGED)
    if gone.any():
        out.x[gone] = out.residual[gone] = np.nan
    if isinstance(rule, Ridge) and rule.retries:
        hard |= (out.status == Status.ILL_CONDITIONED) | gone
    if nothing.any():
        hard &= ~nothing
        settle_zeros(nothing, fused, out)
    if hard.any():
        rows = np.flatnonzero(hard)
        other = replace(job, method=Eigen())
        found = Output.room(len(rows), n, other)
        with one_blas_thread():
            solve_chunk(stack[rows], slice(0, len(rows)), other, found)
        found.certificate = out.certificate
        out.write(rows, found)


def zeros(stack: Array, report: Report | CutReport, fused: Fused) -> Array:
    """Return True (B,) for matrices that are 0, and stay 0 under the rule."""
    found = (report.served != SERVED) & (report.lambda_max == 0)
    if fused.rule.absolute and not fused.rule.drops:
        return found & False
    found[found] = ~stack[found].any((-1, -2))
    return found


def settle_zeros(at: Array, fused: Fused, out: Output) -> None:
    """Fill `out` where the matrix is 0: its root is 0, and if a rule drops eigenvalues, its inverse root too."""
    drops = fused.rule.drops
    out.status[at] = Status.CONVERGED if drops else zero_status(fused.job.problem)
    out.x[at] = out.residual[at] = np.nan if fused.inverse and not drops else 0
    out.cond[at] = 1 if drops else np.inf
    out.lambda_min[at] = out.lambda_max[at] = out.ridge[at] = 0
    if out.changed is not None:
        out.changed[at] = fused.n if drops else 0


def no_root(at: Array, out: Output) -> None:
    """Fill `out` where an inverse root is wanted and the smallest eigenvalue is known and not positive."""
    out.status[at] = Status.NOT_POSITIVE
    out.x[at] = out.residual[at] = np.nan
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cond = np.maximum(abs((out.lambda_max + out.ridge)[at] / out.lambda_min[at]), 1)
    out.cond[at] = np.where(np.isnan(cond), np.inf, cond)


def note_single(report: Report | CutReport, out: Output) -> None:
    """Set the dtype of the result to the lower precision if it was used; then those matrices are served like others."""
    single = report.served == IN_SINGLE
    if single.any():
        report.served[single] = SERVED
        out.dtype = np.dtype(np.complex64 if out.dtype.kind == "c" else np.float32)


def solve_semidefinite(stack: Array, report: Report | CutReport, fused: Fused, X: Array) -> None:
    """Solve the matrices that lanes have left because they may be singular, for a power s > 0; amend X and the report.

    X is rounded to the precision of the result before it is certified.
    """
    s, n = fused.job.problem.rational, fused.n
    left = report.served != SERVED
    if not left.any():
        return
    with np.errstate(invalid="ignore"):
        tiny = report.lambda_min <= n * ROUNDING * report.lambda_max
    rows = np.flatnonzero(left & (report.lambda_max > 0) & tiny)
    if not len(rows):
        return
    x = np.empty((len(rows), n, n), fused.job.out_dtype)
    found: Report | CutReport
    if cuts_in_lanes(s, 2 * n if stack.dtype.kind == "c" else n):
        found = cut_roots(stack[rows], x, s, fused.rule, fused.noise)
    else:
        found = roots(stack[rows], x, s, lanes=False, wide=True, noise=fused.noise)
    X[rows] = x
    for values, others in zip(report, found, strict=False):
        values[rows] = others


def solve_cut(stack: Array, report: Report | CutReport, fused: Fused, out: Output) -> Array:
    """Solve the matrices that lanes have left because the rule may cut them; return the excess of all (`excess_of`)."""
    s, excess = fused.job.problem.rational, np.ones(len(stack))
    if isinstance(report, CutReport):
        if out.changed is not None:
            out.changed[...] = report.changed
        return report.excess
    rows = np.flatnonzero(report.served == CUT)
    n = 2 * fused.n if stack.dtype.kind == "c" else fused.n
    if not (len(rows) and serves_cuts(s)):
        return excess
    x = np.empty((len(rows), *out.x.shape[1:]), out.x.dtype)
    if cuts_in_lanes(s, n):
        found = cut_roots(stack[rows], x, s, fused.rule)
    else:
        job = fused.job
        by_lapack = roots(stack[rows], x, s, fused.rule, lanes=False, rtol=job.problem.rtol, wide=job.fixed)
        note_single(by_lapack, out)
        if not isinstance(by_lapack, CutReport):
            return excess
        found = by_lapack
    out.x[rows] = x
    report.served[rows], excess[rows] = found.served, found.excess
    if out.changed is not None:
        out.changed[rows] = found.changed
    out.residual[rows], out.lambda_min[rows], out.cond[rows] = found.residual, found.lambda_min, found.cond
    return excess
