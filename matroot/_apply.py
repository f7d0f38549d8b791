"""A^{-1/p} B without forming A^{-1/p}: the iteration works on B."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from matroot._bars import forward_error_bound
from matroot._regularization import Regularization
from matroot._result import A, on_host
from matroot._roots import inverse_pth_root
from matroot._solve import check_degree, plan
from matroot._status import ConditionWarning, RootError, Status
from matroot.backends import backend_of
from matroot.backends.arrays import take, transformed_by
from matroot.backends.holds import confined
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Method
from matroot.methods.conditioning import largest_eigenvalue
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

Array = Any


@confined
def apply_inverse_pth_root(
    a: Array,
    p: int,
    b: A,
    /,
    *,
    method: str | Method = "auto",
    regularization: Regularization | float | None = None,
    rtol: float | None = None,
    compute_dtype: Any = None,
) -> A:
    """Compute A^{-1/p} B for symmetric (Hermitian) positive definite A, without forming A^{-1/p}.

    Use it where the root is needed once: to whiten a few vectors, or to precondition one gradient. `Eigen`
    multiplies B in the eigenbasis. `Minimax` replaces one n x n product of every step by a product of B with an
    n x n matrix. This is faster than `inverse_pth_root` while B has fewer columns than n/4 and A is used once.
    There is no certificate, since checking X^p A = I needs the root; `solve` gives one. Where torch differentiates or
    jax traces, the root is formed and multiplied.

    Parameters
    ----------
    a : array (..., n, n)
        numpy, cupy, torch, jax or another DLPack array. Not written to.
    p : int
        Positive.
    b : array (..., n, m) or (n,)
        Of the same library. Batch dimensions broadcast against those of `a`.
    method : {"auto", "minimax", "eigen"} or Method
        "auto" is "eigen".
    regularization, rtol, compute_dtype
        As in `solve`. `Minimax` takes the rules that add to the diagonal.

    Returns
    -------
    array (..., n, m) or (n,)
        Of the kind and device of `a`, in the wider dtype of the two.

    Raises
    ------
    ValueError
        The shapes do not fit, or the method does not support the problem.
    RootError
        A matrix is not positive definite, or not finite.

    Warns
    -----
    ConditionWarning
        Fewer than two digits are certain.

    See Also
    --------
    inverse_pth_root : the root itself.

    Examples
    --------
    >>> import numpy as np
    >>> from matroot._apply import apply_inverse_pth_root
    >>> A = np.array([[5.0, 4.0], [4.0, 5.0]])
    >>> apply_inverse_pth_root(A, 2, np.array([3.0, -3.0])).round(12)
    array([ 3., -3.])
    """
    if transformed_by(a) or transformed_by(b):  # torch differentiates it, or jax traces it
        X = inverse_pth_root(a, p, method=method, regularization=regularization, rtol=rtol, compute_dtype=compute_dtype)
        product: A = X @ b
        return product
    values, origin = take(a)
    columns, other = take(b, "b")
    if backend_of(values).sync_free() or backend_of(columns).sync_free():
        raise ValueError("apply_inverse_pth_root works on the CPU: pass a.get() and b.get(), or use inverse_pth_root")
    if other.library != origin.library:
        raise TypeError(f"a and b must come from one library, got {origin.library} and {other.library}")
    vector = columns.ndim == 1
    if vector:
        columns = columns[:, None]
    job = plan(
        values,
        origin,
        Fraction(-1, check_degree(p)),
        method=_chosen(method),
        regularization=regularization,
        rtol=rtol,
        compute_dtype=compute_dtype,
    )
    if columns.ndim < 2 or columns.shape[-2] != values.shape[-1]:
        wanted = f"(..., {values.shape[-1]}, m)"
        raise ValueError(f"b must be {wanted} to fit a {values.shape}, got {tuple(b.shape)}")

    xp, n, m = job.backend.xp, values.shape[-1], columns.shape[-1]
    batch = np.broadcast_shapes(values.shape[:-2], columns.shape[:-2])
    stack = xp.broadcast_to(values, (*batch, n, n)).reshape(math.prod(batch), n, n)
    columns = xp.broadcast_to(columns, (*batch, n, m)).reshape(math.prod(batch), n, m)
    out = xp.empty(columns.shape, np.result_type(job.out_dtype, columns.dtype))
    status, cond = xp.zeros(len(stack), xp.int8), xp.ones(len(stack))

    def work(part: slice) -> None:
        out[part], status[part], cond[part] = _apply_chunk(stack[part], columns[part], job)

    if stack.size and m:
        job.backend.run_chunks(work, len(stack), n, job.dtype.itemsize)
    _report(status, cond, n, job)
    X = out.reshape(*batch, n, m)
    given: A = origin.give_back(X[..., 0] if vector else X, as_input=origin.dtype_name == other.dtype_name)
    return given


def _chosen(method: str | Method) -> Method:
    if isinstance(method, Minimax | Eigen):
        return method
    known = {"auto": Eigen(), "eigen": Eigen(), "minimax": Minimax()}
    if not isinstance(method, str) or method not in known:
        raise ValueError(f"method must be one of {[*known]}, Minimax(...) or Eigen(), got {method!r}")
    return known[method]


def _apply_chunk(stack: Array, columns: Array, job: Job) -> tuple[Array, Array, Array]:
    """Return A^{-1/p} b for a chunk of matrices, their statuses and condition numbers."""
    backend, rule = job.backend, job.rule
    xp = backend.xp
    wide = np.result_type(job.dtype, np.float64)
    if stack.dtype.kind in "iu":  # abs() of the smallest integer overflows
        stack = stack.astype(wide)
    finite = xp.isfinite(stack).all((-1, -2)) & xp.isfinite(columns).all((-1, -2))
    size = xp.where(finite, abs(stack).max((-1, -2)), 1)
    exponent = scale_exponent(size, rule, xp)
    A = prepared(stack, finite, exponent, np.result_type(stack.dtype, job.dtype), backend)
    A, gap = symmetrized(A, job.origin, backend, job.lone)
    A = A.astype(job.dtype, copy=False)

    # Transpose b, since the iteration multiplies from the right; for a real A, split b into real and imaginary parts.
    W = xp.where(finite[:, None, None], columns, 0).conj().swapaxes(-1, -2)
    split = W.dtype.kind == "c" and A.dtype.kind != "c"
    if split:
        W = xp.concatenate([W.real, W.imag], axis=1)
    W = xp.array(W, dtype=np.result_type(A.dtype, W.dtype), order="C")
    _, size_exponent = np.frexp(abs(W).max((-1, -2)))
    shift_by_power_of_two(W, -size_exponent, backend)
    W = W.astype(A.dtype, copy=False)

    scale = np.ldexp(1.0, exponent)
    if isinstance(job.method, Minimax):
        W, status, cond = _by_minimax(job.method, A, W, scale, job)
    else:
        W, status, cond = _by_eigen(A, W, scale, job)
    status = xp.where(gap <= asymmetry_bar(job.origin), status, int(Status.NOT_SYMMETRIC))
    status = xp.where(finite, status, int(Status.NONFINITE_INPUT))
    W = W.astype(np.result_type(np.float64, W.dtype), copy=False)
    scale_root(W, exponent, job.problem.s, backend)
    shift_by_power_of_two(W, size_exponent, backend)
    if split:
        W = W[:, : len(W[0]) // 2] + 1j * W[:, len(W[0]) // 2 :]
    given = np.result_type(job.out_dtype, columns.dtype)
    large = abs(W).max((-1, -2)) > np.finfo(given).max
    W[large] = np.inf
    status = xp.where(large & (status == 0), int(Status.DIVERGED), status)
    return W.conj().swapaxes(-1, -2).astype(given), status, cond


def _by_eigen(A: Array, W: Array, scale: Array, job: Job) -> tuple[Array, Array, Array]:
    """Compute W Q w^{-1/p} Q^H."""
    backend, rule, s = job.backend, job.rule, float(job.problem.s)
    w, Q = backend.eigh(A)
    kept = w if rule is None else rule.spectrum(w, scale)[0]
    dropped = (kept == 0) & (rule is not None and rule.keeps_null_space)
    failed = ~((kept > 0) | dropped).all(-1)
    f = np.where(kept > 0, kept, 1) ** s * (kept > 0)
    W = backend.matmul(backend.matmul(W, Q) * f[:, None, :].astype(A.real.dtype), Q.conj().swapaxes(-1, -2))
    smallest = np.where(kept > 0, kept, np.inf).min(-1)
    return W, np.where(failed, int(Status.NOT_POSITIVE), 0), kept[:, -1] / smallest


def _by_minimax(method: Minimax, A: Array, W: Array, scale: Array, job: Job) -> tuple[Array, Array, Array]:
    """Apply the schedule of `Minimax` to W."""
    backend, rule = job.backend, job.rule
    xp, B = backend.xp, len(A)
    largest = largest_eigenvalue(A, backend)
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
    cond = xp.ones(B) if raw.lambda_min is None else largest / raw.lambda_min
    status = xp.where(raw.status == int(Status.CONVERGED), 0, int(Status.NOT_POSITIVE))
    return raw.x, xp.where(zero | ~(cond > 0), int(Status.NOT_POSITIVE), status), cond


def _report(status: Array, cond: Array, n: int, job: Job) -> None:
    """Raise for failures and warn of lost digits; only this function waits for the device."""
    status, cond = on_host(status), on_host(cond)
    if status.any():
        first = int(np.flatnonzero(status)[0])
        why = {
            int(Status.NONFINITE_INPUT): "holds NaN or infinity",
            int(Status.NOT_SYMMETRIC): "is not symmetric",
            int(Status.DIVERGED): f"has one for which {job.origin.dtype_name} is too small",
        }.get(int(status[first]), "is not positive definite")
        raise RootError(
            f"{np.count_nonzero(status)} of {status.size} matrices have no inverse root; the first, {first} of the "
            f"flattened batch, {why}: add a ridge, "
            "or see solve(a, p).message"
        )
    if not (vouched(cond, n, job) & ~input_lost(cond, job)).all():
        worst = float(forward_error_bound(cond, job.problem.s, max(job.eps, job.out_eps)).max(initial=0.0))
        coarser = job.dtype.name if job.eps > job.out_eps else job.origin.dtype_name
        warnings.warn(
            f"ill-conditioned: cond {cond.max():.1e} leaves a relative error of up to {worst:.0e} in "
            f"{coarser}; add a ridge or use a wider dtype",
            ConditionWarning,
            stacklevel=4,  # one frame more than usual, from `confined`
        )
