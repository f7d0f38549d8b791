"""Norms of triangular matrices and their powers in O(n^2), from a few matrix-vector products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
Map = Callable[[Matrix], Matrix]

#: Below this an SVD costs no more than the estimate.
SMALL = 48
#: Lanczos steps: the largest singular value to some per cent, in practice far better.
LANCZOS_STEPS = 16


def extreme_singular_values(R: Matrix) -> tuple[float, float]:
    """2-norm of the upper (quasi-)triangular R, and 1 over that of its inverse (0 if R is singular).

    Exact for small n. Otherwise by Lanczos on R^H R and on its inverse: the first is a lower bound, the second
    an upper one.
    """
    from scipy.linalg import get_blas_funcs

    n = R.shape[0]
    if n <= SMALL:
        w = np.linalg.svd(R, compute_uv=False)
        return float(w[0]), float(w[-1])
    T = without_subdiagonal(R)
    adjoint = 2 if np.iscomplexobj(T) else 1
    trmv, trsv = get_blas_funcs(("trmv", "trsv"), (T,))
    largest = _norm(lambda v: trmv(T, trmv(T, v), trans=adjoint), n, T.dtype)
    if not np.diagonal(T).all():
        return largest, 0.0
    with np.errstate(all="ignore"):
        inverse = _norm(lambda v: trsv(T, trsv(T, v, trans=adjoint)), n, T.dtype)
    return largest, 1 / inverse if np.isfinite(inverse) else 0.0


def without_subdiagonal(R: Matrix) -> Matrix:
    """G R, upper triangular, with one Givens rotation for each 2 x 2 diagonal block; rotations act on disjoint rows."""
    T = R.copy(order="F")
    i = np.flatnonzero(np.diagonal(R, -1))
    if not len(i):
        return T
    a, c = T[i, i], T[i + 1, i]
    g = np.hypot(a, c)
    cos, sin = (a / g)[:, None], (c / g)[:, None]
    top, bottom = T[i], T[i + 1]
    T[i] = cos * top + sin * bottom
    T[i + 1] = cos * bottom - sin * top
    T[i + 1, i] = 0
    return T


def _norm(gram: Map, n: int, dtype: Any) -> float:
    """Square root of the largest eigenvalue of a Hermitian semidefinite map, by Lanczos from a fixed start."""
    v = _start(n, dtype)
    before = np.zeros_like(v)
    alpha: list[float] = []
    beta: list[float] = []
    b = 0.0
    for _ in range(min(n, LANCZOS_STEPS)):
        w = gram(v) - b * before
        alpha.append(float(np.vdot(v, w).real))
        w -= alpha[-1] * v
        b = float(np.linalg.norm(w))
        if not np.isfinite(b):
            return float("inf")
        if b == 0:
            break
        beta.append(b)
        before, v = v, w / b
    J = np.diag(alpha) + np.diag(beta[: len(alpha) - 1], 1) + np.diag(beta[: len(alpha) - 1], -1)
    return float(np.sqrt(np.linalg.eigvalsh(J)[-1]))


def power_radius(Z: Matrix, c: float | None = None, steps: int = 3) -> float:
    """max(||Z^2||^{1/2}, ||Z^3||^{1/3}), estimated; with `c`, of I - c Z instead of Z.

    It bounds ||Z^i||^{1/i} for every i >= 2 (Al-Mohy & Higham, SIAM J. Matrix Anal. Appl. 31(3), 2009, theorem
    4.2). A few power steps find a norm to within some 20 per cent; the root of it is as good as needed.
    """

    def times(v: Matrix) -> Matrix:
        return Z @ v if c is None else v - c * (Z @ v)

    def adjoint(v: Matrix) -> Matrix:
        v = v.conj()
        return (v @ Z if c is None else v - c * (v @ Z)).conj()

    def norm_of_power(j: int) -> float:
        v, size = _start(Z.shape[0], Z.dtype), 0.0
        for _ in range(steps):
            for _ in range(j):
                v = times(v)
            for _ in range(j):
                v = adjoint(v)
            size = float(np.linalg.norm(v))
            if size == 0 or not np.isfinite(size):
                break
            v /= size
        return float(np.sqrt(size))

    return max(norm_of_power(2) ** (1 / 2), norm_of_power(3) ** (1 / 3))


def _start(n: int, dtype: Any) -> Matrix:
    v = np.random.default_rng(0).standard_normal(n).astype(dtype)
    return v / np.linalg.norm(v)
