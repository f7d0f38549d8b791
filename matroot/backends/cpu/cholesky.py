"""Inverses of positive definite matrices by Cholesky's factorization, on the CPU.

LAPACK is scipy's here, and numpy has a BLAS of its own. Both are held at one thread: if threads of both wait for
each other, an inverse of n = 768 takes 50 to 160 ms on two cores and up to 1.5 s on four, instead of 25 to 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NDArray = np.ndarray


def inverses(A: NDArray) -> Callable[[NDArray], NDArray]:
    """Factorize A (B, n, n) by Cholesky, and return the map v -> A^{-1} v of stacks (B, n, 1).

    The map gives NaN where A is not positive definite in its precision. A is not written to.
    """
    from scipy.linalg import get_lapack_funcs

    potrf, potrs = get_lapack_funcs(("potrf", "potrs"), (A,))
    # LAPACK reads a C-ordered matrix as its conjugate: it solves conj(A) conj(w) = conj(v).
    factors = [potrf(a.T, lower=1, clean=0) for a in A]

    def apply(v: NDArray) -> NDArray:
        w = np.empty(v.shape, A.dtype)
        for i, (L, info) in enumerate(factors):
            w[i] = potrs(L, v[i].conj(), lower=1)[0].conj() if info == 0 else np.nan
        return w

    return apply


def inverse(A: NDArray) -> NDArray:
    """Compute A^{-1} of positive definite stacks, Hermitian to the last bit; NaN where A is not positive definite."""
    from scipy.linalg import get_lapack_funcs

    potrf, potri = get_lapack_funcs(("potrf", "potri"), (A,))
    X = np.empty_like(A, order="C")
    for a, x in zip(A, X, strict=True):
        L, failed = potrf(a.T, lower=1, clean=0)
        V, _ = (np.full_like(a, np.nan), 0) if failed else potri(L, lower=1, overwrite_c=1)
        # LAPACK fills the lower triangle of the transpose, which is the upper triangle of V.T.
        upper = np.triu(V.T)
        np.conj(upper.T, out=x)
        np.fill_diagonal(upper, 0)
        x += upper
    return X
