"""Linear combinations of stacks of matrices, for arrays of any backend."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    A.reshape(*A.shape[:-2], n * n)[..., :: n + 1] += value if np.ndim(value) == 0 else value[..., None]


def hermitian_part(A: Array) -> Array:
    """Compute (A + A^H) / 2, Hermitian to the last bit."""
    other = A.swapaxes(-1, -2)
    H = A + (other.conj() if A.dtype.kind == "c" else other)
    H *= 0.5
    return H
