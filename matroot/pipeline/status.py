"""The status of a solve."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from matroot._bars import (
    ILL_FORWARD_ERROR,
    ILL_INPUT_ERROR,
    INPUT_UNITS,
    VOUCHED,
    allowed_error,
    decomposed_share,
    forward_error_bound,
    least_rtol,
    noise_share,
)
from matroot._regularization import Ridge
from matroot._status import Status
from matroot.backends.arrays import HALVES, is_inexact, smallest_normal
from matroot.methods.base import Array, Changed, Problem, Raw
from matroot.pipeline.call import Job

#: Residuals of nearly all roots are below MARGIN times the first-order effect of rounding. For coupled iterations at
#: large cond they can be RARE times larger.
MARGIN, RARE = 50, 20
#: Methods that round A before the rule is applied; the others are given A'.
DECOMPOSE = ("eigen", "tridiagonal")


def excess_of(
    lambda_max: Array, lambda_min: Array, delta: Array, changed: Changed | None, s: Fraction | float
) -> Array:
    """Return the factor, at least 1, by which rounding of A is a larger relative error of A' after a rule.

    A rule may cancel most of a negative A: the factor is ||A|| / ||A'||. If a rule drops eigenvalues, the power jumps
    from 0 to lambda^s between dropped and kept eigenvalues: its condition is lambda over their gap for every s.

    `lambda_max` is that of A, `lambda_min` that of A' = A + delta I, unless single eigenvalues are `changed`.
    """
    top = lambda_max + delta if changed is None else changed.kept[:, -1]
    low = lambda_min - delta if changed is None else changed.kept[:, 0] - changed.delta[:, 0]
    with np.errstate(all="ignore"):
        ratio = np.where(top > 0, abs(low) / np.where(top > 0, top, 1), 1)  # where nothing is left: `cancelled`
        if changed is not None:
            dropped, w = changed.dropped, changed.kept - changed.delta
            least = np.where(dropped, np.inf, w).min(-1)
            gap = least - np.where(dropped, w, -np.inf).max(-1)
            jump = least / (gap * (abs(float(s)) or 1.0))
            ratio = np.where(dropped.any(-1) & ~dropped.all(-1), np.maximum(ratio, jump), ratio)
    return np.where(ratio > 1, ratio, 1.0)


def faintness(size: Array, job: Job) -> Array | float:
    """Return the factor by which rounding the input errs more where its entries lie below the normal range.

    Subnormal numbers have a fixed spacing, and the fewer digits the smaller they are. This is counted for half
    precisions only: float16 ends at 6e-5, which data reach, while a float32 of 1e-44 has been written down as it is.
    """
    name = job.origin.dtype_name
    if name not in HALVES:
        return 1.0
    return np.maximum(1, smallest_normal(name) / np.where(size > 0, size, 1))


def judge(
    status: Array,
    residual: Array,
    cond: Array,
    n: int,
    job: Job,
    excess: Array | float = 1.0,
    units: Array | float = 1.0,
) -> Array:
    """Set ILL_CONDITIONED where rtol, or two digits, is not guaranteed, or where the residual is too large.

    A was rounded before the rule was applied; a method that decomposes A rounds it again in the arithmetic. Both errors
    grow by the factor `excess`; `units` is the factor of `faintness`.
    """
    ill = ~certified(residual, cond, n, job, excess if job.method.name in DECOMPOSE else 1.0)
    ill |= input_lost(cond, job, units * excess)
    return np.where((status == int(Status.CONVERGED)) & ill, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def certified(residual: Array, cond: Array, n: int, job: Job, excess: Array | float = 1.0) -> Array:
    """Return True where arithmetic and residual guarantee rtol, or two digits, for the matrix as given."""
    problem = job.problem
    with np.errstate(all="ignore"):
        explained = explained_residual(cond, problem.s, n, (job.eps + job.out_eps) * excess, problem.rtol or 0.0)
        if job.backend.rounding:  # at any cond some 20 units: the residual shows their effect, the bound does not
            explained = np.minimum(explained, degree_of(problem.s) * (problem.rtol or 0.0) / VOUCHED)
        explained = np.minimum(explained, tolerated_residual(problem.s, problem.rtol))
    return vouched(cond, n, job, excess) & (residual <= explained)


def vouched(cond: Array, n: int, job: Job, excess: Array | float = 1.0) -> Array:
    """Return True where the arithmetic guarantees rtol, or two digits, and separates the smallest eigenvalue from 0.

    Its errors are relative to A', and `excess` times larger.
    """
    rtol = job.problem.rtol
    machine = float(np.finfo(job.dtype).eps)  # of stored matrices; products on tensor cores are coarser
    with np.errstate(all="ignore"):
        error = forward_error_bound(cond, job.problem.s, job.eps * excess, decomposed_share(n, machine * excess))
        enough = error <= allowed_error(rtol)
        if may_be_singular(job, n * machine):
            enough = enough & (cond * excess * n * machine < 1)
    return enough & False if rtol is not None and rtol < least_rtol(machine / 2, job.out_eps, n) else enough


def input_lost(cond: Array, job: Job, units: Array | float = 1.0) -> Array:
    """Return True where rounding the input to its dtype, `units` times, leaves fewer than two digits of the root."""
    eps = job.out_eps * units
    with np.errstate(all="ignore"):
        lost = ~(forward_error_bound(cond, job.problem.s, eps) <= ILL_INPUT_ERROR)
        return lost | ~(cond * INPUT_UNITS * eps < 1) if may_be_singular(job) else lost


def doubtful(status: Array, gap: Array, cond: Array, job: Job) -> Array:
    """Set ILL_CONDITIONED where the relative asymmetry `gap` of the input leaves fewer than two digits of the root."""
    with np.errstate(all="ignore"):
        lost = (gap > 0) & ~(forward_error_bound(cond, job.problem.s, gap) <= ILL_INPUT_ERROR)
    return np.where((status == int(Status.CONVERGED)) & lost, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def taken_for_zero(status: Array, raw: Raw, n: int, job: Job) -> Array:
    """Set ILL_CONDITIONED where a method took small eigenvalues for 0, and their powers may exceed rtol."""
    if raw.rank is None or raw.jump is None or job.problem.rtol is None:
        return status
    beyond = (status == int(Status.CONVERGED)) & (raw.rank < n) & ~(raw.jump <= job.problem.rtol)
    return np.where(beyond, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def singular(status: Array, cond: Array, low: Array, top: Array, gap: Array, job: Job, n: int) -> Array:
    """Set SINGULAR where an inverse root is wanted and the smallest eigenvalue is rounding, whatever its sign.

    `gap` is the relative asymmetry of the input. A negative eigenvalue counts as rounding up to n epsilons, those of
    sums; a positive one only up to `noise_share`, because it may be meant, unless it has stopped the iteration.
    """
    machine = float(np.finfo(job.dtype).eps)
    if not may_be_singular(job, n * machine) or not isinstance(job.rule, Ridge | None):
        return status  # the other rules look for such eigenvalues
    share = noise_share(n, machine, job.out_eps if may_be_singular(job) else 0.0)
    wide = n * (max(machine, 2 * job.out_eps) + gap / 2)
    with np.errstate(all="ignore"):
        negative = (status == int(Status.NOT_POSITIVE)) & (abs(low) <= wide * top)
        near = (status < int(Status.NOT_POSITIVE)) & ~(cond * share < 1)
        failed = (status == int(Status.STAGNATED)) | (status == int(Status.DIVERGED))
        failed |= status == int(Status.NO_PRINCIPAL_ROOT)  # Schur-Newton's word for it
        near |= failed & ~(cond * n * machine < 1)
    return np.where(negative | near, int(Status.SINGULAR), status).astype(np.int8)


def cancelled(highest: Array, lowest: Array, delta: Array, job: Job, n: int) -> Array:
    """Return True where a shift by `delta` leaves of A only what rounding makes of 0, or an inverse root is that of 0.

    Such a matrix has no digits to take a power of, whatever the signs of its eigenvalues.
    """
    nothing = job.problem.inverse and not (job.rule is not None and job.rule.keeps_null_space)
    arithmetic = float(np.finfo(job.dtype).eps) if job.method.name in DECOMPOSE else 2.0**-52
    share = n * max(arithmetic, 2 * job.out_eps)
    with np.errstate(all="ignore"):
        left = np.fmax(abs(highest + delta), abs(lowest))
        return ((delta > 0) & (left <= share * delta)) | ((left == 0) & nothing)


def spent(status: Array, lost: Array, residual: Array, problem: Problem) -> Array:
    """Set the status of matrices of which a rule has left nothing: no inverse root, or a power of 0 without digits."""
    if problem.inverse:
        return np.where(lost, zero_status(problem), status).astype(np.int8)
    lost = lost & (residual <= 1)  # X = 0 has 1, or 0 if A' is 0, too
    return np.where(lost, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def may_be_singular(job: Job, rounding: float = 0.0) -> bool:
    """Return True if the smallest eigenvalue may be pure rounding error, which invalidates every inverse root.

    It cannot if a regularization bounds the smallest eigenvalue from below by more than `rounding`. A smaller bound
    does not count, since the rule computes with that error. General matrices are tested by their Schur form instead.
    """
    floor = 0.0 if job.rule is None else job.rule.floor()
    return job.problem.inverse and job.problem.assume_a == "pos" and floor <= rounding


def within_range(status: Array, size: Array, present: Array, job: Job) -> Array:
    """Update the status where the largest entry of the root, `size` (B,), is outside the caller's normal range.

    The status is DIVERGED where `size` is infinite, or 0 although the root is not (`present`), and ILL_CONDITIONED
    where `size` is subnormal.
    """
    name = job.origin.dtype_name
    tiny = smallest_normal(name if is_inexact(name) else job.out_dtype.name)
    usable = (status == int(Status.CONVERGED)) | (status == int(Status.ILL_CONDITIONED))
    faint = usable & (size > 0) & (size < tiny)
    gone = usable & (~np.isfinite(size) | (present & (size == 0)))
    status = np.where(faint, int(Status.ILL_CONDITIONED), status)
    return np.where(gone, int(Status.DIVERGED), status).astype(np.int8)


def explained_residual(cond: Array, s: Fraction | float, n: int, eps: Array | float, rtol: float) -> Array:
    """Return the largest residual that rounding and rtol explain, with a margin for every method; at most 1.

    A product has a rounding error of about sqrt(n) eps in the 2-norm. For s < 0 the residual is that of X^b A = I and
    this error is multiplied by b cond. For s > 0 the residual is b times the relative error (eps cond^(1/2) for an
    iteration with s > 1). An error of rtol enters without amplification. The residual of X = 0 is 1.
    """
    degree = degree_of(s)
    eps = eps * max(1.0, n**0.5 / 4)
    if s > 0:
        relative = forward_error_bound(cond, s, eps) + eps * (cond**0.5 if s > 1 else 1.0)
    else:
        relative = eps * cond * max(1.0, abs(float(s)))
    with np.errstate(over="ignore"):
        usual = np.expm1(degree * np.log1p(MARGIN * relative + rtol))
        return np.minimum(np.maximum(usual, np.minimum(RARE * usual, ILL_FORWARD_ERROR)), 1.0)


def tolerated_residual(s: Fraction | float, rtol: float | None) -> float:
    """Return the residual above which CONVERGED is refused even if rounding explains it: twice the error allowed.

    It applies to powers that are compared with A'^(s b). For s = -1/p it is infinite, since cond multiplies X^p A - I.
    """
    if isinstance(s, Fraction) and s.numerator == -1:
        return math.inf
    growth = degree_of(s) * math.log1p(2 * (ILL_FORWARD_ERROR if rtol is None else rtol))
    return math.expm1(growth) if growth < 1 else math.inf  # X = 0 has residual 1


def degree_of(s: Fraction | float) -> int:
    """Return p of an exponent a/p."""
    return s.denominator if isinstance(s, Fraction) else 1


def zero_status(problem: Problem) -> int:
    """Return the status of a zero matrix, which has a root but no inverse root."""
    if problem.s > 0:
        return int(Status.CONVERGED)
    return int(Status.NO_PRINCIPAL_ROOT if problem.assume_a == "gen" else Status.SINGULAR)
