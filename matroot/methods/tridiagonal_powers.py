"""Powers s > 1 of large matrices: products with the matrix, of what is left of s, a root by poles."""

from __future__ import annotations

import numpy as np

from matroot.backends.cpu.cpu import CPU
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, FloatArray
from matroot.methods.hermitian import hermitian_product


def in_scale(S: Array, shift: float, halves: FloatArray) -> Array:
    """Return S times both halves, plus shift I, in double precision."""
    one, two = halves.tolist()
    A = S.astype(np.result_type(S.dtype, np.float64)) * one * two
    add_to_diagonal(A[None], np.full(1, shift))
    return A


def raised(A: Array, k: int, X: Array | None = None) -> Array:
    """Return A^k, or A^k X; of X, which commutes with A, the upper triangle is read. All are Hermitian."""
    backend, P = CPU(), A
    for bit in bin(k)[3:]:
        P = hermitian_product(P, P, backend)
        if bit == "1":
            P = hermitian_product(P, A, backend)
    if X is None:
        return P
    upper = np.triu(X)
    return hermitian_product(P, upper + np.triu(X, 1).conj().T, backend)
