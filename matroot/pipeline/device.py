"""One certified solve of a stack on the GPU, without reading values on the host; see `matroot.pipeline.attempt`.

Decisions that the CPU takes by reading an array are masks here. The host handles shapes, memory, and second attempts:
larger ridges, and float64 for the plain functions, which wait for the result anyway. Each round of second attempts
reads the status from the device once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR
from matroot._regularization import Ridge
from matroot._result import USABLE, RootResult, Status, on_host
from matroot.backends.arrays import is_inexact, round_to, unit_roundoff
from matroot.backends.linalg import add_to_diagonal, hermitian_part
from matroot.methods import conditioning
from matroot.methods.eigen import Eigen
from matroot.pipeline.call import Attempt, Job, Output
from matroot.pipeline.device_facts import among, extremes, facts
from matroot.pipeline.reference import factor
from matroot.pipeline.scaling import ASYMMETRY, BEYOND
from matroot.pipeline.status import excess_of, judge, within_range, zero_status

if TYPE_CHECKING:
    pass

Array = Any

#: Statuses for which X is returned; for every other status X is NaN.
GIVEN = (*USABLE, Status.MAX_ITER, Status.STAGNATED)


@dataclass(frozen=True, repr=False)
class DeviceResult(RootResult[Any]):
    """A `RootResult` whose arrays may still be being computed; reading a value waits for the device.

    Attributes
    ----------
    asymmetry : array of float64, (...)
        ``max|A - A^H| / max|A|``. Raising an error would have to wait for the device. Instead, a matrix that is not
        symmetric up to rounding gets NaN, the status NOT_POSITIVE, and a sentence of its own.
    tolerance : float
        Largest asymmetry that counts as rounding.
    """

    asymmetry: Array
    tolerance: float

    def sentence(self, index: int) -> str:
        """Return the status sentence of one matrix of the flattened batch, with its numbers."""
        gap = float(on_host(self.asymmetry).ravel()[index])
        if gap > self.tolerance:
            return (
                f"is not symmetric (Hermitian): max|A - A^H| is {gap:.1e} of max|A|; for a general matrix pass an "
                "array on the CPU and assume_a='gen'"
            )
        return super().sentence(index)


def solve_stack(values: Array, job: Job) -> RootResult[Any]:
    """Solve a planned job for arrays on a device; return before the device is done."""
    backend = job.backend
    batch, n = values.shape[:-2], values.shape[-1]
    B = math.prod(batch)
    wide = 16 if job.dtype.kind == "c" else 8
    with backend.here(job.origin):
        stack = values.reshape(B, n, n)
        out, asymmetry = _output(B, n, job)
        if stack.size:
            backend.run_chunks(lambda part: _solve_chunk(stack[part], part, job, out, asymmetry), B, n, wide)
        result = out.result(batch, job)
        gap = job.origin.give_back(asymmetry.reshape(batch), as_input=False)
    known = {f.name: getattr(result, f.name) for f in fields(RootResult)}
    return DeviceResult(**known, asymmetry=gap, tolerance=_asymmetry_bar(job))


def _output(B: int, n: int, job: Job) -> tuple[Output, Array]:
    backend: Any = job.backend  # a GPU
    try:
        return Output(B, n, job), backend.xp.zeros(B)
    except backend.xp.cuda.memory.OutOfMemoryError as full:
        need = B * n * n * job.out_dtype.itemsize * (2 if job.method.gives_companion else 1)
        raise MemoryError(
            f"the result alone needs {need / 2**30:.2f} GiB on CUDA device {backend.device}, where "
            f"{backend.free_bytes() / 2**30:.2f} GiB are free; pass the batch in parts, or arrays on the CPU"
        ) from full


def _solve_chunk(stack: Array, part: slice, job: Job, out: Output, asymmetry: Array) -> None:
    """Solve a chunk and write it to `out`; retry failed matrices if the job allows waiting for the device."""
    first, gap = attempt(stack, job)
    out.write(part, first)
    asymmetry[part] = gap
    rows = None
    for other in _second_tries(job):
        if rows is None:
            hopeless = (first.status == int(Status.NONFINITE_INPUT)) | (gap > _asymmetry_bar(job))
            bad = (first.status != int(Status.CONVERGED)) & ~hopeless
            rows = np.flatnonzero(on_host(bad))  # waits for the device
        if not len(rows):
            return
        again, _ = attempt(stack[rows], other)
        out.write(part.start + rows, again)
        out.dtype = other.dtype
        rows = rows[on_host(again.status) != int(Status.CONVERGED)]  # and here


def _second_tries(job: Job) -> Iterator[Job]:
    """Yield the job in float64 if float32 was not requested, then with the larger ridges of ``Ridge(retries=...)``."""
    if job.may_widen:
        job = replace(job, dtype=np.result_type(job.dtype, np.float64))
        yield job
    if isinstance(job.rule, Ridge):
        rule = job.rule
        for _ in range(job.rule.retries):
            rule = rule.raised()
            yield replace(job, rule=rule)


def attempt(stack: Array, job: Job) -> tuple[Attempt, Array]:
    """Solve a stack once, and return the certified result and the asymmetry of each matrix."""
    backend: Any = job.backend  # a GPU
    problem, rule, xp = job.problem, job.rule, backend.xp
    B, n, _ = stack.shape
    wide = np.dtype("complex128" if job.dtype.kind == "c" else "float64")
    stack = xp.ascontiguousarray(stack)
    if not is_inexact(stack.dtype.name):
        stack = stack.astype(wide)
    finite = xp.isfinite(stack).all((-1, -2))
    eye = xp.eye(n, dtype=stack.dtype)
    size = xp.where(finite, abs(stack).max((-1, -2)), 1).astype(xp.float64)
    absolute = rule.absolute_size() if rule is not None else 0.0
    _, exponent = xp.frexp(xp.maximum(size, absolute))
    exponent = xp.minimum(exponent, 1023)
    scale = power_of_two(exponent, xp)

    def scaled() -> Array:
        """Return a copy of the input, scaled so that its largest entry is in [1/2, 1)."""
        A = xp.where(finite[:, None, None], stack, eye)
        shift_by_power_of_two(A, -exponent, xp)
        return A

    A = scaled()
    gap = _asymmetry(A, xp)
    symmetric = gap <= _asymmetry_bar(job)
    A = hermitian_part(A.astype(np.result_type(A.dtype, job.dtype), copy=False))
    direct = isinstance(job.method, Eigen)
    delta, ends = xp.zeros(B), None
    if rule is not None and not direct:
        ends = extremes(A, rule.needs, backend)
        delta = rule.shift(*ends, scale)
        ends = (ends[0] + delta, ends[1] + delta)

    def regularized(dtype: np.dtype[Any]) -> Array:
        A = hermitian_part(scaled().astype(np.result_type(stack.dtype, dtype), copy=False))
        add_to_diagonal(A, delta)
        return A.astype(dtype, copy=False)

    if not direct:
        add_to_diagonal(A, delta)
    A = A.astype(job.dtype, copy=False)  # after the shift, which may cancel most of A
    zero = ~A.any((-1, -2)) if not direct else xp.zeros(B, bool)
    A = xp.where(zero[:, None, None], xp.eye(n, dtype=A.dtype), A)
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
    X = hermitian_part(raw.x)
    something = X.any((-1, -2)) | ((size > 0) & (rule is None or not rule.keeps_null_space))
    x = _to_output(X, exponent, problem.s, job)
    del X
    status = within_range(status, abs(x).max((-1, -2)), something, job)
    companion = None
    if raw.companion is not None:
        companion = _to_output(hermitian_part(raw.companion), exponent, -problem.s, job)
    raw.x = raw.companion = None

    # The certificate: check the returned X in float64 against the input, which is prepared again.
    A = regularized(wide)
    X = x.astype(wide)
    scale_root(X, exponent, -problem.s, xp)
    other = factor(A, problem.s, raw.changed, problem.assume_a, backend)
    residual, certificate = conditioning.residual(A, X, problem.s, backend, raw.changed, other)
    del X
    cond, highest, lowest = facts(A, raw, delta, ends, status, backend)
    if problem.s > 0:
        status = _semidefinite(status, residual, n, job)
    rounding = 8 * job.eps if ends is not None else 0.0
    if problem.s > 0:
        rounding = n * max(2 * job.eps, 2 * job.out_eps)
    proven = ~among(status, USABLE, xp) & (lowest <= -rounding * abs(highest))
    status = xp.where(proven, int(Status.NOT_POSITIVE), status)
    excess = 1.0 if rule is None else excess_of(highest, lowest, delta, raw.changed, problem.s)
    status = judge(status, residual, cond, n, job, excess)
    if problem.s > 0:  # the root of 0 is 0, exactly
        nothing = (highest == 0) & (residual == 0) & (status == int(Status.ILL_CONDITIONED))
        status = xp.where(nothing, int(Status.CONVERGED), status)

    status = xp.where(zero, zero_status(problem), status)
    status = xp.where(symmetric, status, int(Status.NOT_POSITIVE))
    status = xp.where(finite, status, int(Status.NONFINITE_INPUT)).astype(xp.int8)
    given = among(status, GIVEN, xp) & symmetric

    def settle(values: Array, at_zero: float) -> Array:
        return xp.where(finite & symmetric, xp.where(zero, at_zero, values), xp.nan)

    x = xp.where(given[:, None, None], xp.where(zero[:, None, None], 0, x), xp.nan)
    if companion is not None:
        companion = xp.where(given[:, None, None], companion, xp.nan)
    one = Attempt(
        x=x,
        companion=companion,
        status=status,
        n_iter=xp.asarray(raw.n_iter),
        n_products=raw.n_products,
        residual=xp.where(given, xp.where(zero, 0, residual), xp.nan),
        cond=settle(cond, math.inf),
        lambda_max=settle(highest, 0) * scale,
        lambda_min=settle(lowest, 0) * scale,
        ridge=delta * scale,
        certificate=certificate,
    )
    return one, gap


def _asymmetry(A: Array, xp: Any) -> Array:
    """Compute max|A - A^H| / max|A| of every matrix, in float64."""
    other = A.swapaxes(-1, -2)
    size = abs(A).max((-1, -2))
    gap = abs(A - (other.conj() if A.dtype.kind == "c" else other)).max((-1, -2))
    return (gap / xp.where(size > 0, size, 1)).astype(xp.float64)


def _asymmetry_bar(job: Job) -> float:
    return float(ASYMMETRY * unit_roundoff(job.origin.dtype_name) ** 0.5)


def power_of_two(exponent: Array, xp: Any) -> Array:
    """Return 2^exponent in float64, exact."""
    return xp.ldexp(xp.ones(exponent.shape), exponent.astype(xp.int32))


def shift_by_power_of_two(A: Array, exponent: Array, xp: Any) -> None:
    """Multiply A by 2^exponent in place; exact, also where 2^exponent itself would overflow."""
    if A.dtype.kind == "f":
        xp.ldexp(A, exponent.astype(xp.int32)[:, None, None], out=A)
        return
    half = exponent // 2
    for part in (half, exponent - half):
        A *= power_of_two(part, xp).astype(A.real.dtype)[:, None, None]


def scale_root(X: Array, exponent: Array, s: Fraction | float, xp: Any) -> None:
    """Multiply X by 2^(exponent s) in place; exact where exponent * s is an integer."""
    if isinstance(s, Fraction):
        power = exponent.astype(xp.int64) * s.numerator
        whole = power // s.denominator
        if s.denominator > 1:
            fractions = xp.asarray(2.0 ** (np.arange(s.denominator) / s.denominator))
            rest = fractions[power - whole * s.denominator]
            X *= rest.astype(X.real.dtype)[:, None, None]
    else:
        power = exponent * s
        whole = xp.floor(power)
        X *= xp.exp2(power - whole).astype(X.real.dtype)[:, None, None]
    shift_by_power_of_two(X, xp.clip(whole, -BEYOND, BEYOND), xp)


def _to_output(X: Array, exponent: Array, s: Fraction | float, job: Job) -> Array:
    """Convert the root to the caller's units and precision."""
    wide = X.astype(np.result_type(X.dtype, np.float64), copy=False)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scale_root(wide, exponent, s, job.backend.xp)
        return round_to(wide.astype(job.out_dtype, copy=False), job.origin.dtype_name)


def _semidefinite(status: Array, residual: Array, n: int, job: Job) -> Array:
    """Accept positive powers of semidefinite matrices on which the iteration stalled at a zero eigenvalue.

    Since A is known to eps, the error there is at least eps^s (s < 1). A root with an error of this size is accepted.
    """
    eps = job.eps + job.out_eps
    s = min(1.0, float(job.problem.s))
    good = residual <= max(min(10 * n**0.5 * eps**s, ILL_FORWARD_ERROR), job.problem.rtol or 0.0)
    stalled = among(status, (Status.STAGNATED, Status.MAX_ITER), job.backend.xp)
    return job.backend.xp.where(stalled & good, int(Status.CONVERGED), status)
