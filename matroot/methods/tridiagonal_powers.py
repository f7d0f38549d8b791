"""Powers s > 1 of large matrices: products with the matrix, of what is left of s, a root by poles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from matroot.backends.cpu.cpu import CPU
from matroot.backends.linalg import add_to_diagonal
from matroot.methods.base import Array, FloatArray
from matroot.methods.hermitian import hermitian_product
from matroot.methods.tridiagonal_form import beside, in_pairs
from matroot.methods.tridiagonal_report import SERVED


def raised(
    solver: Any, S: Array, out: Array, X: Array | None, shift: float, halves: FloatArray, factor: float
) -> tuple[float, float]:
    """Fill `out` with a power s > 1 of S + shift; return `served` and the residual.

    X is the upper triangle of the root that is left of s, None for whole s; `solver` is that of `tridiagonal_large`.
    """
    one, two = halves.tolist()
    A = S.astype(np.result_type(S.dtype, np.float64)) * one * two
    add_to_diagonal(A, shift)
    with np.errstate(over="ignore", invalid="ignore"):
        X = power(A, solver.s.numerator) if X is None else product(power(A, solver.more), X)
    solver.compiled.written(X, out, factor)
    pairs = map(in_pairs, (S, beside(S, out)))
    error = solver.compiled.certificate(*pairs, shift, halves, factor, solver.pairs, solver.order)
    return SERVED if math.isfinite(error) else 0.0, float(error)


def power(A: Array, k: int) -> Array:
    """Compute A^k for Hermitian A."""
    P = A
    for bit in bin(k)[3:]:
        P = hermitian_product(P, P, CPU())
        if bit == "1":
            P = hermitian_product(P, A, CPU())
    return P


def product(P: Array, X: Array) -> Array:
    """Compute P X for Hermitian matrices that commute; of X, the upper triangle is read."""
    return hermitian_product(P, np.triu(X) + np.triu(X, 1).conj().T, CPU())
