"""A^s B for dense arrays: the eigenvectors multiply B, or the iteration works on B."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from matroot._bars import ILL_FORWARD_ERROR
from matroot._regularization import Regularization
from matroot._solve import plan
from matroot._status import Status
from matroot.applied.result import ApplyResult
from matroot.applied.shifted import POLES_ERR
from matroot.backends import backend_of
from matroot.backends.arrays import check_numbers, take
from matroot.backends.cpu.tridiagonal.poles import CLASSES, in_classes
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, Method
from matroot.methods.conditioning import PROBES, largest_eigenvalue, random_columns
from matroot.methods.eigen import Eigen
from matroot.methods.minimax import Minimax
from matroot.pipeline.call import Job
from matroot.pipeline.facts import extremes
from matroot.pipeline.scaling import (
    asymmetry_bar,
    prepared,
    scale_exponent,
    scale_root,
    shift_by_power_of_two,
    symmetrized,
)
from matroot.pipeline.status import input_lost, vouched

#: Accuracy of the poles, which are used for the bound only.
ACCURACY = 1e-6


class Part(NamedTuple):
    """A chunk: what multiplies from the right, (B, m, n), and numbers of every matrix and column."""

    x: Array
    status: Array
    error: Array
    lambda_min: Array
    lambda_max: Array
    cond: Array
    ridge: Array


def apply_dense(
    a: Any,
    s: Fraction | float,
    b: Any,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    compute_dtype: Any = None,
) -> ApplyResult[Any]:
    """Compute A^s B with `Eigen`, or A^{-1/p} B with `Minimax`, which has no bound: its `error` is NaN."""
    values, origin = take(a)
    columns, other = take(b, "b")
    if columns.dtype.kind != "b":
        check_numbers(columns.dtype, other, "b")
    if backend_of(values).sync_free() or backend_of(columns).sync_free():
        raise ValueError("dense arrays are applied on the CPU: pass a.get() and b.get(), or lambda v: a @ v")
    if other.library != origin.library:
        raise TypeError(f"a and b must come from one library, got {origin.library} and {other.library}")
    vector = columns.ndim == 1
    if vector:
        columns = columns[:, None]
    chosen = method_for(method, s)
    options = {"method": chosen, "regularization": regularization, "rtol": rtol, "compute_dtype": compute_dtype}
    job = plan(values, origin, s, **options)
    check_columns(values.shape, tuple(b.shape))

    xp, n, m = job.backend.xp, values.shape[-1], columns.shape[-1]
    batch = np.broadcast_shapes(values.shape[:-2], columns.shape[:-2])
    stack = xp.broadcast_to(values, (*batch, n, n)).reshape(math.prod(batch), n, n)
    columns = xp.broadcast_to(columns, (*batch, n, m)).reshape(math.prod(batch), n, m)
    out = xp.empty(columns.shape, np.result_type(job.out_dtype, columns.dtype))
    lost = ~xp.isfinite(columns).all(-2)
    if lost.any():
        columns = xp.where(lost[:, None, :], 0, columns)
    found = Part(out, np.zeros(len(stack), np.int8), np.zeros((len(stack), m)), *np.ones((4, len(stack))))

    def work(part: slice) -> None:
        for whole, one in zip(found, _apply_chunk(stack[part], columns[part], job), strict=True):
            whole[part] = one

    if stack.size and m:
        job.backend.run_chunks(work, len(stack), n, job.dtype.itemsize)
    status, error = _of_columns(found, n, job, lost)
    out[xp.broadcast_to((status > int(Status.STAGNATED))[:, None, :], out.shape)] = np.nan
    X = out.reshape(*batch, n, m)
    numbers = {name: getattr(found, name).reshape(batch) for name in ("lambda_min", "lambda_max", "cond", "ridge")}
    numbers |= {"status": status.reshape(*batch, m), "error": error.reshape(*batch, m)}
    if vector:
        numbers |= {name: numbers[name][..., 0] for name in ("status", "error")}
    return ApplyResult(
        x=origin.give_back(X[..., 0] if vector else X, as_input=origin.dtype_name == other.dtype_name),
        **{name: origin.give_back(value, as_input=False) for name, value in numbers.items()},
        certificate="probes",
        n_iter=0,
        n_products=PROBES,
        n_factorizations=1,
        method=job.method.name,
        exponent=s,
        rtol=rtol,
    )


def method_for(method: str | Method, s: Fraction | float) -> Method:
    """Return the method for A^s b; raise if it is none, or serves other exponents."""
    known = {"auto": Eigen(), "eigen": Eigen(), "minimax": Minimax()}
    chosen = known.get(method) if isinstance(method, str) else method
    if not isinstance(chosen, Minimax | Eigen):
        raise ValueError(f"method must be one of {[*known]}, Minimax(...) or Eigen(), got {method!r}")
    if isinstance(chosen, Minimax) and (not isinstance(s, Fraction) or s.numerator != -1):
        raise ValueError(f"method='minimax' applies inverse p-th roots, s = -1/p; got s = {s}")
    return chosen


def check_columns(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise unless the matrices of shape `a` multiply what has the shape `b`, n numbers or columns of n."""
    if not b or (b[-1:] if len(b) == 1 else b[-2:-1]) != a[-1:]:
        raise ValueError(f"b must be (..., {a[-1]}, m) to fit a {a}, got {b}")
    try:
        np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise ValueError(f"a and b must have batch dimensions that broadcast, got {a} and {b}") from None


