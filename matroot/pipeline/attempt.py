"""One certified solve of a stack: scale, regularize, run the method, scale back, certify, set status.

The text is the same for the CPU and the GPU. Where the CPU reads an array to save work, it asks ``backend.any``, and a
GPU, which must not wait for values, does the work.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from matroot._status import Status
from matroot.backends.arrays import is_inexact
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods import conditioning
from matroot.pipeline.call import Job, Output
from matroot.pipeline.facts import extremes, facts_of
from matroot.pipeline.reference import factor, measured
from matroot.pipeline.scaling import (
    asymmetry_bar,
    power_of_two,
    prepared,
    scale_exponent,
    scale_root,
    symmetrized,
    to_output,
)
from matroot.pipeline.status import (
    cancelled,
    doubtful,
    excess_of,
    faintness,
    judge,
    singular,
    spent,
    taken_for_zero,
    within_range,
    zero_status,
)
from matroot.pipeline.status_general import general_excess, judge_general

Array = Any


def attempt(stack: Array, job: Job) -> Output:
    """Solve a stack (B, n, n) once, and certify the result."""
    backend, problem, rule, xp = job.backend, job.problem, job.rule, job.backend.xp
    B, n, _ = stack.shape
    general, direct = problem.assume_a == "gen", job.method.decomposes
    wide = np.dtype("complex128" if job.dtype.kind == "c" else "float64")
    if not is_inexact(stack.dtype.name):  # abs() of the smallest integer overflows
        stack = stack.astype(wide)
    finite = xp.isfinite(stack).all((-1, -2))
    size = xp.where(finite, abs(stack).max((-1, -2)), 1)
    exponent = scale_exponent(size, rule, xp)
    scale = power_of_two(exponent, xp)

    def scaled(dtype: Any) -> Array:
        return prepared(stack, finite, exponent, np.result_type(stack.dtype, dtype), backend)

    A, gap = (
        (scaled(job.dtype), xp.zeros(B)) if general else symmetrized(scaled(job.dtype), job.origin, backend, job.lone)
    )
    symmetric = gap <= asymmetry_bar(job.origin)

    delta, ends = xp.zeros(B), None
    if rule is not None and not direct:
        ends = extremes(A, rule.needs, problem.assume_a, backend)
        delta = rule.shift(*ends, scale)
        ends = (ends[0] + delta, ends[1] + delta)
        add_to_diagonal(A, delta)
    A = A.astype(job.dtype, copy=False)  # after the shift, which may cancel most of A
    zero = xp.zeros(B, bool) if direct else ~A.any((-1, -2))
    if backend.any(zero):
        xp.copyto(A, xp.eye(n, dtype=A.dtype), where=zero[:, None, None])
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # overflow gives a status
        raw = job.method.run(
            A,
            replace(
                problem,
                regularization=rule if direct else None,
                floor=None if rule is None else np.full(B, rule.floor()),
                scale=scale,
                out_eps=job.out_eps,
                asymmetry=gap,
            ),
            backend,
        )
    del A
    status = xp.asarray(raw.status).astype(xp.int8)
    if raw.ridge is not None:
        delta = raw.ridge

    # Scale back to the units of the caller: the root of 2^e A' is 2^(e s) X.
    X = raw.x if general or raw.hermitian else hermitian_part(raw.x)
    vanishes = general or (rule is not None and rule.keeps_null_space)  # A^2 of a nilpotent A is 0
    present = X.any((-1, -2)) | ((size > 0) & (not vanishes))
    x = to_output(X, exponent, problem.s, job)
    companion = None
    if raw.companion is not None:
        opposite = raw.companion if general else hermitian_part(raw.companion)
        companion = to_output(opposite, exponent, -problem.s, job)
    raw.x = raw.companion = X = None
    status = within_range(status, abs(x).max((-1, -2)), present, job)

    # The certificate: check the returned X in float64 against the input, which is prepared again.
    A = scaled(wide)
    if not general and backend.any(gap > 0):
        A = hermitian_part(A)
    add_to_diagonal(A, delta)
    A = A.astype(wide, copy=False)
    X = x.astype(wide)
    scale_root(X, exponent, -problem.s, backend)
    if raw.changed is not None and rule is not None and job.dtype != wide:
        raw.changed = measured(raw.changed, A, rule, scale, backend)
    other = factor(A, problem.s, raw.changed, problem.assume_a, backend)
    residual, certificate = conditioning.residual(A, X, problem.s, backend, raw.changed, other)
    status, cond, highest, lowest = facts_of(A, X, raw, delta, ends, status, residual, job)
    amplification = None
    if general:
        status, amplification = judge_general(status, residual, A, raw, cond, job, general_excess(highest, delta))
        amplification = xp.where(zero, np.inf, amplification)
    else:
        excess = 1.0 if rule is None else excess_of(highest, lowest, delta, raw.changed, problem.s)
        status = judge(status, residual, cond, n, job, excess, faintness(size, job))
        status = doubtful(status, gap * excess, cond, job)
        status = taken_for_zero(status, raw, n, job)
        status = singular(status, cond, lowest, highest, gap, job, n)
    if problem.s > 0:  # the root of 0 is 0, exactly
        nothing = (highest == 0) & (residual == 0) & (status == int(Status.ILL_CONDITIONED))
        status = xp.where(nothing, int(Status.CONVERGED), status)
    status = xp.where(zero, zero_status(problem), status)
    if rule is not None:
        lost = cancelled(highest, lowest, delta, job, n)
        status = spent(status, lost | (zero & (delta > 0)), xp.where(zero, 0, residual), problem)
    status = xp.where(symmetric, status, int(Status.NOT_SYMMETRIC))
    status = xp.where(finite, status, int(Status.NONFINITE_INPUT)).astype(xp.int8)
    given = (status <= int(Status.STAGNATED)) & symmetric

    def only(values: Array, rows: Array, otherwise: float) -> Array:
        if backend.any(~rows):
            xp.copyto(values, otherwise, where=~rows.reshape(B, *[1] * (values.ndim - 1)))
        return values

    def settled(values: Array, at_zero: Array | float) -> Array:
        return xp.where(finite & symmetric, xp.where(zero, at_zero, values), xp.nan)

    with np.errstate(over="ignore", invalid="ignore"):  # a norm may exceed the range of the entries
        return Output(
            x=only(only(x, ~zero, 0), given, math.nan),
            companion=None if companion is None else only(companion, given, math.nan),
            status=status,
            n_iter=xp.asarray(raw.n_iter),
            n_products=raw.n_products,
            residual=xp.where(given, xp.where(zero, 0, residual), xp.nan),
            cond=settled(cond, math.inf),
            lambda_max=settled(highest, delta if general else 0 - delta) * scale,
            lambda_min=settled(lowest, 0) * scale,
            ridge=delta * scale,
            asymmetry=gap,
            dtype=job.dtype,
            certificate=certificate,
            amplification=amplification,
            rank=None if raw.rank is None or not general else np.where(zero, 0, raw.rank),
            changed=None if raw.changed is None else raw.changed.number(),
        )
