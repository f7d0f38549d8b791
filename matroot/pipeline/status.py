"""What is known of a solve: cond, extreme eigenvalues, and the status that follows."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import (
    ILL_FORWARD_ERROR,
    ILL_INPUT_ERROR,
    INPUT_UNITS,
    VOUCHED,
    allowed_error,
    forward_error_bound,
    least_rtol,
)
from matroot._result import USABLE, Status
from matroot.backends.arrays import is_inexact, smallest_normal
from matroot.backends.base import Backend
from matroot.methods import conditioning
from matroot.methods.base import Changed, Problem, Raw
from matroot.methods.eigen import Eigen
from matroot.pipeline.call import Job

Array = Any

#: Residuals of nearly all roots are below MARGIN times what rounding explains; those of coupled iterations at large
#: cond can be RARE times that.
MARGIN, RARE = 50, 20


def facts_of(
    A: Array,
    X: Array,
    raw: Raw,
    delta: Array,
    largest: Array | None,
    status: Array,
    problem: Problem,
    backend: Backend,
) -> dict[str, Array]:
    """cond, lambda_max (of A) and lambda_min (of A'), measured or estimated; settles NOT_POSITIVE in `status`.

    An inverse root tells the smallest eigenvalue: lambda_min(A') = lambda_max(X)^{1/s}.
    """
    if raw.cond is not None and raw.lambda_max is not None and raw.lambda_min is not None:
        ridge = 0 if raw.ridge is not None else delta  # a ridge that the method did not add itself
        return {"cond": raw.cond, "lambda_max": raw.lambda_max - ridge, "lambda_min": raw.lambda_min}
    if problem.assume_a == "gen":
        norm = conditioning.norm2(A, backend)
        cond = np.full(len(A), np.nan) if raw.cond is None else raw.cond
        return {"cond": cond, "lambda_max": norm - delta, "lambda_min": norm / cond}
    top = conditioning.largest_eigenvalue(A, backend) if largest is None else largest + delta
    failed = ~np.isin(status, [*USABLE])
    with np.errstate(all="ignore"):
        if problem.inverse:
            lambda_min = conditioning.largest_eigenvalue(X, backend) ** (1 / float(problem.s))
        else:
            lambda_min = 1 / conditioning.norm2(inverses(A), backend)  # rounding may have made it negative
            lambda_min[np.isnan(lambda_min)] = 0
    if failed.any():  # a failure is looked into: is it the matrix, or the iteration?
        w = backend.eigvalsh(A[failed])
        lambda_min[failed], top[failed] = w[:, 0], w[:, -1]
        outside = w[:, 0] <= 0 if problem.inverse else w[:, 0] < -problem.rounding(A) * w[:, -1]
        status[np.flatnonzero(failed)[outside]] = Status.NOT_POSITIVE
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cond = np.maximum(abs(top / lambda_min), 1)
    return {
        "cond": np.where(np.isnan(cond), np.inf, cond),
        "lambda_max": top - delta,
        "lambda_min": lambda_min,
    }


def inverses(A: Array) -> Array:
    """The inverse of each matrix of a stack, infinite where there is none."""
    try:
        return np.asarray(np.linalg.inv(A))
    except np.linalg.LinAlgError:
        if len(A) == 1:
            return np.full_like(A, np.inf)
        return np.concatenate([inverses(A[i : i + 1]) for i in range(len(A))])


def excess_of(
    lambda_max: Array, lambda_min: Array, delta: Array, changed: Changed | None, s: Fraction | float
) -> Array:
    """How many times as much as `cond` says rounding of A comes to in A'^s after a rule, at least 1.

    A rule may leave little of a negative A: ||A|| / ||A'||. And a power jumps from 0 to lambda^s between what is
    dropped and what is kept, which is conditioned as lambda over their gap, whatever s.

    `lambda_max` is that of A, `lambda_min` that of A' = A + delta I, unless single eigenvalues are `changed`.
    """
    top = lambda_max + delta if changed is None else changed.kept[:, -1]
    low = lambda_min - delta if changed is None else changed.kept[:, 0] - changed.delta[:, 0]
    with np.errstate(all="ignore"):
        ratio = np.where(top > 0, abs(low) / np.where(top > 0, top, 1), 1)
        if changed is not None:
            dropped, w = changed.dropped, changed.kept - changed.delta
            least = np.where(dropped, np.inf, w).min(-1)
            gap = least - np.where(dropped, w, -np.inf).max(-1)
            jump = least / (gap * (abs(float(s)) or 1.0))
            ratio = np.where(dropped.any(-1) & ~dropped.all(-1), np.maximum(ratio, jump), ratio)
    return np.where(ratio > 1, ratio, 1.0)


def judge(status: Array, residual: Array, cond: Array, n: int, job: Job, excess: Array | float = 1.0) -> Array:
    """ILL_CONDITIONED where rtol, or two digits, cannot be vouched for; or the certificate contradicts it.

    A was rounded before the rule, and if the method decomposed it, by the arithmetic as well: `excess` times as much.
    """
    decomposed = cond * excess if isinstance(job.method, Eigen) else cond
    ill = ~certified(residual, decomposed, n, job) | input_lost(cond * excess, job)
    return np.where((status == int(Status.CONVERGED)) & ill, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def certified(residual: Array, cond: Array, n: int, job: Job) -> Array:
    """Where arithmetic and residual vouch for rtol, or two digits, of the root of the matrix as given."""
    problem = job.problem
    with np.errstate(all="ignore"):
        explained = explained_residual(cond, problem.s, n, job.eps + job.out_eps, problem.rtol or 0.0)
        if job.backend.rounding:  # some 20 units at any cond: not the bound, but the residual tells what they came to
            explained = np.minimum(explained, degree_of(problem.s) * (problem.rtol or 0.0) / VOUCHED)
        explained = np.minimum(explained, tolerated_residual(problem.s, problem.rtol))
    return vouched(cond, n, job) & (residual <= explained)


def vouched(cond: Array, n: int, job: Job) -> Array:
    """Where the arithmetic is enough for rtol, or two digits, and for telling the smallest eigenvalue from 0."""
    rtol = job.problem.rtol
    with np.errstate(all="ignore"):
        enough = forward_error_bound(cond, job.problem.s, job.eps) <= allowed_error(rtol)
    machine = float(np.finfo(job.dtype).eps)  # of what is kept; products on tensor cores round to less
    if rtol is not None and rtol < least_rtol(machine / 2, job.out_eps, n):
        enough = enough & False
    return enough & (cond * n * machine < 1) if may_be_singular(job, n * machine) else enough


def input_lost(cond: Array, job: Job) -> Array:
    """Where the rounding of the input, in the dtype it came in, leaves under two digits of the root."""
    with np.errstate(all="ignore"):
        lost = ~(forward_error_bound(cond, job.problem.s, job.out_eps) <= ILL_INPUT_ERROR)
    return lost | ~(cond * INPUT_UNITS * job.out_eps < 1) if may_be_singular(job) else lost


def may_be_singular(job: Job, rounding: float = 0.0) -> bool:
    """Whether an eigenvalue may be nothing but rounding, so that an inverse root of any degree is worth nothing.

    Not where a regularization promises that none is, and more than the `rounding` of the arithmetic, in which it may
    take noise for more than it promises. For general matrices, the Schur form has its own measure.
    """
    floor = 0.0 if job.rule is None else job.rule.floor()
    return job.problem.inverse and job.problem.assume_a == "pos" and floor <= rounding


def within_range(status: Array, size: Array, present: Array, job: Job) -> Array:
    """The status where the largest entry of the root, `size` (B,), leaves the normal range of the caller's dtype.

    DIVERGED where it is infinite, or 0 though the root is not (`present`); ILL_CONDITIONED where it is subnormal.
    """
    name = job.origin.dtype_name
    tiny = smallest_normal(name if is_inexact(name) else job.out_dtype.name)
    usable = (status == int(Status.CONVERGED)) | (status == int(Status.ILL_CONDITIONED))
    faint = usable & (size > 0) & (size < tiny)
    gone = usable & (~np.isfinite(size) | (present & (size == 0)))
    status = np.where(faint, int(Status.ILL_CONDITIONED), status)
    return np.where(gone, int(Status.DIVERGED), status).astype(np.int8)


def explained_residual(cond: Array, s: Fraction | float, n: int, eps: float, rtol: float) -> Array:
    """The largest residual that a root as good as its arithmetic may have, with a margin for every method; below 1.

    A product rounds like sqrt(n) eps in the 2-norm. Where the residual is of X^b A = I, that is multiplied by cond, b
    times over; else the residual is the relative error, times the degree (of an iteration for s > 1, that can be eps
    cond^(1/2)). An error of rtol shows as it is. A residual of 1 is that of X = 0.
    """
    degree = degree_of(s)
    eps *= max(1.0, n**0.5 / 4)
    if s > 0:
        relative = forward_error_bound(cond, s, eps) + eps * (cond**0.5 if s > 1 else 1.0)
    else:
        relative = eps * cond * max(1.0, abs(float(s)))
    with np.errstate(over="ignore"):
        usual = np.expm1(degree * np.log1p(MARGIN * relative + rtol))
        return np.minimum(np.maximum(usual, np.minimum(RARE * usual, ILL_FORWARD_ERROR)), 1.0)


def tolerated_residual(s: Fraction | float, rtol: float | None) -> float:
    """What contradicts CONVERGED, whatever explains it: of a power that is compared with itself, twice its error.

    No bound for s = -1/p, of which X^p A - I is multiplied by cond.
    """
    if isinstance(s, Fraction) and s.numerator == -1:
        return math.inf
    growth = degree_of(s) * math.log1p(2 * (ILL_FORWARD_ERROR if rtol is None else rtol))
    return math.expm1(growth) if growth < 1 else math.inf  # no more than X = 0 has is ever explained


def degree_of(s: Fraction | float) -> int:
    """p of an exponent a/p."""
    return s.denominator if isinstance(s, Fraction) else 1


def zero_status(problem: Problem) -> int:
    """The status of a zero matrix: a root has it, no inverse root has."""
    if problem.s > 0:
        return int(Status.CONVERGED)
    return int(Status.NO_PRINCIPAL_ROOT if problem.assume_a == "gen" else Status.NOT_POSITIVE)
