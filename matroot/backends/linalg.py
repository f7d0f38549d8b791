"""Linear combinations of stacks of matrices, for arrays of any backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from matroot.backends.base import Backend

Array = Any


def combine(s: float, S: Array, m: float, M: Array, d: float, out: Array, scratch: Array, xp: Any) -> None:
    """Compute out = s S + m M + d I for C-ordered stacks (B, n, n); `out` may be S, and `scratch` is overwritten."""
    B, n, _ = out.shape
    if s == 0:
        xp.multiply(M, m, out=out)
    else:
        if s != 1 or out is not S:
            xp.multiply(S, s, out=out)
        xp.multiply(M, m, out=scratch)
        out += scratch
    out.reshape(B, n * n)[:, :: n + 1] += d


def add_to_diagonal(A: Array, value: Any) -> None:
    """Add value I to C-ordered matrices or stacks in place; value is a number or an array (B,)."""
    n = A.shape[-1]
    if not A.flags.c_contiguous:  # a reshaped copy would take the sum
        raise ValueError("the matrices must be in C order")
    A.reshape(*A.shape[:-2], n * n)[..., :: n + 1] += value if np.ndim(value) == 0 else value[..., None]


def hermitian_part(A: Array) -> Array:
    """Compute (A + A^H) / 2, Hermitian to the last bit and in the order of A."""
    other = A.swapaxes(-1, -2)
    if A.dtype.kind == "c":
        other = other.conj()  # has a name: numpy writes sums into large arrays without one, which keep their order
    with np.errstate(invalid="ignore"):  # an iteration that diverges leaves infinities of both signs
        H = A + other
    H *= 0.5
    return H


def adjoint(A: Array) -> Array:
    """Return the conjugate transpose of every matrix."""
    return (A.conj() if A.dtype.kind == "c" else A).swapaxes(-1, -2)


def thin_svd(A: Array, backend: Backend) -> tuple[Array, Array, Array]:
    """Compute the thin SVD of a stack; NaN where LAPACK fails."""
    xp = backend.xp
    try:
        U, S, Vh = xp.linalg.svd(A, full_matrices=False)
        return U, S, Vh
    except np.linalg.LinAlgError:
        if len(A) == 1:
            n = A.shape[-1]
            return xp.full_like(A, np.nan), xp.full((1, n), np.nan), xp.full((1, n, n), np.nan, A.dtype)
        each = [thin_svd(A[i : i + 1], backend) for i in range(len(A))]
        U, S, Vh = (xp.concatenate(parts) for parts in zip(*each, strict=True))
        return U, S, Vh