def _apply_chunk(stack: Array, columns: Array, job: Job) -> Part:
    """Return A^s b for a chunk of matrices, their statuses, and what is known of them."""
    backend, rule = job.backend, job.rule
    xp = backend.xp
    wide = np.result_type(job.dtype, np.float64)
    if stack.dtype.kind in "iu":  # abs() of the smallest integer overflows
        stack = stack.astype(wide)
    finite = xp.isfinite(stack).all((-1, -2))
    size = xp.where(finite, abs(stack).max((-1, -2)), 1)
    exponent = scale_exponent(size, rule, xp)
    A = prepared(stack, finite, exponent, np.result_type(stack.dtype, job.dtype), backend)
    A, gap = symmetrized(A, job.origin, backend, job.lone)
    A = A.astype(job.dtype, copy=False)

    # Transpose b, since the iteration multiplies from the right; for a real A, split b into real and imaginary parts.
    W = columns.conj().swapaxes(-1, -2)
    split = W.dtype.kind == "c" and A.dtype.kind != "c"
    if split:
        W = xp.concatenate([W.real, W.imag], axis=1)
    W = xp.array(W, dtype=np.result_type(A.dtype, W.dtype), order="C")
    _, size_exponent = np.frexp(abs(W).max((-1, -2)))
    shift_by_power_of_two(W, -size_exponent, backend)
    W = W.astype(A.dtype, copy=False)

    scale = np.ldexp(1.0, exponent)
    if isinstance(job.method, Minimax):
        part = _by_minimax(job.method, A, W, scale, job)
    else:
        part = _by_eigen(A, W, scale, job)
    status = xp.where(gap <= asymmetry_bar(job.origin), part.status, int(Status.NOT_SYMMETRIC))
    status = xp.where(finite, status, int(Status.NONFINITE_INPUT))
    W = part.x.astype(np.result_type(np.float64, part.x.dtype), copy=False)
    scale_root(W, exponent, job.problem.s, backend)
    shift_by_power_of_two(W, size_exponent, backend)
    error = part.error
    if split:
        half = len(W[0]) // 2
        W = W[:, :half] + 1j * W[:, half:]
        error = np.maximum(error[:, :half], error[:, half:])
    given = np.result_type(job.out_dtype, columns.dtype)
    large = abs(W).max((-1, -2)) > np.finfo(given).max
    W[large] = np.inf
    status = xp.where(large & (status == 0), int(Status.DIVERGED), status)
    with np.errstate(over="ignore"):
        units = {name: getattr(part, name) * scale for name in ("lambda_min", "lambda_max", "ridge")}
    return part._replace(x=W.conj().swapaxes(-1, -2).astype(given), status=status, error=error, **units)


def _by_eigen(A: Array, W: Array, scale: Array, job: Job) -> Part:
    """Compute W Q w^s Q^H."""
    backend, rule, s = job.backend, job.rule, float(job.problem.s)
    n = A.shape[-1]
    Z = random_columns(n, PROBES).astype(A.dtype)
    AZ = backend.matmul(A, Z)
    w, Q = backend.eigh(A)
    delta = np.zeros(len(A))
    kept = w.astype(np.float64)
    if rule is not None:
        kept, delta = rule.spectrum(kept, scale)
    elif s > 0:  # what rounding of the input or of LAPACK has made of a 0
        kept = np.where(abs(kept) <= 2 * n * max(job.eps, job.out_eps) * kept[:, -1:], np.maximum(kept, 0), kept)
    null = rule is not None and rule.keeps_null_space
    failed = ~((kept > 0) | ((kept == 0) & (null or s > 0))).all(-1)
    f = np.where(kept > 0, kept, 1) ** s * (kept > 0)
    Qh = Q.conj().swapaxes(-1, -2)
    C = backend.matmul(W, Q)
    X = backend.matmul(C * f[:, None, :].astype(A.real.dtype), Qh)
    smallest = kept[:, 0] if s > 0 else np.where(kept > 0, kept, np.inf).min(-1)
    # LAPACK's errors A - Q w Q^H and Q Q^H - I, in the Frobenius norm, from probes.
    QhZ = backend.matmul(Qh, Z)
    off = _rms(AZ - backend.matmul(Q * w[:, None, :], QhZ)), _rms(backend.matmul(Q, QhZ) - Z)
    with np.errstate(over="ignore"):  # X may be 0
        size = np.maximum(np.linalg.norm(X, axis=-1), np.finfo(float).tiny)
        error = _bound(C, np.maximum(kept, 0), f, off, job) / size
    near = abs(w[:, 0]) <= 2 * n * max(job.eps, job.out_eps) * w[:, -1]
    status = np.where(failed, np.where(near & (s < 0), int(Status.SINGULAR), int(Status.NOT_POSITIVE)), 0)
    with np.errstate(all="ignore"):
        return Part(X, status, error, np.where(failed, w[:, 0], smallest), kept[:, -1], kept[:, -1] / smallest, delta)


