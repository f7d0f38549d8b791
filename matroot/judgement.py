"""What is known of a solve: cond, extreme eigenvalues, and the status that follows."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from matroot import conditioning
from matroot.job import Job
from matroot.methods.base import Problem, Raw
from matroot.result import USABLE, Status

Array = Any

#: A root whose forward error may exceed this (fewer than two digits certain) is ILL_CONDITIONED.
ILL_FORWARD_ERROR = 1e-2
#: Residuals of nearly all roots are below MARGIN times what rounding explains; those of coupled iterations at large
#: cond can be RARE times that.
MARGIN, RARE = 50, 20
#: Forward errors of all methods are below so many times the first-order bound.
VOUCHED = 4


def facts_of(
    A: Array,
    X: Array,
    raw: Raw,
    delta: Array,
    largest: Array | None,
    status: Array,
    problem: Problem,
    engine: Any,
) -> dict[str, Array]:
    """cond, lambda_max (of A) and lambda_min (of A'), measured or estimated; settles NOT_POSITIVE in `status`.

    An inverse root tells the smallest eigenvalue: lambda_min(A') = lambda_max(X)^{1/s}.
    """
    if raw.cond is not None and raw.lambda_max is not None and raw.lambda_min is not None:
        ridge = 0 if raw.ridge is not None else delta  # a ridge that the method did not add itself
        return {"cond": raw.cond, "lambda_max": raw.lambda_max - ridge, "lambda_min": raw.lambda_min}
    if problem.assume_a == "gen":
        norm = conditioning.norm2(A, engine)
        cond = np.full(len(A), np.nan) if raw.cond is None else raw.cond
        return {"cond": cond, "lambda_max": norm - delta, "lambda_min": norm / cond}
    top = conditioning.largest_eigenvalue(A, engine) if largest is None else largest + delta
    failed = ~np.isin(status, [*USABLE])
    with np.errstate(all="ignore"):
        if problem.inverse:
            lambda_min = conditioning.largest_eigenvalue(X, engine) ** (1 / float(problem.s))
        else:
            lambda_min = 1 / conditioning.largest_eigenvalue(_inverses(A), engine)
            lambda_min[np.isnan(lambda_min)] = 0
    if failed.any():  # a failure is looked into: is it the matrix, or the iteration?
        w = engine.eigvalsh(A[failed])
        lambda_min[failed], top[failed] = w[:, 0], w[:, -1]
        status[np.flatnonzero(failed)[w[:, 0] <= 0]] = Status.NOT_POSITIVE
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        cond = np.maximum(abs(top / lambda_min), 1)
    return {
        "cond": np.where(np.isnan(cond), np.inf, cond),
        "lambda_max": top - delta,
        "lambda_min": lambda_min,
    }


def _inverses(A: Array) -> Array:
    """The inverse of each matrix of a stack, infinite where there is none."""
    try:
        return np.asarray(np.linalg.inv(A))
    except np.linalg.LinAlgError:
        if len(A) == 1:
            return np.full_like(A, np.inf)
        return np.concatenate([_inverses(A[i : i + 1]) for i in range(len(A))])


def allowed_error(rtol: float | None) -> float:
    """What the first-order bound of the forward error may be for CONVERGED."""
    return ILL_FORWARD_ERROR if rtol is None else rtol / VOUCHED


def judge(status: Array, residual: Array, cond: Array, n: int, job: Job) -> Array:
    """ILL_CONDITIONED where the arithmetic cannot vouch for rtol, or two digits; or the certificate contradicts it."""
    problem = job.problem
    rtol = problem.rtol or 0.0
    with np.errstate(all="ignore"):
        bound = conditioning.forward_error_bound(cond, problem.s, job.eps)
        explained = explained_residual(cond, problem.s, n, job.eps + job.out_eps, rtol)
        if job.engine.rounding:  # some 20 units at any cond: not the bound, but the residual tells what they came to
            explained = np.minimum(explained, degree_of(problem.s) * rtol / VOUCHED)
    ill = ~(bound <= allowed_error(problem.rtol)) | ~(residual <= explained)
    return np.where((status == int(Status.CONVERGED)) & ill, int(Status.ILL_CONDITIONED), status).astype(np.int8)


def explained_residual(cond: Array, s: Fraction | float, n: int, eps: float, rtol: float) -> Array:
    """The largest residual that a root as good as its arithmetic may have, with a margin for every method.

    A product rounds like sqrt(n) eps in the 2-norm. Where the residual is of X^b A^a = I, that is multiplied by
    cond^max(1, a/b), b times over; where it is of X^b = A^a, it is at most the forward error, times the degree.
    (That of an iteration for s > 1 can be eps cond^(1/2).)
    """
    degree = degree_of(s)
    eps *= max(1.0, n**0.5 / 4)
    if s > 0 and isinstance(s, Fraction):
        relative = conditioning.forward_error_bound(cond, s, eps) + eps * (cond**0.5 if s > 1 else 1.0)
    else:
        relative = eps * cond ** max(1.0, abs(float(s)))
    with np.errstate(over="ignore"):  # beyond the range, anything is explained, and cond alone decides
        usual = np.expm1(degree * np.log1p(MARGIN * (relative + rtol)))
    return np.maximum(usual, np.minimum(RARE * usual, ILL_FORWARD_ERROR))


def degree_of(s: Fraction | float) -> int:
    """p of an exponent a/p."""
    return s.denominator if isinstance(s, Fraction) else 1


def zero_status(problem: Problem) -> int:
    """The status of a zero matrix: a root has it, no inverse root has."""
    if problem.s > 0:
        return int(Status.CONVERGED)
    return int(Status.NO_PRINCIPAL_ROOT if problem.assume_a == "gen" else Status.NOT_POSITIVE)
