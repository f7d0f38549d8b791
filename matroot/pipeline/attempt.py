"""One certified solve of a chunk of matrices: scale, regularize, run the method, scale back, certify, set status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from matroot._regularization import Regularization, Ridge
from matroot._result import Status
from matroot.backends.base import Backend
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods import conditioning
from matroot.methods.eigen import Eigen
from matroot.pipeline.call import Attempt, Job, Output
from matroot.pipeline.precision import beyond_single
from matroot.pipeline.reference import factor
from matroot.pipeline.scaling import check_symmetric, prepared, scale_exponent, scale_root, to_output
from matroot.pipeline.status import excess_of, facts_of, judge, within_range, zero_status
from matroot.pipeline.status_general import judge_general

Array = Any


def solve_chunk(stack: Array, part: slice, job: Job, out: Output) -> None:
    """Solve a chunk and write it to `out`; retry failed matrices with a larger ridge if the rule has retries."""
    if job.may_widen:
        return solve_in_either(stack, part, job, out)
    first = attempt(stack, job, job.rule)
    out.write(part, first)
    rule, rows = job.rule, np.flatnonzero(unsolved(first.status))
    tries = rule.retries if isinstance(rule, Ridge) else 0
    while isinstance(rule, Ridge) and tries and len(rows):
        rule, tries = rule.raised(), tries - 1
        again = attempt(stack[rows], job, rule)
        out.write(part.start + rows, again)
        rows = rows[again.status != Status.CONVERGED]


def unsolved(status: Array) -> Array:
    """Return True for matrices that another attempt may improve."""
    return (status != Status.CONVERGED) & (status != Status.NONFINITE_INPUT)


def settled(status: Array, job: Job) -> Array:
    """Return True where NOT_POSITIVE is final: after a failed iteration, eigenvalues in float64 confirmed it."""
    retried = isinstance(job.rule, Ridge) and job.rule.retries > 0
    return (status == Status.NOT_POSITIVE) & (not isinstance(job.method, Eigen) and not retried)


def solve_in_either(stack: Array, part: slice, job: Job, out: Output) -> None:
    """Solve a chunk in float32, and repeat in float64 the matrices for which float32 does not guarantee rtol."""
    hard = beyond_single(stack, job)
    easy = np.flatnonzero(~hard)
    if len(easy):
        first = attempt(stack[easy], job, job.rule)
        out.write(part.start + easy, first)
        hard[easy] = unsolved(first.status) & ~settled(first.status, job)
    rows = np.flatnonzero(hard)
    if len(rows):
        wide = replace(job, dtype=np.dtype("complex128" if job.dtype.kind == "c" else "float64"), may_widen=False)
        found = Output(len(rows), stack.shape[-1], wide)
        solve_chunk(stack[rows], slice(0, len(rows)), wide, found)
        out.write(part.start + rows, found)
        out.dtype = wide.dtype


def attempt(stack: Array, job: Job, rule: Regularization | None) -> Attempt:
    """Solve a chunk once with the given regularization, and certify the result."""
    backend, problem = job.backend, job.problem
    xp = backend.xp
    B, n, _ = stack.shape
    wide = np.dtype("complex128" if job.dtype.kind == "c" else "float64")
    if stack.dtype.kind in "iu":  # abs() of the smallest integer overflows
        stack = stack.astype(wide)
    finite = xp.isfinite(stack).all((-1, -2))
    size = xp.where(finite, abs(stack).max((-1, -2)), 1)
    exponent = scale_exponent(size, rule)
    A = prepared(stack, finite, exponent, np.result_type(stack.dtype, job.dtype))
    uneven = problem.assume_a == "pos" and check_symmetric(A, np.ldexp(size, -exponent), job.origin)
    if uneven:
        A = hermitian_part(A)
    scale = np.ldexp(1.0, exponent)

    direct = isinstance(job.method, Eigen)
    largest, delta = None, xp.zeros(B)
    if rule is not None and not direct:
        largest, smallest = extremes(A, rule.needs, problem.assume_a, backend)
        delta = rule.shift(largest, smallest, scale)
        add_to_diagonal(A, delta)
    A = A.astype(job.dtype, copy=False)  # after the shift, which may cancel most of A
    zero = ~A.any((-1, -2)) if not direct else xp.zeros(B, bool)
    if zero.any():
        A[zero] = xp.eye(n, dtype=A.dtype)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # overflow gives a status
        raw = job.method.run(
            A,
            replace(
                problem,
                regularization=rule if direct else None,
                floor=None if rule is None else np.full(B, rule.floor()),
                scale=scale,
                out_eps=job.out_eps,
            ),
            backend,
        )
    del A
    status = xp.asarray(raw.status).astype(xp.int8)
    if raw.ridge is not None:
        delta = raw.ridge

    # Scale back to the units of the caller: the root of 2^e A' is 2^(e s) X.
    X = raw.x if problem.assume_a == "gen" or raw.hermitian else hermitian_part(raw.x)
    vanishes = problem.assume_a == "gen" or (rule is not None and rule.keeps_null_space)  # A^2 of a nilpotent A is 0
    present = X.any((-1, -2)) | ((size > 0) & (not vanishes))
    x = to_output(X, exponent, problem.s, job)
    companion = None
    if raw.companion is not None:
        opposite = raw.companion if problem.assume_a == "gen" else hermitian_part(raw.companion)
        companion = to_output(opposite, exponent, -problem.s, job)
    raw.x = raw.companion = raw.negative = X = None
    status = within_range(status, abs(x).max((-1, -2)), present, job)

    # The certificate: check the returned X in float64 against the input, which is prepared again.
    A = prepared(stack, finite, exponent, wide)
    if uneven:
        A = hermitian_part(A)
    add_to_diagonal(A, delta)
    X = x.astype(wide)
    scale_root(X, exponent, -problem.s)
    other = factor(A, problem.s, raw.changed, problem.assume_a, backend)
    residual, certificate = conditioning.residual(A, X, problem.s, backend, raw.changed, other)
    facts = facts_of(A, X, raw, delta, largest, status, replace(problem, out_eps=job.out_eps), backend)
    amplification = None
    if problem.assume_a == "gen":
        status, amplification = judge_general(status, residual, A, raw, facts["cond"], job)
    else:
        ends = facts["lambda_max"], facts["lambda_min"]
        excess = 1.0 if rule is None else excess_of(*ends, delta, raw.changed, problem.s)
        status = judge(status, residual, facts["cond"], n, job, excess)
    if problem.s > 0:  # the root of 0 is 0, exactly
        status[(facts["lambda_max"] == 0) & (residual == 0) & (status == Status.ILL_CONDITIONED)] = Status.CONVERGED

    if zero.any():
        status[zero] = zero_status(problem)
        x[zero] = 0
        if amplification is not None:
            amplification[zero] = np.inf
        residual[zero], facts["cond"][zero], facts["lambda_max"][zero], facts["lambda_min"][zero] = (
            0,
            np.inf,
            0,
            0,
        )
    status[~finite] = Status.NONFINITE_INPUT
    hopeless = status > Status.STAGNATED
    for values in (x, companion, residual):
        if values is not None:
            values[hopeless] = np.nan
    for values in (facts["cond"], facts["lambda_max"], facts["lambda_min"]):
        values[~finite] = np.nan
    with np.errstate(over="ignore", invalid="ignore"):  # a norm may exceed the range of the entries
        largest, smallest, ridge = (v * scale for v in (facts["lambda_max"], facts["lambda_min"], delta))
    return Attempt(
        x=x,
        companion=companion,
        status=status,
        n_iter=raw.n_iter,
        n_products=raw.n_products,
        residual=residual,
        cond=facts["cond"],
        lambda_max=largest,
        lambda_min=smallest,
        ridge=ridge,
        amplification=amplification,
        certificate=certificate,
    )


def extremes(A: Array, needs: str, assume_a: str, backend: Backend) -> tuple[Array, Array]:
    """Compute the largest (and, where needed, smallest) eigenvalue of each matrix; the 2-norm of a general matrix."""
    if assume_a == "gen":
        return conditioning.norm2(A, backend), np.zeros(len(A))
    if needs == "extremes":
        w = backend.eigvalsh(A.astype(np.result_type(A.dtype, np.float64)))
        return w[:, -1], w[:, 0]
    largest = conditioning.largest_eigenvalue(A, backend)
    return largest, np.zeros_like(largest)