def _bound(C: Array, kept: Array, f: Array, off: tuple[Array, Array], job: Job) -> Array:
    """Bound the error of every row of C f(L) Q^H, given the errors of the eigendecomposition; see `applied.shifted`."""
    s = float(job.problem.s)
    norm = np.linalg.norm(C, axis=-1)
    # Q is within off[1] of a unitary matrix, by which the error of A grows, and that of the products with Q.
    moved = off[0] + off[1] * kept[:, -1]
    rounding = ((2 + kept.shape[-1] ** 0.5) * job.eps + off[1])[:, None] * f.max(-1)[:, None] * norm
    high = np.where(kept[:, -1] > 0, kept[:, -1], 1)
    # Below `moved` an eigenvalue may be 0 or not, and what was taken for 0 may be as large: moved^s bounds it.
    least = np.where(kept > 0, kept, np.inf).min(-1) if s < 0 else np.maximum(kept[:, 0], moved)
    low = np.minimum(np.maximum(least, 2.0**-60 * high), high)
    alpha = -s if s < 0 else 1 - s
    b, w, counts = in_classes(alpha, ACCURACY)
    row = np.clip(np.ceil(np.log(high / low) / math.log(4)).astype(int) - 1, 0, CLASSES - 1)
    used = slice(0, int(counts[row].max()))
    t, w = b[row, used] * high[:, None], w[row, used] * high[:, None] ** (1 - alpha)
    start = low if s < 0 else np.maximum(kept[:, 0], 0)
    weight = w / (start[:, None] + t) * (1 if s < 0 else t)
    total = np.zeros(norm.shape)
    square = abs(C).astype(float) ** 2
    with np.errstate(all="ignore"):  # of matrices that are 0, or have no power
        for tj, weight_j in zip(t.T, weight.T, strict=True):
            size = np.sqrt((square / ((kept + tj[:, None]) ** 2)[:, None, :]).sum(-1))
            total += (weight_j * moved)[:, None] * size
    return rounding + (1 + POLES_ERR * ACCURACY) * total


def _by_minimax(method: Minimax, A: Array, W: Array, scale: Array, job: Job) -> Part:
    """Apply the schedule of `Minimax` to W."""
    backend, rule = job.backend, job.rule
    xp, B = backend.xp, len(A)
    largest, delta = largest_eigenvalue(A, backend), xp.zeros(B)
    problem = replace(job.problem, out_eps=job.out_eps)
    if rule is not None:
        if rule.needs != "lambda_max":
            largest, smallest = extremes(A, rule.needs, "pos", backend)
        delta = rule.shift(largest, largest if rule.needs == "lambda_max" else smallest, scale)
        add_to_diagonal(A, delta)
        largest = largest + delta
        problem = replace(problem, floor=np.full(B, rule.floor()))
    zero = ~A.any((-1, -2))
    A[zero] = xp.eye(A.shape[-1], dtype=A.dtype)
    raw = method.apply(A, W, 1, problem, backend)
    smallest = xp.full(B, xp.nan) if raw.lambda_min is None else raw.lambda_min
    cond = xp.ones(B) if raw.lambda_min is None else largest / raw.lambda_min
    status = xp.where(raw.status == int(Status.CONVERGED), 0, int(Status.NOT_POSITIVE))
    status = xp.where(zero | ~(cond > 0), int(Status.NOT_POSITIVE), status)
    return Part(raw.x, status, xp.full(W.shape[:2], xp.nan), smallest, largest, cond, delta)


def _of_columns(found: Part, n: int, job: Job, lost: Array) -> tuple[Array, Array]:
    """Return status and error of every column, (B, m); `lost` is True for those that are not finite."""
    rounding = job.out_eps if job.out_eps > job.eps else 0.0
    error = np.where(np.isnan(found.error), np.nan, found.error + rounding)
    with np.errstate(all="ignore"):  # ||A|| / ||A'||, see `status.excess_of`
        excess = np.fmax(abs(found.lambda_min - found.ridge) / found.lambda_max, 1)
    ill = ~(vouched(found.cond, n, job, excess) & ~input_lost(found.cond, job, excess))[:, None]
    ill = ill | (error > (job.problem.rtol or ILL_FORWARD_ERROR))
    status = found.status[:, None].astype(np.int8)
    status = np.where((status == 0) & ill, np.int8(Status.ILL_CONDITIONED), status)
    status = np.where(lost, np.int8(Status.NONFINITE_INPUT), status)
    return status, np.where(status > int(Status.STAGNATED), np.nan, error)


def _rms(R: Array) -> Array:
    """Return the root of the mean square norm of the columns."""
    return np.linalg.norm(R, axis=(-1, -2)) / PROBES**0.5
